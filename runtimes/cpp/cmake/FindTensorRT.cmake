# Finds TensorRT or TensorRT for RTX, and the CUDA runtime that engines are run with.
#
# Which of both it is, the headers say. Set TensorRT_ROOT and CUDAToolkit_ROOT to where they were
# unpacked, or TensorRT_INCLUDE_DIR, TensorRT_LIBRARY, TensorRT_CUDA_INCLUDE_DIR and
# TensorRT_CUDART_LIBRARY. Libraries of the pip wheels, which have a version in their name and no
# other, are found too.
#
# Makes the target TensorRT::TensorRT. TensorRT_IS_RTX says which of both was found.

find_path(TensorRT_INCLUDE_DIR NvInfer.h PATH_SUFFIXES include)
find_path(TensorRT_CUDA_INCLUDE_DIR cuda_runtime_api.h
  HINTS ${CUDAToolkit_ROOT} ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES include)
find_library(TensorRT_CUDART_LIBRARY NAMES cudart libcudart.so.13 libcudart.so.12 NAMES_PER_DIR
  HINTS ${CUDAToolkit_ROOT} ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES lib64 lib)

set(TensorRT_IS_RTX FALSE)
if(TensorRT_INCLUDE_DIR)
  set(_of NV_TENSORRT_)
  file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" _lines REGEX "^#define [A-Z_]+ [0-9]+")
  foreach(_kind ENTERPRISE RTX)  # from 10.14 on, the plain names refer to one of these
    foreach(_part MAJOR MINOR PATCH)
      if(_lines MATCHES "TRT_${_part}_${_kind} ([0-9]+)")
        set(_${_part} "${CMAKE_MATCH_1}")
        if(_kind STREQUAL RTX)
          set(TensorRT_IS_RTX TRUE)
        endif()
      elseif(_lines MATCHES "NV_TENSORRT_${_part} ([0-9]+)")
        set(_${_part} "${CMAKE_MATCH_1}")
      endif()
    endforeach()
  endforeach()
  set(TensorRT_VERSION "${_MAJOR}.${_MINOR}.${_PATCH}")
endif()

if(TensorRT_IS_RTX)
  find_library(TensorRT_LIBRARY NAMES tensorrt_rtx libtensorrt_rtx.so.1 NAMES_PER_DIR PATH_SUFFIXES lib64 lib)
else()
  find_library(TensorRT_LIBRARY NAMES nvinfer libnvinfer.so.11 libnvinfer.so.10 NAMES_PER_DIR PATH_SUFFIXES lib64 lib)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_LIBRARY TensorRT_INCLUDE_DIR TensorRT_CUDART_LIBRARY TensorRT_CUDA_INCLUDE_DIR
  VERSION_VAR TensorRT_VERSION)

# What `edgetok build` asks of its modules too: one number for two products would not do.
set(_oldest 10.3)
if(TensorRT_IS_RTX)
  set(_oldest 1.1)
endif()
if(TensorRT_FOUND AND TensorRT_VERSION VERSION_LESS _oldest)
  message(STATUS "TensorRT ${TensorRT_VERSION} is too old: edgetok needs ${_oldest}")
  set(TensorRT_FOUND FALSE)
endif()

if(TensorRT_FOUND AND NOT TARGET TensorRT::TensorRT)
  add_library(TensorRT::TensorRT UNKNOWN IMPORTED)
  set_target_properties(TensorRT::TensorRT PROPERTIES
    IMPORTED_LOCATION "${TensorRT_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_INCLUDE_DIR};${TensorRT_CUDA_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "${TensorRT_CUDART_LIBRARY}")
endif()
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_LIBRARY TensorRT_CUDA_INCLUDE_DIR TensorRT_CUDART_LIBRARY)
