#include "model/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/status.h"

namespace braid {
namespace {

constexpr int kBlock = 32;
constexpr uint16_t kHalfInfinity = 0x7c00;

uint16_t HalfFromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x47800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : kHalfInfinity);  // 2^16 and above
  if (magnitude < 0x38800000) {  // below 2^-14, a subnormal: the unit of the last place of 0.5f is that of the result
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - 0x3f000000);
  }
  magnitude += 0xfff + ((magnitude >> 13) & 1);  // to nearest, ties to even; may carry into infinity
  return sign | static_cast<uint16_t>((magnitude - 0x38000000) >> 13);
}

uint16_t BFloat16FromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 64);  // keep a NaN one
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void Store(uint16_t value, std::byte* dst) { std::memcpy(dst, &value, sizeof value); }

absl::Status QuantizeHalf(const float* src, int64_t n, std::byte* dst) {
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t half = HalfFromFloat(src[i]);
    if ((half & 0x7fff) == kHalfInfinity && std::isfinite(src[i]))
      return InvalidArgument("the value " + std::to_string(src[i]) + " is beyond the range of F16");
    Store(half, dst + 2 * i);
  }
  return absl::OkStatus();
}

// 1 / scale; 0 for a block of zeros, and for one so small that its scale is 0 as F16 too.
float Inverse(float scale) {
  const float inverse = scale == 0 ? 0 : 1.0f / scale;
  return std::isfinite(inverse) ? inverse : 0;
}

// scale (F16), 32 signed bytes.
void QuantizeBlockQ8(const float* src, std::byte* dst) {
  float largest = 0;
  for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(src[i]));
  const float scale = largest / 127;
  const float inverse = Inverse(scale);
  Store(HalfFromFloat(scale), dst);
  for (int i = 0; i < kBlock; ++i)
    dst[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::round(src[i] * inverse)));
}

// scale (F16), 16 bytes: value i in the low nibble of byte i, value i + 16 in the high one. The value of the largest
// magnitude becomes exactly -8, so the scale has its sign reversed.
void QuantizeBlockQ4(const float* src, std::byte* dst) {
  float largest = 0;
  for (int i = 0; i < kBlock; ++i)
    if (std::fabs(src[i]) > std::fabs(largest)) largest = src[i];
  const float scale = largest / -8;
  const float inverse = Inverse(scale);
  Store(HalfFromFloat(scale), dst);
  const auto quant = [&](int i) { return std::min(15, static_cast<int>(src[i] * inverse + 8.5f)); };
  for (int i = 0; i < kBlock / 2; ++i) dst[2 + i] = static_cast<std::byte>(quant(i) | quant(i + kBlock / 2) << 4);
}

template <typename QuantizeBlock>
absl::Status QuantizeBlocks(DType type, const float* src, int64_t n, std::byte* dst, QuantizeBlock quantize_block) {
  if (!std::all_of(src, src + n, [](float value) { return std::isfinite(value); }))
    return InvalidArgument("a value is not finite");
  for (int64_t i = 0; i < n; i += kBlock, dst += Info(type).bytes) quantize_block(src + i, dst);
  return absl::OkStatus();
}

}  // namespace

bool CanQuantize(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kQ8_0:
    case DType::kQ4_0:
      return true;
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
      return false;
  }
  return false;
}

absl::Status Quantize(DType type, const float* src, int64_t n, std::byte* dst) {
  CHECK(CanQuantize(type) && n % Info(type).elements == 0) << Name(type) << ", " << n << " values";
  switch (type) {
    case DType::kF32:
      std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
      break;
    case DType::kF16:
      return QuantizeHalf(src, n, dst);
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) Store(BFloat16FromFloat(src[i]), dst + 2 * i);
      break;
    case DType::kQ8_0:
      return QuantizeBlocks(type, src, n, dst, QuantizeBlockQ8);
    case DType::kQ4_0:
      return QuantizeBlocks(type, src, n, dst, QuantizeBlockQ4);
    default:
      break;
  }
  return absl::OkStatus();
}

}  // namespace braid
