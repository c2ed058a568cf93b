# Tests of CUDA kernels without a GPU: see tests/cuda_emulator/README.md.
#
# braid_emulated_test(NAME [HOST] SRCS foo_test.cc KERNELS foo.cu EMULATED k DEPS x y)
#   three programs of the same sources, <NAME>_plain, <NAME>_asan (and undefined behaviour) and <NAME>_tsan. A kernel is
#   C++ here, with simt.h before it. DEPS are ordinary targets, which no sanitizer sees into. HOST: with the fakes of
#   CUDA's libraries, for code that calls them and for launches that streams run.
# braid_emulated_library(NAME SRCS foo.cc KERNELS foo.cu EMULATED k DEPS x y)
#   the same of what several programs use, by the name that EMULATED of theirs says.
# braid_emulated_binary(NAME SRCS main.cc KERNELS foo.cu EMULATED k DEPS x y)
#   one program in build/<preset>/tests, with the fakes and without sanitizers: a main that knows of no emulator.
set(BRAID_NO_EMULATOR)
if(NOT BRAID_CUDA_HEADERS)
  set(BRAID_NO_EMULATOR ${BRAID_CUDA_HEADERS_MISSING})
elseif(NOT CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  set(BRAID_NO_EMULATOR "the emulator switches stacks by x86-64 code, this is ${CMAKE_SYSTEM_PROCESSOR}")
elseif(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(BRAID_NO_EMULATOR "clang's ThreadSanitizer goes blind with as many fibers, GCC's does not")
elseif(BRAID_SANITIZE)
  set(BRAID_NO_EMULATOR "the emulated tests have sanitizers of their own in any build without")
endif()

if(BUILD_TESTING AND BRAID_NO_EMULATOR)
  message(STATUS "CUDA kernels are not tested: ${BRAID_NO_EMULATOR}")
  set(test_name "CUDA kernels (${BRAID_NO_EMULATOR})")  # ctest's summary says why
  add_test(NAME ${test_name} COMMAND ${CMAKE_COMMAND} -E echo SKIPPED)
  set_tests_properties(${test_name} PROPERTIES SKIP_REGULAR_EXPRESSION SKIPPED LABELS cuda_emulator)
endif()

set(BRAID_EMULATED_OPTIONS_plain)
set(BRAID_EMULATED_OPTIONS_asan -fsanitize=address,undefined -fno-sanitize-recover=undefined)
set(BRAID_EMULATED_OPTIONS_tsan -fsanitize=thread)

# Sets <out> to the kernels' C++ files.
function(braid_wrap_kernels out)
  set(wrappers)
  foreach(kernel ${ARGN})
    get_filename_component(absolute ${kernel} ABSOLUTE)
    file(RELATIVE_PATH path ${PROJECT_SOURCE_DIR} ${absolute})
    set(wrapper ${PROJECT_BINARY_DIR}/emulated/${path}.cc)
    file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"tests/cuda_emulator/simt.h\"\n#include \"${path}\"\n")
    list(APPEND wrappers ${wrapper})
  endforeach()
  set(${out} ${wrappers} PARENT_SCOPE)
endfunction()

# How `target` is compiled and linked as one of a kind. Lines in reports need -g1. Vectors of memory are other types than
# what lies there, as nvcc has it.
function(braid_emulate target kind)
  cmake_parse_arguments(ARG "" "" "EMULATED;DEPS" ${ARGN})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
  target_compile_options(${target} PRIVATE ${BRAID_COMPILE_OPTIONS} -Wno-unknown-pragmas -O1 -g1 -fno-omit-frame-pointer
                         -fno-strict-aliasing -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/= ${BRAID_EMULATED_OPTIONS_${kind}})
  target_link_options(${target} PRIVATE ${BRAID_EMULATED_OPTIONS_${kind}})
  list(TRANSFORM ARG_EMULATED APPEND _${kind})
  target_link_libraries(${target} PRIVATE ${ARG_EMULATED} ${ARG_DEPS} simt_${kind})
endfunction()

# Object libraries: a program has all of one, wherever in the link what needs it stands.
function(braid_emulated_library name)
  if(NOT BUILD_TESTING OR BRAID_NO_EMULATOR)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SRCS;KERNELS;EMULATED;DEPS" ${ARGN})
  braid_wrap_kernels(kernels ${ARG_KERNELS})
  foreach(kind plain asan tsan)
    add_library(${name}_${kind} OBJECT EXCLUDE_FROM_ALL ${ARG_SRCS} ${kernels})
    braid_emulate(${name}_${kind} ${kind} EMULATED ${ARG_EMULATED} DEPS ${ARG_DEPS})
  endforeach()
endfunction()

function(braid_emulated_test name)
  if(NOT BUILD_TESTING OR BRAID_NO_EMULATOR)
    return()
  endif()
  cmake_parse_arguments(ARG "HOST" "TIMEOUT" "SRCS;KERNELS;EMULATED;DEPS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(ARG_HOST)
    list(APPEND ARG_EMULATED fake_cuda)
  endif()
  braid_wrap_kernels(kernels ${ARG_KERNELS})
  foreach(kind plain asan tsan)
    set(target ${name}_${kind})
    add_executable(${target} ${ARG_SRCS} ${kernels} ${PROJECT_SOURCE_DIR}/tests/cuda_emulator/main.cc)
    set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    braid_emulate(${target} ${kind} EMULATED ${ARG_EMULATED} DEPS ${ARG_DEPS} GTest::gmock GTest::gtest)
    add_test(NAME ${target} COMMAND ${target} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(${target} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS cuda_emulator)
  endforeach()
endfunction()

function(braid_emulated_binary name)
  if(NOT BUILD_TESTING OR BRAID_NO_EMULATOR)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SRCS;KERNELS;EMULATED;DEPS" ${ARGN})
  braid_wrap_kernels(kernels ${ARG_KERNELS})
  add_executable(${name} ${ARG_SRCS} ${kernels})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  braid_emulate(${name} plain EMULATED ${ARG_EMULATED} fake_cuda DEPS ${ARG_DEPS} Threads::Threads)
  target_compile_options(${name} PRIVATE -O2)
endfunction()
