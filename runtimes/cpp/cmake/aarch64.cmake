# Toolchain file: for 64-bit ARM, with Debian's g++-aarch64-linux-gnu and what prepare_aarch64.sh unpacked.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

get_filename_component(_root "${CMAKE_CURRENT_LIST_DIR}/../../../build/cpp/deps/aarch64/root" ABSOLUTE)
set(CMAKE_CXX_FLAGS_INIT "-isystem ${_root}/usr/include/aarch64-linux-gnu")  # OpenSSL has some of its there
set(_libraries "${_root}/usr/lib/aarch64-linux-gnu" "${_root}/lib/aarch64-linux-gnu")
list(JOIN _libraries ":" _joined)
set(CMAKE_EXE_LINKER_FLAGS_INIT "-Wl,-rpath-link,${_joined}")  # a library's own needs
set(CMAKE_FIND_ROOT_PATH "${_root}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)  # protoc runs here
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

# For archive.cmake: where libraries and licences are, and how to learn what a library needs.
set(EDGETOK_NOTICES_ROOT "${_root}")
set(EDGETOK_NEEDS_FOLDERS ${_libraries})
set(CMAKE_GET_RUNTIME_DEPENDENCIES_PLATFORM linux+elf)
set(CMAKE_GET_RUNTIME_DEPENDENCIES_TOOL objdump)
set(CMAKE_GET_RUNTIME_DEPENDENCIES_COMMAND aarch64-linux-gnu-objdump)
