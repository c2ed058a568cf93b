# NVIDIA's headers (not its compiler, nor its libraries) for the host side of kernels/cuda and for tests/cuda_emulator:
# of an installed toolkit, else of the wheels of tests/cuda_emulator/requirements.txt, that `./run test` installs.
# Sets BRAID_CUDA_HEADERS, the folder BRAID_CUDA_INCLUDE, the target cuda_headers, and where there are none
# BRAID_CUDA_HEADERS_MISSING, a sentence.
set(BRAID_CUDA_INCLUDE_DIR "" CACHE PATH "Folder of CUDA 13's headers; empty: looked for")
file(GLOB wheel_headers ${PROJECT_SOURCE_DIR}/build/venv/lib/python3*/site-packages/nvidia/cu13/include)
set(BRAID_CUDA_HEADERS OFF)
set(BRAID_CUDA_HEADERS_MISSING
    "no CUDA 13 headers: neither a toolkit nor tests/cuda_emulator/requirements.txt is installed")
if(BRAID_CUDA_INCLUDE_DIR)
  set(candidates ${BRAID_CUDA_INCLUDE_DIR})
  set(BRAID_CUDA_HEADERS_MISSING "${BRAID_CUDA_INCLUDE_DIR} does not have the headers of CUDA 13, with libcu++")
else()
  set(candidates $ENV{CUDA_HOME}/include $ENV{CUDA_PATH}/include /usr/local/cuda/include /opt/cuda/include ${wheel_headers})
endif()
foreach(candidate ${candidates})
  if(EXISTS ${candidate}/cuda_runtime_api.h AND EXISTS ${candidate}/cccl/cuda/atomic)
    file(STRINGS ${candidate}/cuda_runtime_api.h version REGEX "^#define CUDART_VERSION +13[0-9][0-9][0-9]")
    if(version)
      set(BRAID_CUDA_HEADERS ON)
      set(BRAID_CUDA_INCLUDE ${candidate})
      message(STATUS "CUDA headers: ${candidate}")
      add_library(cuda_headers INTERFACE)
      target_include_directories(cuda_headers SYSTEM INTERFACE ${candidate} ${candidate}/cccl)
      break()
    endif()
  endif()
endforeach()
