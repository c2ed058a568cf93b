// Weights of every stored type as float vectors. Included by linear-inl.h, once per level, after the level's vectors.
// kernels/ref/dequant.cc draws the block layouts; the values here have the same bits.

#include <cstddef>

namespace braid::BRAID_LEVEL {

// Stored<type>::Load widens the kGroup columns from k on, a multiple of kGroup, of the row at `row`.
template <DType kType>
struct Stored;

template <>
struct Stored<DType::kF32> {
  static constexpr int kGroup = 8;
  static void Load(const std::byte* row, int k, V8* out) { out[0] = LoadF32(row + size_t{4} * k); }
};

template <>
struct Stored<DType::kF16> {
  static constexpr int kGroup = 8;
  static void Load(const std::byte* row, int k, V8* out) { out[0] = LoadF16(row + size_t{2} * k); }
};

template <>
struct Stored<DType::kBF16> {
  static constexpr int kGroup = 8;
  static void Load(const std::byte* row, int k, V8* out) { out[0] = LoadBF16(row + size_t{2} * k); }
};

inline void Scale(B32 q, V8 scale_low, V8 scale_high, V8* out) {
  out[0] = Mul(ToFloat<0>(q), scale_low);
  out[1] = Mul(ToFloat<1>(q), scale_low);
  out[2] = Mul(ToFloat<2>(q), scale_high);
  out[3] = Mul(ToFloat<3>(q), scale_high);
}

template <>
struct Stored<DType::kQ4_0> {
  static constexpr int kGroup = 32;
  static void Load(const std::byte* row, int k, V8* out) {
    const std::byte* block = row + size_t{18} * (k / 32);
    const V8 d = Broadcast(HalfToFloat(block));
    Scale(Minus(LoadNibbles(block + 2), 8), d, d, out);
  }
};

template <>
struct Stored<DType::kQ8_0> {
  static constexpr int kGroup = 32;
  static void Load(const std::byte* row, int k, V8* out) {
    const std::byte* block = row + size_t{34} * (k / 32);
    const V8 d = Broadcast(HalfToFloat(block));
    Scale(LoadBytes(block + 2), d, d, out);
  }
};

// What Q4_K and Q5_K share: q * scale - min, the product being exact.
inline void ScaleMinus(const std::byte* block, int b, B32 q, V8* out) {
  const uint8_t* s = reinterpret_cast<const uint8_t*>(block) + 4;
  const int scale = b < 4 ? s[b] & 63 : (s[b + 4] & 15) | (s[b - 4] >> 6 << 4);
  const int min = b < 4 ? s[b + 4] & 63 : (s[b + 4] >> 4) | (s[b] >> 6 << 4);
  const V8 d = Broadcast(HalfToFloat(block) * static_cast<float>(scale));
  const V8 m = Broadcast(HalfToFloat(block + 2) * static_cast<float>(min));
  out[0] = Sub(Mul(ToFloat<0>(q), d), m);
  out[1] = Sub(Mul(ToFloat<1>(q), d), m);
  out[2] = Sub(Mul(ToFloat<2>(q), d), m);
  out[3] = Sub(Mul(ToFloat<3>(q), d), m);
}

template <>
struct Stored<DType::kQ4_K> {
  static constexpr int kGroup = 32;
  static void Load(const std::byte* row, int k, V8* out) {
    const std::byte* block = row + size_t{144} * (k / 256);
    const int b = k / 32 % 8;
    ScaleMinus(block, b, Bits(LoadBytes(block + 16 + 32 * (b / 2)), b % 2 * 4, 15), out);
  }
};

template <>
struct Stored<DType::kQ5_K> {
  static constexpr int kGroup = 32;
  static void Load(const std::byte* row, int k, V8* out) {
    const std::byte* block = row + size_t{176} * (k / 256);
    const int b = k / 32 % 8;
    const B32 low = Bits(LoadBytes(block + 48 + 32 * (b / 2)), b % 2 * 4, 15);
    ScaleMinus(block, b, OrShifted(low, Bits(LoadBytes(block + 16), b, 1), 4), out);
  }
};

template <>
struct Stored<DType::kQ6_K> {
  static constexpr int kGroup = 32;
  static void Load(const std::byte* row, int k, V8* out) {
    const std::byte* block = row + size_t{210} * (k / 256);
    const int half = k / 128 % 2, quarter = k / 32 % 4;
    const B32 low = Bits(LoadBytes(block + 64 * half + 32 * (quarter % 2)), quarter / 2 * 4, 15);
    const B32 high = Bits(LoadBytes(block + 128 + 32 * half), 2 * quarter, 3);
    const int8_t* scales = reinterpret_cast<const int8_t*>(block) + 192 + 8 * half + 2 * quarter;
    const float d = HalfToFloat(block + 208);
    Scale(Minus(OrShifted(low, high, 4), 32), Broadcast(d * static_cast<float>(scales[0])),
          Broadcast(d * static_cast<float>(scales[1])), out);
  }
};

// The last K % 8 columns, which only the float types can have, followed by zeros.
template <DType kType>
V8 LoadTail(const std::byte* row, int K) {
  constexpr int kBytes = Info(kType).bytes;
  const int k = K / 8 * 8;
  std::byte padded[8 * sizeof(float)] = {};
  __builtin_memcpy(padded, row + size_t{kBytes} * k, static_cast<size_t>(kBytes) * (K - k));
  V8 out;
  Stored<kType>::Load(padded, 0, &out);
  return out;
}

}  // namespace braid::BRAID_LEVEL
