# What `cmake --install` and `cpack` put where; part of CMakeLists.txt.

set(_package ${CMAKE_INSTALL_LIBDIR}/cmake/edgetok)

install(TARGETS edgetok EXPORT edgetokTargets)
install(DIRECTORY include/edgetok TYPE INCLUDE)
install(EXPORT edgetokTargets NAMESPACE edgetok:: DESTINATION ${_package})
if(EDGETOK_TOOL)
  install(TARGETS edgetok-cpp)
endif()

configure_package_config_file(cmake/edgetokConfig.cmake.in edgetokConfig.cmake INSTALL_DESTINATION ${_package})
write_basic_package_version_file(edgetokConfigVersion.cmake
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
install(FILES
  "${CMAKE_CURRENT_BINARY_DIR}/edgetokConfig.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/edgetokConfigVersion.cmake"
  DESTINATION ${_package})

# Who links a shared library needs none of what it is made of, nor its packages.
set(EDGETOK_PC_REQUIRES)
set(EDGETOK_PC_LIBS)
get_target_property(_kind edgetok TYPE)
if(_kind STREQUAL STATIC_LIBRARY)
  configure_file(cmake/edgetokDependencies.cmake.in edgetokDependencies.cmake @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/edgetokDependencies.cmake"
    cmake/FindOnnxRuntime.cmake cmake/FindTensorRT.cmake cmake/FindWebP.cmake
    cmake/FindOniguruma.cmake cmake/FindUtf8proc.cmake
    DESTINATION ${_package})
  set(EDGETOK_PC_REQUIRES "libcrypto protobuf libjpeg libpng")
  if(WebP_FOUND)
    string(APPEND EDGETOK_PC_REQUIRES " libwebpdemux libwebp")
  endif()
  if(Oniguruma_FOUND AND Utf8proc_FOUND)
    string(APPEND EDGETOK_PC_REQUIRES " oniguruma libutf8proc")
  endif()
  set(EDGETOK_PC_LIBS "-L${EDGETOK_ORT_FOLDER} -lonnxruntime -lstdc++ -lm -lpthread -ldl")
  if(TensorRT_FOUND)
    string(APPEND EDGETOK_PC_LIBS " ${TensorRT_LIBRARY} ${TensorRT_CUDART_LIBRARY}")
  endif()
endif()
file(RELATIVE_PATH EDGETOK_PC_PREFIX "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file(cmake/edgetok.pc.in edgetok.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/edgetok.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

if(EDGETOK_ARCHIVE)
  include(cmake/archive.cmake)
endif()
