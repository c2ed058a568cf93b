#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "kernels/cuda/matrix.h"
#include "kernels/cuda/quantize_fp8.h"
#include "kernels/half.h"
#include "kernels/matrix.h"
#include "tests/cuda_emulator/global_array.h"

namespace braid::gpu {

// A matrix of a file as it lies on a device.
class DeviceCopy {
 public:
  explicit DeviceCopy(const braid::Matrix& from) {
    matrix_ = {from.type, from.rows, from.columns};
    const size_t bytes = from.row_bytes() * static_cast<size_t>(from.rows);
    if (from.type != DType::kQ4_0) {
      data_ = std::make_unique<simt::GlobalArray<uint8_t>>(bytes);
      std::memcpy(data_->data(), from.data, bytes);
    } else {
      const size_t blocks = bytes / 18;
      data_ = std::make_unique<simt::GlobalArray<uint8_t>>(blocks * 16);
      scales_ = std::make_unique<simt::GlobalArray<uint16_t>>(blocks);
      for (size_t i = 0; i < blocks; ++i) {
        std::memcpy(scales_->data() + i, from.data + i * 18, 2);
        std::memcpy(data_->data() + i * 16, from.data + i * 18 + 2, 16);
      }
      matrix_.scales = scales_->data();
    }
    matrix_.data = data_->data();
  }
  // As FP8; keeps `rounded`, the weights that it then has.
  DeviceCopy(const std::vector<float>& weights, int columns, std::vector<float>* rounded) {
    const int rows = static_cast<int>(weights.size()) / columns;
    data_ = std::make_unique<simt::GlobalArray<uint8_t>>(weights.size());
    scales_ = std::make_unique<simt::GlobalArray<uint16_t>>(size_t(rows) * Fp8Blocks(columns));
    matrix_ = {kFp8, rows, columns, data_->data(), scales_->data()};
    rounded->resize(weights.size());
    for (int row = 0; row < rows; ++row) {
      const size_t at = size_t(row) * columns;
      uint8_t* quants = data_->data() + at;
      uint16_t* scales = scales_->data() + size_t(row) * Fp8Blocks(columns);
      EXPECT_TRUE(QuantizeFp8(&weights[at], columns, quants, scales).ok());
      for (int k = 0; k < columns; ++k)
        (*rounded)[at + k] = FloatFromE4M3(quants[k]) * FloatFromBFloat16(scales[k / kFp8Block]);
    }
  }
  const Matrix& matrix() const { return matrix_; }

 private:
  std::unique_ptr<simt::GlobalArray<uint8_t>> data_;
  std::unique_ptr<simt::GlobalArray<uint16_t>> scales_;
  Matrix matrix_;
};

}  // namespace braid::gpu
