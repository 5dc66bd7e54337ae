# What splits and normalises text, for prompts as text: Oniguruma and utf8proc. Without them, token ids.
option(EDGETOK_TEXT "Text in and out, if Oniguruma and utf8proc are found" ON)

find_path(ONIGURUMA_INCLUDE_DIR oniguruma.h)
find_library(ONIGURUMA_LIBRARY onig)
find_path(UTF8PROC_INCLUDE_DIR utf8proc.h)
find_library(UTF8PROC_LIBRARY utf8proc)
mark_as_advanced(ONIGURUMA_INCLUDE_DIR ONIGURUMA_LIBRARY UTF8PROC_INCLUDE_DIR UTF8PROC_LIBRARY)

set(EDGETOK_TEXT_SOURCES src/no_text.cpp)
set(EDGETOK_TEXT_LIBRARIES)
set(EDGETOK_TEXT_INCLUDE_DIRS)
set(EDGETOK_TEXT_REQUIRES "")  # as pkg-config calls them
if(EDGETOK_TEXT AND ONIGURUMA_INCLUDE_DIR AND ONIGURUMA_LIBRARY AND UTF8PROC_INCLUDE_DIR AND UTF8PROC_LIBRARY)
  set(EDGETOK_TEXT_SOURCES src/pattern.cpp src/normal_form.cpp)
  set(EDGETOK_TEXT_LIBRARIES
    $<BUILD_INTERFACE:${ONIGURUMA_LIBRARY}> $<BUILD_INTERFACE:${UTF8PROC_LIBRARY}>
    $<INSTALL_INTERFACE:onig> $<INSTALL_INTERFACE:utf8proc>)
  set(EDGETOK_TEXT_INCLUDE_DIRS ${ONIGURUMA_INCLUDE_DIR} ${UTF8PROC_INCLUDE_DIR})
  set(EDGETOK_TEXT_REQUIRES "oniguruma libutf8proc")
elseif(EDGETOK_TEXT)
  message(STATUS "edgetok: no text, token ids only: Oniguruma or utf8proc was not found")
endif()
