# The kernels of kernels/cuda, compiled by nvcc for every architecture we serve on, where a toolkit is installed.
#
# braid_cuda_kernels(NAME KERNELS a.cu b.cu FP8 b.cu)   the target NAME: an object a.cu.o for each, and a.cu.ptxas, what
#   the assembler said of it. Those of FP8 are for 8.9, too, whose tensor cores have it, where the others are for 8.0.
#   A warning, a spilled register or local memory is an error. With BRAID_CUDA it is a library, to be linked with what
#   calls the kernels; else it is built by nobody but the test cuda_kernels_compile, wherever there is an nvcc.
option(BRAID_CUDA "Build the CUDA kernels" OFF)
find_program(BRAID_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin /opt/cuda/bin)
set(BRAID_CUDA_ARCHITECTURES 80 90a 100a CACHE STRING "GPUs to compile kernels for")
set(BRAID_CUDA_FP8_ARCHITECTURES ${BRAID_CUDA_ARCHITECTURES})
if(80 IN_LIST BRAID_CUDA_ARCHITECTURES AND NOT 89 IN_LIST BRAID_CUDA_ARCHITECTURES)
  list(APPEND BRAID_CUDA_FP8_ARCHITECTURES 89)
endif()

if(BRAID_CUDA AND NOT BRAID_NVCC)
  message(FATAL_ERROR "BRAID_CUDA is on, but there is no nvcc: install the CUDA 13 toolkit or set BRAID_NVCC")
endif()

# What worker_exchange_nccl needs in a program that is to run on GPUs.
if(BRAID_CUDA AND BRAID_NCCL_HEADERS)
  find_library(BRAID_NCCL_LIBRARY NAMES nccl libnccl.so.2
               HINTS ${BRAID_NCCL_H}/../lib ${BRAID_NCCL_H}/../lib64 $ENV{CUDA_HOME}/lib64 REQUIRED)
  add_library(nccl_library INTERFACE)
  target_link_libraries(nccl_library INTERFACE ${BRAID_NCCL_LIBRARY})
endif()

# Without contraction: see kernels/cuda/numbers.h.
set(BRAID_NVCC_OPTIONS -std=c++20 -O3 -fmad=false -Werror all-warnings
    -Xptxas -v,-warn-spills,-warn-lmem-usage,-Werror -Xcompiler -fPIC)

function(braid_cuda_kernels name)
  cmake_parse_arguments(ARG "" "" "KERNELS;FP8" ${ARGN})
  if(NOT BRAID_NVCC)
    return()
  endif()
  set(objects)
  foreach(kernel ${ARG_KERNELS})
    set(architectures ${BRAID_CUDA_ARCHITECTURES})
    if(kernel IN_LIST ARG_FP8)
      set(architectures ${BRAID_CUDA_FP8_ARCHITECTURES})
    endif()
    set(options ${BRAID_NVCC_OPTIONS})
    foreach(architecture ${architectures})
      list(APPEND options -gencode arch=compute_${architecture},code=sm_${architecture})
    endforeach()
    set(source ${CMAKE_CURRENT_SOURCE_DIR}/${kernel})
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${kernel}.o)
    set(report ${CMAKE_CURRENT_BINARY_DIR}/${kernel}.ptxas)
    # nvcc knows no quiet success: what it says goes to the report, and to the screen when it fails. How many threads a
    # block has is in the PTX only.
    add_custom_command(
      OUTPUT ${object} BYPRODUCTS ${report}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${object}.keep
      COMMAND sh -c "\"$@\" > ${report} 2>&1 || { cat ${report}; exit 1; }" sh
              ${BRAID_NVCC} -ccbin ${CMAKE_CXX_COMPILER} ${options} -I${PROJECT_SOURCE_DIR} -MD -MF ${object}.d
              --keep --keep-dir ${object}.keep -c ${source} -o ${object}
      COMMAND sh -c "grep -hE '[.](entry|maxntid) ' ${object}.keep/*.ptx >> ${report}"
      COMMAND ${CMAKE_COMMAND} -E rm -r ${object}.keep
      DEPENDS ${source} DEPFILE ${object}.d COMMENT "Compiling ${kernel} for ${architectures}" VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  if(NOT BRAID_CUDA)
    add_custom_target(${name} DEPENDS ${objects})
    return()
  endif()
  set_source_files_properties(${objects} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
  add_library(${name} STATIC ${objects})
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
  target_link_libraries(${name} PUBLIC braid_cudart)
endfunction()

# What the host's side links. The runtime is linked in; cuBLASLt, which weighs half a gigabyte, is not.
if(BRAID_CUDA)
  get_filename_component(toolkit ${BRAID_NVCC} REALPATH)
  get_filename_component(toolkit ${toolkit} DIRECTORY)
  find_library(BRAID_CUDART NAMES libcudart_static.a cudart HINTS ${toolkit}/../lib64 ${toolkit}/../lib REQUIRED)
  add_library(braid_cudart INTERFACE)
  target_link_libraries(braid_cudart INTERFACE ${BRAID_CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt)
  add_library(braid_cublaslt INTERFACE)
  if(BRAID_CUBLAS_HEADERS)
    find_library(BRAID_CUBLASLT cublasLt HINTS ${toolkit}/../lib64 ${toolkit}/../lib REQUIRED)
    target_link_libraries(braid_cublaslt INTERFACE ${BRAID_CUBLASLT} braid_cudart)
  endif()
endif()

if(BUILD_TESTING AND BRAID_NVCC)
  add_test(NAME cuda_kernels_compile COMMAND ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target kernels_cuda)
  set_tests_properties(cuda_kernels_compile PROPERTIES FIXTURES_SETUP cuda_kernels TIMEOUT 900)
endif()
