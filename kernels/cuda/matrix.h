#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace braid::gpu {

// A matrix in device memory, row by row. Borrowed. Rows begin at multiples of 16 bytes.
//
// kF32, kBF16: as in the file. kQ4_0: the file's blocks of 18 bytes split in two planes, so that both are read in
// aligned vectors: their quants, and their scales as binary16. Value j of a block is the low nibble of its byte j,
// value j + 16 the high one; minus 8, times the scale.
struct Matrix {
  DType type = DType::kF32;
  int rows = 0, columns = 0;
  const void* data = nullptr;        // kQ4_0: (rows, columns / 32, 16) bytes
  const uint16_t* scales = nullptr;  // kQ4_0: (rows, columns / 32)
};

}  // namespace braid::gpu
