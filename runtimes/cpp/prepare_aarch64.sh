#!/bin/sh
# Gets what the C++ library for 64-bit ARM is built from, beside what prepare.sh got:
#   compiler                    from apt (needs root)
#   what packages.txt names     from this Debian release for arm64, only unpacked: the system stays as it is
#   library of ONNX Runtime     from its pip wheel for aarch64, of the version that Python uses here
#
# Usage: prepare_aarch64.sh PYTHON FOLDER
set -eu

python=$1

say_and_stop() { echo "make cpp-aarch64: $1" >&2; exit 1; }

install_compiler() {
  command -v aarch64-linux-gnu-g++ >/dev/null && return
  [ "$(id -u)" = 0 ] || say_and_stop "run: sudo apt-get install g++-aarch64-linux-gnu"
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends g++-aarch64-linux-gnu
}

# The same release as the compiler's: protoc runs here, and the C library must not be newer there.
unpack_packages() {
  cmp -s "$folder/root/.complete" "$here/packages.txt" && return
  release=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") ||
    say_and_stop "this machine is not Debian, whose packages for arm64 are what it links"
  rm -rf "$folder/apt" "$folder/root"
  mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial" "$folder/root"
  : > "$folder/apt/status"
  # where this machine gets its own packages from
  key=/usr/share/keyrings/debian-archive-keyring.gpg
  apt-get indextargets --format "deb [signed-by=$key] \$(REPO_URI) \$(RELEASE) main" 'Created-By: Packages' |
    grep " $release" | sort -u > "$folder/apt/sources.list"
  set -- -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User="$(id -un)" \
    -o Dir::Etc::sourcelist="$folder/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::lists="$folder/apt/lists" -o Dir::State::status="$folder/apt/status" \
    -o Dir::Cache="$folder/apt" -o Debug::NoLocking=1
  apt-get "$@" update
  # shellcheck disable=SC2046  # one word a package
  apt-get "$@" install --download-only --no-install-recommends -y $(cat "$here/packages.txt")
  for package in "$folder"/apt/archives/*.deb; do
    case $(basename "$package") in
      libc6-dev_* | libc-dev-bin_* | linux-libc-dev_* | libcrypt-dev_*) ;; # the compiler has its own
      *) dpkg -x "$package" "$folder/root" ;;
    esac
  done
  rm -rf "$folder/apt"
  cp "$here/packages.txt" "$folder/root/.complete"
}

link_library() {
  version=$("$python" -c 'import importlib.metadata as m; print(m.version("onnxruntime"))')
  wheel=$folder/onnxruntime-$version
  if [ ! -d "$wheel" ]; then
    rm -rf "$folder/wheel"
    "$python" -m pip download -q --no-deps --only-binary :all: --platform manylinux_2_27_aarch64 \
      --platform manylinux_2_28_aarch64 -d "$folder/wheel" "onnxruntime==$version"
    "$python" -m zipfile -e "$folder"/wheel/onnxruntime-*.whl "$folder/wheel"
    mv "$folder/wheel" "$wheel"
  fi
  library=$(ls "$wheel"/onnxruntime/capi/libonnxruntime.so.1.* | head -n 1)
  mkdir -p "$folder/onnxruntime"
  ln -sf "$library" "$folder/onnxruntime/libonnxruntime.so.1"
  ln -sf libonnxruntime.so.1 "$folder/onnxruntime/libonnxruntime.so"
}

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$2"
folder=$(cd "$2" && pwd)
install_compiler
unpack_packages
link_library
