#!/bin/sh
# Builds the C++ library into build/cpp/PRESET, after getting what it is built from.
#
# Usage: build.sh PYTHON [PRESET]
# Exits with 69 if something cannot be got, with another number if it cannot be built.
set -eu

python=$1
preset=${2:-shared}
here=$(cd "$(dirname "$0")" && pwd)
case $python in
  */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;;
esac

"$here/prepare.sh" "$python" "$here/../../build/cpp/deps" || exit 69
if [ "$preset" = aarch64 ]; then
  "$here/prepare_aarch64.sh" "$python" "$here/../../build/cpp/deps/aarch64" || exit 69
fi
cd "$here"
cmake --preset "$preset" --log-level=WARNING
cmake --build --preset "$preset" -- -j"$(nproc)"
