#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace braid::gpu {

// Numbers as e4m3, of one byte each, with a scale for every kFp8Block of a row: of a device's matrices alone, made at
// load (quantize_fp8.h). No file has it, so it is none of DType's names.
inline constexpr DType kFp8{64};
inline constexpr int kFp8Block = 128;
constexpr int Fp8Blocks(int columns) { return (columns + kFp8Block - 1) / kFp8Block; }

// A matrix in device memory, row by row. Borrowed. Rows begin at multiples of 16 bytes.
//
// kF32, kBF16: as in the file. kQ4_0: the file's blocks of 18 bytes split in two planes, so that both are read in
// aligned vectors: their quants, and their scales as binary16. Value j of a block is the low nibble of its byte j,
// value j + 16 the high one; minus 8, times the scale. kFp8: the scales are powers of two, as bfloat16.
struct Matrix {
  DType type = DType::kF32;
  int rows = 0, columns = 0;
  const void* data = nullptr;        // kQ4_0: (rows, columns / 32, 16) bytes; kFp8: (rows, columns) bytes
  const uint16_t* scales = nullptr;  // kQ4_0: (rows, columns / 32); kFp8: (rows, Fp8Blocks(columns))
};

}  // namespace braid::gpu
