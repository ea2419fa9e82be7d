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

# pkv_library(NAME SOURCES ... DEPS ... PRIVATE_DEPS ... [OPTIMISE_SANITIZED OFF] [TEXT ...]): the static library
# pkv_NAME of one folder. OPTIMISE_SANITIZED OFF for all of it, TEXT for some of its sources: text and JSON, which g++
# compiles half as long without -O1 under sanitizers. (All libraries at -O0 compile 1.4 times as fast, and src/trace
# then reads JSON several times as slowly: nothing gained. Nor was anything by precompiled headers of fmt and JSON.)
function(pkv_library name)
  cmake_parse_arguments(ARG "" "OPTIMISE_SANITIZED" "SOURCES;DEPS;PRIVATE_DEPS;TEXT" ${ARGN})
  add_library(pkv_${name} STATIC ${ARG_SOURCES})
  target_include_directories(pkv_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(pkv_${name} PUBLIC ${ARG_DEPS} PRIVATE pkv_flags ${ARG_PRIVATE_DEPS})
  if(DEFINED ARG_OPTIMISE_SANITIZED AND NOT ARG_OPTIMISE_SANITIZED AND PKV_SANITIZE)
    target_compile_options(pkv_${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-O0>)
  endif()
  if(PKV_SANITIZE AND ARG_TEXT)
    set_property(SOURCE ${ARG_TEXT} APPEND PROPERTY COMPILE_OPTIONS -O0)
  endif()
endfunction()

# pkv_test(NAME SOURCES ... DEPS ... [LABELS ...] [DISCOVER OFF] [SANITIZE OFF] [COMPUTES ON]): a GoogleTest program;
# it links only what it names, so that a dependency against the direction of the pipeline fails to link. DISCOVER OFF:
# ctest does not know its tests. SANITIZE OFF: for a program that only runs others. COMPUTES ON: for one whose own code
# takes long to run without -O1. Optimising tests and reading GoogleTest's headers took a quarter of a Release build:
# other tests are not optimised, and the headers are compiled once a set of flags. (Under ThreadSanitizer -O0 compiles
# no faster than -O1.)
function(pkv_test name)
  cmake_parse_arguments(ARG "" "DISCOVER;SANITIZE;COMPUTES" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  set(flags -O0)
  if(ARG_COMPUTES OR PKV_SANITIZE STREQUAL "thread")
    set(flags -O1)
  endif()
  if(PKV_SANITIZE AND DEFINED ARG_SANITIZE AND NOT ARG_SANITIZE)
    list(APPEND flags -fno-sanitize=all)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE pkv_flags ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_options(${name} PRIVATE ${flags})
  string(MAKE_C_IDENTIFIER "pkv_test_headers${flags}" headers)
  if(NOT TARGET ${headers})
    add_executable(${headers} EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/tests/support/headers.cc)
    target_link_libraries(${headers} PRIVATE pkv_flags GTest::gmock GTest::gtest_main)
    target_compile_options(${headers} PRIVATE ${flags})
    target_precompile_headers(${headers} PRIVATE <gtest/gtest.h> <gmock/gmock.h>)
  endif()
  target_precompile_headers(${name} REUSE_FROM ${headers})
  if(DEFINED ARG_DISCOVER AND NOT ARG_DISCOVER)
    return()
  endif()
  if(PKV_SANITIZE)
    pkv_test_in_parts(${name} "${ARG_LABELS}")
  else()
    gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 600)
  endif()
endfunction()

# ctest knows a program, if it was built, by a few entries PROGRAM.part_I_of_N: under sanitizers each start costs a
# tenth of a second, and there are 900 tests. GoogleTest deals them to the parts in turn (GTEST_SHARD_INDEX), so that
# every core has work to the end; scripts/test counts them by what a part prints.
function(pkv_test_in_parts name labels)
  set(parts 8)
  set(entries "if(EXISTS \"$<TARGET_FILE:${name}>\")\n")
  foreach(part RANGE 1 ${parts})
    math(EXPR index "${part} - 1")
    set(entry ${name}.part_${part}_of_${parts})
    string(APPEND entries "  add_test(${entry} \"$<TARGET_FILE:${name}>\")\n"
      "  set_tests_properties(${entry} PROPERTIES LABELS \"${labels}\" TIMEOUT 1500\n"
      "    WORKING_DIRECTORY \"${CMAKE_CURRENT_BINARY_DIR}\"\n"
      "    ENVIRONMENT \"GTEST_TOTAL_SHARDS=${parts};GTEST_SHARD_INDEX=${index}\")\n")
  endforeach()
  file(GENERATE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${name}_parts.cmake CONTENT "${entries}endif()\n")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${CMAKE_CURRENT_BINARY_DIR}/${name}_parts.cmake)
endfunction()
