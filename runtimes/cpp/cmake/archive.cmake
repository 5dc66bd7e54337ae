# A release archive: beside the library lies what it needs and a system may have in another version,
# with the licences of all of it. Part of install.cmake.

if(NOT BUILD_SHARED_LIBS)
  message(FATAL_ERROR "EDGETOK_ARCHIVE makes archives of the shared library: set BUILD_SHARED_LIBS=ON")
endif()

set_target_properties(edgetok PROPERTIES INSTALL_RPATH "$ORIGIN")
# RPATH instead of RUNPATH: what lies beside the library finds its own needs there, too.
target_link_options(edgetok PRIVATE LINKER:--disable-new-dtags)
if(EDGETOK_TOOL)
  set_target_properties(edgetok-cpp PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
endif()

# Not the compiler's and the C library's own: a process has one of each, and the newest serves all.
install(TARGETS edgetok RUNTIME_DEPENDENCY_SET needs)
install(RUNTIME_DEPENDENCY_SET needs
  PRE_EXCLUDE_REGEXES "^lib(c|m|dl|rt|pthread|stdc\\+\\+|gcc_s)\\.so" "^ld-linux"
  DIRECTORIES ${EDGETOK_NEEDS_FOLDERS})

function(install_notice file name)
  if(NOT EXISTS "${file}")
    message(FATAL_ERROR "${file}: an archive needs this licence; install the package it comes from")
  endif()
  install(FILES "${file}" RENAME "${name}" DESTINATION share/doc/edgetok/third-party)
endfunction()

# Debian and Ubuntu keep the licence of a package here; a cross build has them under its own root.
file(STRINGS packages.txt _packages)
foreach(_package ${_packages})
  install_notice("${EDGETOK_NOTICES_ROOT}/usr/share/doc/${_package}/copyright" ${_package}.txt)
endforeach()
# The wheel has its own beside the folder of the library.
get_filename_component(_library "${OnnxRuntime_LIBRARY}" REALPATH)
get_filename_component(_wheel "${_library}/../.." ABSOLUTE)
install_notice("${_wheel}/LICENSE" onnxruntime.txt)
install_notice("${_wheel}/ThirdPartyNotices.txt" onnxruntime-third-party.txt)
install(FILES ../../LICENSE DESTINATION share/doc/edgetok)
install(DIRECTORY examples DESTINATION share/edgetok)

set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_VENDOR edgetok)
set(CPACK_PACKAGE_FILE_NAME edgetok-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_STRIP_FILES ON)
include(CPack)
