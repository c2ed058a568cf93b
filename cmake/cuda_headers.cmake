# NVIDIA's headers (not its compiler, nor its libraries) for the host side of kernels/cuda and for tests/cuda_emulator:
# of an installed toolkit, else of the wheels of tests/cuda_emulator/requirements.txt, that `./run test` installs.
# Sets BRAID_CUDA_HEADERS, the target cuda_headers, and where there are none BRAID_CUDA_HEADERS_MISSING, a sentence.
file(GLOB wheel_headers ${PROJECT_SOURCE_DIR}/build/venv/lib/python3*/site-packages/nvidia/cu13/include)
find_path(BRAID_CUDA_INCLUDE_DIR cuda_runtime_api.h
          HINTS $ENV{CUDA_HOME}/include $ENV{CUDA_PATH}/include /usr/local/cuda/include /opt/cuda/include ${wheel_headers}
          DOC "Folder of CUDA 13's headers" NO_DEFAULT_PATH)
set(BRAID_CUDA_HEADERS OFF)
if(NOT BRAID_CUDA_INCLUDE_DIR)
  set(BRAID_CUDA_HEADERS_MISSING
      "no CUDA 13 headers: neither a toolkit nor tests/cuda_emulator/requirements.txt is installed")
else()
  file(STRINGS ${BRAID_CUDA_INCLUDE_DIR}/cuda_runtime_api.h version REGEX "^#define CUDART_VERSION ")
  if(version MATCHES " 13[0-9][0-9][0-9]" AND EXISTS ${BRAID_CUDA_INCLUDE_DIR}/cccl/cuda/atomic)
    set(BRAID_CUDA_HEADERS ON)
    message(STATUS "CUDA headers: ${BRAID_CUDA_INCLUDE_DIR}")
    add_library(cuda_headers INTERFACE)
    target_include_directories(cuda_headers SYSTEM INTERFACE ${BRAID_CUDA_INCLUDE_DIR} ${BRAID_CUDA_INCLUDE_DIR}/cccl)
  else()
    set(BRAID_CUDA_HEADERS_MISSING "${BRAID_CUDA_INCLUDE_DIR} has not the headers of CUDA 13, with libcu++")
  endif()
endif()
