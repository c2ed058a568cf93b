#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/matrix.h"
#include "kernels/panels.h"

// For tests and benchmarks: reproducible numbers and matrices of any stored type.

namespace braid {

class RandomNumbers {
 public:
  explicit RandomNumbers(uint32_t seed) : bits_(seed) {}
  uint32_t Bits() { return bits_(); }
  int Below(int n) { return static_cast<int>(bits_() % static_cast<uint32_t>(n)); }
  // Uniform in [-limit, limit).
  float Float(float limit = 1) { return (static_cast<float>(bits_() >> 8) * 0x1p-23f - 1) * limit; }
  std::vector<float> Floats(size_t n, float limit = 1) {
    std::vector<float> values(n);
    for (float& value : values) value = Float(limit);
    return values;
  }

 private:
  std::mt19937 bits_;
};

// Owns the bytes of a matrix with values of about +-1 / sqrt(columns), at an odd address.
class RandomMatrix {
 public:
  RandomMatrix(RandomNumbers& random, DType type, int rows, int columns)
      : bytes_(1 + RowBytes(type, columns) * static_cast<size_t>(rows)) {
    matrix_ = {type, rows, columns, bytes_.data() + 1};
    const float limit = std::sqrt(3.0f / static_cast<float>(columns));
    const size_t block = static_cast<size_t>(Info(type).bytes);
    for (size_t at = 1; at < bytes_.size(); at += block) FillBlock(random, type, limit, &bytes_[at]);
  }
  const Matrix& matrix() const { return matrix_; }

 private:
  static void PutHalf(float value, std::byte* to) {  // positive, rounded down
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint16_t half = value < 0x1p-14f ? static_cast<uint16_t>(value * 0x1p24f)  // subnormal
                                           : static_cast<uint16_t>((bits >> 13) - (112u << 10));
    std::memcpy(to, &half, sizeof half);
  }
  static void FillBlock(RandomNumbers& random, DType type, float limit, std::byte* block) {
    for (int i = 0; i < Info(type).bytes; ++i) block[i] = static_cast<std::byte>(random.Bits());
    const float value = random.Float(limit);
    const float scale = limit * (1.5f + random.Float(0.5f));
    switch (type) {
      case DType::kF32:
        std::memcpy(block, &value, sizeof value);
        return;
      case DType::kBF16:
        std::memcpy(block, reinterpret_cast<const char*>(&value) + 2, 2);
        return;
      case DType::kF16:
        PutHalf(std::abs(value) + 1e-4f, block), block[1] |= static_cast<std::byte>(random.Bits() & 128);
        return;
      case DType::kQ4_0:
        return PutHalf(scale / 8, block);
      case DType::kQ8_0:
        return PutHalf(scale / 128, block);
      case DType::kQ4_K:
        PutHalf(scale / 512, block);
        return PutHalf(scale / 64, block + 2);
      case DType::kQ5_K:
        PutHalf(scale / 1024, block);
        return PutHalf(scale / 64, block + 2);
      case DType::kQ6_K:
        return PutHalf(scale / 4096, block + 208);
    }
  }
  std::vector<std::byte> bytes_;
  Matrix matrix_;
};

// A matrix of a block type as panels, packed from rows.
class PackedMatrix {
 public:
  explicit PackedMatrix(const Matrix& rows)
      : bytes_(64 + PackedBytes(rows.type, static_cast<uint64_t>(rows.rows), static_cast<uint64_t>(rows.columns))) {
    std::byte* data = bytes_.data();
    data += (64 - reinterpret_cast<uintptr_t>(data) % 64) % 64;
    const uint64_t panel_bytes = PanelBytes(rows.type, static_cast<uint64_t>(rows.columns));
    for (int panel = 0; panel * kPanelOutputs < rows.rows; ++panel) PackPanel(rows, panel, data + panel * panel_bytes);
    matrix_ = {rows.type, rows.rows, rows.columns, data, Layout::kPanels};
  }
  const Matrix& matrix() const { return matrix_; }

 private:
  std::vector<std::byte> bytes_;
  Matrix matrix_;
};

}  // namespace braid
