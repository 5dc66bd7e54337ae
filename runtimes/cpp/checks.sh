#!/bin/sh
# Checks the C++ library: clang-tidy, the sanitizers over its tests, threads, memory.
#
# Usage: checks.sh PYTHON [tidy|sanitize|threads|soak ...]     all of them when none is named
# Exits with 69 if something cannot be got, with another number if a check fails.
set -eu

python=$1
shift
[ $# -gt 0 ] || set -- tidy sanitize threads soak
case $python in
  */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
tests=tests/runtimes/cpp
suppressions=$here/tests/suppressions

# pytest on a build that is there already.
run_tests() {
  build=$1
  shift
  EDGETOK_CPP_BUILD=$PWD/build/cpp/$build "$python" -m pytest -q -p no:cacheprovider "$@"
}

check_tidy() {
  command -v clang-tidy >/dev/null || { echo "cpp-checks: needs clang-tidy; apt-get install clang-tidy" >&2; exit 69; }
  "$here/build.sh" "$python" shared
  # What this machine compiles: tensorrt.cpp is not among it without TensorRT's headers.
  (cd "$here" && find src tool examples tests -name '*.c' -o -name '*.cpp' | sort) |
    while read -r file; do grep -q "/$file\"" build/cpp/shared/compile_commands.json && echo "$file"; done |
    (cd "$here" && xargs -P "$(nproc)" -n 2 clang-tidy --quiet -p ../../build/cpp/shared)
}

# Python frees little when it ends, so of the leaks that are found in it only ours count; what is
# found in our own programs all counts.
check_sanitize() {
  "$here/build.sh" "$python" sanitize
  reports=$PWD/build/cpp/sanitize/reports
  rm -rf "$reports"
  mkdir -p "$reports"
  # What consumers link is not sanitized, and exporting, which test_backends.py does, limits memory that
  # sanitizers have much of. libstdc++ too, or exceptions could not be watched: Python itself does not load it.
  LD_PRELOAD=$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libstdc++.so) \
    ASAN_OPTIONS=abort_on_error=1:exitcode=0:log_path="$reports/memory" \
    UBSAN_OPTIONS=abort_on_error=1:print_stacktrace=1:log_path="$reports/undefined" \
    run_tests sanitize "$tests" --ignore="$tests/test_programs.py" --ignore="$tests/test_consumer.py" \
    --ignore="$tests/test_backends.py" || found=yes
  if [ -n "${found-}" ] || grep -q libedgetok "$reports"/* 2>/dev/null; then
    cat "$reports"/* | grep -B 12 -A 12 libedgetok | head -n 200
    echo "cpp-checks: the reports are in $reports" >&2
    exit 1
  fi
  LSAN_OPTIONS=suppressions=$suppressions/leaks:print_suppressions=0 UBSAN_OPTIONS=print_stacktrace=1 \
    run_tests sanitize "$tests/test_programs.py"
}

check_threads() {
  "$here/build.sh" "$python" threads
  TSAN_OPTIONS=suppressions=$suppressions/threads:halt_on_error=1 run_tests threads "$tests/test_programs.py" -k "threads or short"
}

check_soak() {
  "$here/build.sh" "$python" shared
  run_tests shared "$tests/test_programs.py" -m slow -k memory -s
}

for part in "$@"; do
  "check_$part"
done
