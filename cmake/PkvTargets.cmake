# Helpers for the targets of src/: common flags, one static library a folder.

add_library(pkv_flags INTERFACE)
target_compile_features(pkv_flags INTERFACE cxx_std_20)
target_compile_options(pkv_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion>
  $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 -Xcompiler=-Wall,-Wextra>)
if(PKV_WARNINGS_AS_ERRORS)
  target_compile_options(pkv_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Werror> $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings -Xcompiler=-Werror>)
endif()
if(PKV_SANITIZE)
  add_compile_options(-fsanitize=${PKV_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${PKV_SANITIZE})
endif()
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# pkv_library(NAME SOURCES ... DEPS ... PRIVATE_DEPS ... [OPTIMISE_SANITIZED OFF]): the static library pkv_NAME of one
# folder. OPTIMISE_SANITIZED OFF: text and JSON, which g++ compiles half as long without -O1 under sanitizers.
function(pkv_library name)
  cmake_parse_arguments(ARG "" "OPTIMISE_SANITIZED" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(pkv_${name} STATIC ${ARG_SOURCES})
  target_include_directories(pkv_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(pkv_${name} PUBLIC ${ARG_DEPS} PRIVATE pkv_flags ${ARG_PRIVATE_DEPS})
  if(DEFINED ARG_OPTIMISE_SANITIZED AND NOT ARG_OPTIMISE_SANITIZED AND PKV_SANITIZE)
    target_compile_options(pkv_${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-O0>)
  endif()
endfunction()

# pkv_test(NAME SOURCES ... DEPS ... [LABELS ...] [DISCOVER OFF] [SANITIZE OFF]): a GoogleTest program; it links only
# what it names, so that a dependency against the direction of the pipeline fails to link. DISCOVER OFF: ctest does
# not know its tests. SANITIZE OFF: for a program that only runs others. Optimising tests and reading GoogleTest's
# headers took a quarter of a Release build: tests are not optimised (a sanitizer's build keeps its -O1), and the
# headers are compiled once.
if(NOT PKV_SANITIZE)
  set(pkv_test_flags $<$<COMPILE_LANGUAGE:CXX>:-O0>)
endif()
function(pkv_test name)
  cmake_parse_arguments(ARG "" "DISCOVER;SANITIZE" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE pkv_flags ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_options(${name} PRIVATE ${pkv_test_flags})
  if(DEFINED ARG_SANITIZE AND NOT ARG_SANITIZE AND PKV_SANITIZE)
    target_compile_options(${name} PRIVATE -fno-sanitize=all)
    target_precompile_headers(${name} PRIVATE <gtest/gtest.h> <gmock/gmock.h>)
  else()
    if(NOT TARGET pkv_test_headers)
      add_executable(pkv_test_headers EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/tests/support/headers.cc)
      target_link_libraries(pkv_test_headers PRIVATE pkv_flags GTest::gmock GTest::gtest_main)
      target_compile_options(pkv_test_headers PRIVATE ${pkv_test_flags})
      target_precompile_headers(pkv_test_headers PRIVATE <gtest/gtest.h> <gmock/gmock.h>)
    endif()
    target_precompile_headers(${name} REUSE_FROM pkv_test_headers)
  endif()
  if(DEFINED ARG_DISCOVER AND NOT ARG_DISCOVER)
    return()
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 600)
endfunction()
