#!/bin/sh
# Gets what the C++ library is built from, and nothing that is there already:
#   compiler, CMake, what packages.txt names     from apt (needs root)
#   the headers of ONNX Runtime                  from Debian's libonnxruntime-dev, only unpacked
#   the library of ONNX Runtime, onnx-ml.proto   from the pip wheels that Python uses
#
# Usage: prepare.sh PYTHON FOLDER
set -eu

python=$1
folder=$2
packages="cmake g++ make pkg-config protobuf-compiler $(cat "$(dirname "$0")/packages.txt")"
headers=$folder/include/onnxruntime
have=$folder/onnxruntime

# Ubuntu has its own names.
if grep -q '^ID=ubuntu' /etc/os-release 2>/dev/null; then
  packages=$(echo "$packages" | sed 's/libjpeg62-turbo-dev/libjpeg-turbo8-dev/')
fi

is_installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

say_and_stop() { echo "make cpp: $1" >&2; exit 1; }

install_packages() {
  missing=
  for package in $packages; do
    is_installed "$package" || missing="$missing $package"
  done
  [ -z "$missing" ] && return
  command -v apt-get >/dev/null || say_and_stop "needs$missing, or what your system calls them"
  [ "$(id -u)" = 0 ] || say_and_stop "needs$missing; run: sudo apt-get install$missing"
  DEBIAN_FRONTEND=noninteractive
  export DEBIAN_FRONTEND
  apt-get update -q
  # shellcheck disable=SC2086  # one word a package
  apt-get install -q -y --no-install-recommends $missing
}

# Where this machine gets the packages of its own release from.
find_mirror() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
    "Codename: $(. /etc/os-release; echo "$VERSION_CODENAME")" | head -n 1
}

# Debian 12 has no libonnxruntime-dev, so the next release's is unpacked, not installed. The C API
# only grows: older headers go with a newer library.
unpack_headers() {
  [ -f "$headers/onnxruntime_cxx_api.h" ] && return
  if [ -f /usr/include/onnxruntime/onnxruntime_cxx_api.h ]; then
    mkdir -p "$folder/include"
    ln -sfn /usr/include/onnxruntime "$headers"
    return
  fi
  apt=$folder/apt
  mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$folder/include"
  key=/usr/share/keyrings/debian-archive-keyring.gpg
  mirror=$(find_mirror)
  [ -n "$mirror" ] || { apt-get update -q; mirror=$(find_mirror); }
  [ -n "$mirror" ] || say_and_stop "no package source for $(. /etc/os-release; echo "$PRETTY_NAME") that has Debian 13, too"
  echo "deb [signed-by=$key] $mirror trixie main" > "$apt/sources.list"
  set -- -q -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt" -o APT::Sandbox::User="$(id -un)"
  apt-get "$@" update
  (cd "$apt" && apt-get "$@" download libonnxruntime-dev)
  dpkg -x "$apt"/libonnxruntime-dev_*.deb "$apt/root"
  cp -r "$apt/root/usr/include/onnxruntime" "$headers"
  rm -rf "$apt"
}

# The wheel's library has no name that a linker looks for.
link_library() {
  capi=$("$python" -c 'import importlib.util as u; print(u.find_spec("onnxruntime").submodule_search_locations[0])')/capi
  library=$(ls "$capi"/libonnxruntime.so.1.* 2>/dev/null | head -n 1)
  [ -n "$library" ] || say_and_stop "no libonnxruntime.so in $capi; pip install onnxruntime"
  mkdir -p "$have"
  # Its symbols carry its version, so what was linked with another one must be linked again.
  if [ "$(readlink "$have/libonnxruntime.so.1")" != "$library" ]; then
    rm -f "$folder"/../*/libedgetok.*
  fi
  ln -sf "$library" "$have/libonnxruntime.so.1"
  ln -sf libonnxruntime.so.1 "$have/libonnxruntime.so"
  onnx=$("$python" -c 'import importlib.util as u; print(u.find_spec("onnx").submodule_search_locations[0])')
  cp "$onnx/onnx-ml.proto" "$folder/onnx-ml.proto.new"
  cmp -s "$folder/onnx-ml.proto.new" "$folder/onnx-ml.proto" ||
    mv "$folder/onnx-ml.proto.new" "$folder/onnx-ml.proto"
  rm -f "$folder/onnx-ml.proto.new"
}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
headers=$folder/include/onnxruntime
have=$folder/onnxruntime
install_packages
unpack_headers
link_library
