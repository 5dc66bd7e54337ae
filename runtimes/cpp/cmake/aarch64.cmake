# Toolchain file: for 64-bit ARM, with Debian's g++-aarch64-linux-gnu and what prepare_aarch64.sh unpacked.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

get_filename_component(EDGETOK_NOTICES_ROOT "${CMAKE_CURRENT_LIST_DIR}/../../../build/cpp/deps/aarch64/root" ABSOLUTE)
set(EDGETOK_NEEDS_FOLDERS "${EDGETOK_NOTICES_ROOT}/usr/lib/aarch64-linux-gnu" "${EDGETOK_NOTICES_ROOT}/lib/aarch64-linux-gnu")
set(CMAKE_FIND_ROOT_PATH "${EDGETOK_NOTICES_ROOT}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)  # protoc runs here
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

# How `cmake --install` learns what a library needs.
set(CMAKE_GET_RUNTIME_DEPENDENCIES_PLATFORM linux+elf)
set(CMAKE_GET_RUNTIME_DEPENDENCIES_TOOL objdump)
set(CMAKE_GET_RUNTIME_DEPENDENCIES_COMMAND aarch64-linux-gnu-objdump)
