// The kernels of mutants.cu without a bug, and with each.

#include "tests/cuda_emulator/mutants.h"

#include <cuda/atomic>

#include "tests/cuda_emulator/simt.h"
//
#include "kernels/cuda/device.h"
#include "kernels/cuda/ptx_async_copy.h"
#include "kernels/cuda/reduce.h"

using braid::gpu::Launch;

#define MUTANT right
#include "tests/cuda_emulator/mutants.cu"

#define BUG_DROPPED_BARRIER
#define MUTANT dropped_barrier
#include "tests/cuda_emulator/mutants.cu"
#undef BUG_DROPPED_BARRIER

#define BUG_DROPPED_BARRIER_BEFORE_REUSE
#define MUTANT dropped_barrier_before_reuse
#include "tests/cuda_emulator/mutants.cu"
#undef BUG_DROPPED_BARRIER_BEFORE_REUSE

#define BUG_DROPPED_SYNCWARP
#define MUTANT dropped_syncwarp
#include "tests/cuda_emulator/mutants.cu"
#undef BUG_DROPPED_SYNCWARP

#define BUG_DROPPED_COPY_WAIT
#define MUTANT dropped_copy_wait
#include "tests/cuda_emulator/mutants.cu"
#undef BUG_DROPPED_COPY_WAIT

#define BUG_COPY_OVER_WHAT_IS_READ
#define MUTANT copy_over_what_is_read
#include "tests/cuda_emulator/mutants.cu"
#undef BUG_COPY_OVER_WHAT_IS_READ

#define BUG_TWO_BLOCKS_ONE_WORD
#define MUTANT two_blocks_one_word
#include "tests/cuda_emulator/mutants.cu"
#undef BUG_TWO_BLOCKS_ONE_WORD

#define BUG_SHARED_OFF_BY_ONE
#define MUTANT shared_off_by_one
#include "tests/cuda_emulator/mutants.cu"
#undef BUG_SHARED_OFF_BY_ONE

#define BUG_GLOBAL_OFF_BY_ONE
#define MUTANT global_off_by_one
#include "tests/cuda_emulator/mutants.cu"
#undef BUG_GLOBAL_OFF_BY_ONE

#define BUG_RELAXED_FLAG
#define MUTANT relaxed_flag
#include "tests/cuda_emulator/mutants.cu"
#undef BUG_RELAXED_FLAG
