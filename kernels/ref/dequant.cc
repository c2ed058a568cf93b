#include "kernels/ref/dequant.h"

#include <cstring>

#include "base/check.h"
#include "kernels/half.h"

// Block layouts, in bytes from the block's start (d and dmin are binary16):
//   Q4_0   0 d   2 qs[16]                          value j: low nibble of qs[j], value j + 16: high nibble; minus 8
//   Q8_0   0 d   2 qs[32]
//   Q4_K   0 d   2 dmin   4 scales[12]  16 qs[128]  sub-block b of 32: nibble b % 2 of qs[32 * (b / 2) ...]
//   Q5_K   0 d   2 dmin   4 scales[12]  16 qh[32]  48 qs[128]   as Q4_K, fifth bit: bit b of qh
//   Q6_K   0 ql[128]  128 qh[64]  192 scales[16]  208 d   sub-block q of 32 in each half of 128: nibble q / 2 of
//                                                   ql[32 * (q % 2) ...], upper bits: bits 2q, 2q + 1 of qh; minus 32

namespace braid {
namespace {

void DequantizeQ4_0(const uint8_t* block, float* dst) {
  const float d = FloatFromHalf(LoadU16(block));
  for (int j = 0; j < 16; ++j) {
    const int q = block[2 + j];
    dst[j] = d * static_cast<float>((q & 15) - 8);
    dst[j + 16] = d * static_cast<float>((q >> 4) - 8);
  }
}

void DequantizeQ8_0(const uint8_t* block, float* dst) {
  const float d = FloatFromHalf(LoadU16(block));
  for (int j = 0; j < 32; ++j) dst[j] = d * static_cast<float>(static_cast<int8_t>(block[2 + j]));
}

// The 6-bit scale and minimum of sub-block b of a Q4_K or Q5_K block: eight pairs packed into twelve bytes.
struct ScaleMin {
  int scale, min;
};
ScaleMin UnpackScaleMin(const uint8_t* s, int b) {
  if (b < 4) return {s[b] & 63, s[b + 4] & 63};
  return {(s[b + 4] & 15) | (s[b - 4] >> 6 << 4), (s[b + 4] >> 4) | (s[b] >> 6 << 4)};
}

// Q4_K, and Q5_K when `qh` is given.
void DequantizeK(const uint8_t* block, const uint8_t* qh, const uint8_t* qs, float* dst) {
  const float d = FloatFromHalf(LoadU16(block));
  const float dmin = FloatFromHalf(LoadU16(block + 2));
  for (int b = 0; b < 8; ++b) {
    const ScaleMin packed = UnpackScaleMin(block + 4, b);
    const float scale = d * static_cast<float>(packed.scale);
    const float min = dmin * static_cast<float>(packed.min);
    for (int l = 0; l < 32; ++l) {
      int q = qs[32 * (b / 2) + l] >> (b % 2 * 4) & 15;
      if (qh != nullptr) q |= (qh[l] >> b & 1) << 4;
      dst[32 * b + l] = scale * static_cast<float>(q) - min;
    }
  }
}

void DequantizeQ6_K(const uint8_t* block, float* dst) {
  const float d = FloatFromHalf(LoadU16(block + 208));
  for (int b = 0; b < 8; ++b) {
    const int half = b / 4, quarter = b % 4;
    const uint8_t* ql = block + 64 * half + 32 * (quarter % 2);
    const uint8_t* qh = block + 128 + 32 * half;
    const uint8_t* scales = block + 192 + 8 * half + 2 * quarter;
    for (int l = 0; l < 32; ++l) {
      const int q = (ql[l] >> (quarter / 2 * 4) & 15) | (qh[l] >> (2 * quarter) & 3) << 4;
      const float scale = d * static_cast<float>(static_cast<int8_t>(scales[l / 16]));
      dst[32 * b + l] = scale * static_cast<float>(q - 32);
    }
  }
}

void DequantizeBlock(DType type, const uint8_t* block, float* dst) {
  switch (type) {
    case DType::kF32:
      std::memcpy(dst, block, sizeof *dst);
      return;
    case DType::kF16:
      *dst = FloatFromHalf(LoadU16(block));
      return;
    case DType::kBF16:
      *dst = FloatFromBFloat16(LoadU16(block));
      return;
    case DType::kQ4_0:
      DequantizeQ4_0(block, dst);
      return;
    case DType::kQ8_0:
      DequantizeQ8_0(block, dst);
      return;
    case DType::kQ4_K:
      DequantizeK(block, nullptr, block + 16, dst);
      return;
    case DType::kQ5_K:
      DequantizeK(block, block + 16, block + 48, dst);
      return;
    case DType::kQ6_K:
      DequantizeQ6_K(block, dst);
      return;
  }
}

}  // namespace

void Dequantize(DType type, const void* src, int64_t n, float* dst) {
  const DTypeInfo info = Info(type);
  CHECK_EQ(n % info.elements, 0) << "values of " << info.name;
  const uint8_t* block = static_cast<const uint8_t*>(src);
  for (int64_t i = 0; i < n; i += info.elements, block += info.bytes) DequantizeBlock(type, block, dst + i);
}

}  // namespace braid
