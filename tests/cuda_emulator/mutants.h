#pragma once

// Kernels with a bug each that people make, and that a GPU forgives most of the time. What the emulator's detectors
// are worth is whether they still see them: mutants_test.cc.

namespace simt {

// One version of all; a launch each, that throws like any.
struct MutantKernels {
  // out[row] = the sum of the row's D numbers. Two warps to a row.
  void (*row_sums)(const float* x, float* out, int rows, int D);
  // out[i] = the sum over tiles of 64 numbers of the tile's sum without its number i: through shared memory, tile
  // after tile.
  void (*tile_sums)(const float* x, float* out, int tiles);
  // out[i] = best[i % 4], a list that lane 0 writes.
  void (*list_of_lane_0)(int* best, int* out);
  // out[i] = the sum over the rows (of 32) of x[row][31 - i], each copied behind the threads' backs.
  void (*copied_rows)(const float* x, float* out, int rows);
  // out[block] = block.
  void (*block_numbers)(int* out, int blocks);
  // One warp writes `data` and raises the flag, the other waits for it and writes out = data.
  void (*hand_off)(int* flag, int* data, int* out);
};

namespace right {
extern const MutantKernels kKernels;
}
namespace dropped_barrier {
extern const MutantKernels kKernels;
}
namespace dropped_barrier_before_reuse {
extern const MutantKernels kKernels;
}
namespace dropped_syncwarp {
extern const MutantKernels kKernels;
}
namespace dropped_copy_wait {
extern const MutantKernels kKernels;
}
namespace copy_over_what_is_read {
extern const MutantKernels kKernels;
}
namespace two_blocks_one_word {
extern const MutantKernels kKernels;
}
namespace shared_off_by_one {
extern const MutantKernels kKernels;
}
namespace global_off_by_one {
extern const MutantKernels kKernels;
}
namespace relaxed_flag {
extern const MutantKernels kKernels;
}

}  // namespace simt
