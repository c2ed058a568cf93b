// Weights of every stored type as float vectors. Included by linear-inl.h, once per level, after the level's vectors.
// kernels/ref/dequant.cc draws the block layouts; the values here have the same bits: a scale times a quant is exact
// (Q6_K: rounded once), and so is what is subtracted, so that one fused operation does both.

#include <cstddef>
#include <cstdint>

#if defined(__clang__)
#define BRAID_UNROLL _Pragma("unroll")
#else
#define BRAID_UNROLL _Pragma("GCC unroll 16")
#endif

namespace braid::BRAID_LEVEL {

// Stored<type>::Load widens part `part` of the block at `block`: kPart columns, kPart / 8 vectors. Blocks have kBlock
// columns. `part` is a constant wherever it matters, since the loops over it are unrolled.
template <DType kType>
struct Stored;

template <>
struct Stored<DType::kF32> {
  static constexpr int kBlock = 8, kPart = 8;
  static void Load(const std::byte* block, int, V8* out) { out[0] = LoadF32(block); }
};

template <>
struct Stored<DType::kF16> {
  static constexpr int kBlock = 8, kPart = 8;
  static void Load(const std::byte* block, int, V8* out) { out[0] = LoadF16(block); }
};

template <>
struct Stored<DType::kBF16> {
  static constexpr int kBlock = 8, kPart = 8;
  static void Load(const std::byte* block, int, V8* out) { out[0] = LoadBF16(block); }
};

template <>
struct Stored<DType::kQ4_0> {
  static constexpr int kBlock = 32, kPart = 32;
  static void Load(const std::byte* block, int, V8* out) {
    const V8 d = BroadcastF16(block), bias = Mul(d, Broadcast(-8));
    const I8 low = WidenU8(block + 2), high = WidenU8(block + 10);
    out[0] = Fma(ToFloat(And(low, 15)), d, bias);
    out[1] = Fma(ToFloat(And(high, 15)), d, bias);
    out[2] = Fma(ToFloat(Shift(low, -4)), d, bias);
    out[3] = Fma(ToFloat(Shift(high, -4)), d, bias);
  }
};

template <>
struct Stored<DType::kQ8_0> {
  static constexpr int kBlock = 32, kPart = 32;
  static void Load(const std::byte* block, int, V8* out) {
    const V8 d = BroadcastF16(block);
    BRAID_UNROLL for (int j = 0; j < 4; ++j) out[j] = Mul(ToFloat(WidenS8(block + 2 + 8 * j)), d);
  }
};

// The scale and the negated minimum of sub-block b of a Q4_K or Q5_K block.
inline void LoadScaleMin(const std::byte* block, int b, V8* scale, V8* minus_min) {
  const uint8_t* s = reinterpret_cast<const uint8_t*>(block) + 4;
  const int packed_scale = b < 4 ? s[b] & 63 : (s[b + 4] & 15) | (s[b - 4] >> 6 << 4);
  const int packed_min = b < 4 ? s[b + 4] & 63 : (s[b + 4] >> 4) | (s[b] >> 6 << 4);
  *scale = Mul(BroadcastF16(block), Broadcast(static_cast<float>(packed_scale)));
  *minus_min = Mul(BroadcastF16(block + 2), Broadcast(static_cast<float>(-packed_min)));
}

// Nibble `high` (0 or 1) of eight bytes.
inline I8 Nibbles(const std::byte* p, int high) { return high ? Shift(WidenU8(p), -4) : And(WidenU8(p), 15); }

template <>
struct Stored<DType::kQ4_K> {
  static constexpr int kBlock = 256, kPart = 32;
  static void Load(const std::byte* block, int b, V8* out) {
    V8 scale, minus_min;
    LoadScaleMin(block, b, &scale, &minus_min);
    BRAID_UNROLL for (int j = 0; j < 4; ++j) out[j] =
        Fma(ToFloat(Nibbles(block + 16 + 32 * (b / 2) + 8 * j, b % 2)), scale, minus_min);
  }
};

template <>
struct Stored<DType::kQ5_K> {
  static constexpr int kBlock = 256, kPart = 32;
  static void Load(const std::byte* block, int b, V8* out) {
    V8 scale, minus_min;
    LoadScaleMin(block, b, &scale, &minus_min);
    BRAID_UNROLL for (int j = 0; j < 4; ++j) {
      const I8 fifth = And(Shift(WidenU8(block + 16 + 8 * j), 4 - b), 16);
      out[j] = Fma(ToFloat(Or(Nibbles(block + 48 + 32 * (b / 2) + 8 * j, b % 2), fifth)), scale, minus_min);
    }
  }
};

template <>
struct Stored<DType::kQ6_K> {
  static constexpr int kBlock = 256, kPart = 32;
  static void Load(const std::byte* block, int b, V8* out) {
    const int half = b / 4, quarter = b % 4;
    const int8_t* scales = reinterpret_cast<const int8_t*>(block) + 192 + 2 * b;
    const V8 d = BroadcastF16(block + 208);
    BRAID_UNROLL for (int j = 0; j < 4; ++j) {
      const I8 low = Nibbles(block + 64 * half + 32 * (quarter % 2) + 8 * j, quarter / 2);
      const I8 high = And(Shift(WidenU8(block + 128 + 32 * half + 8 * j), 4 - 2 * quarter), 48);
      const V8 scale = Mul(d, Broadcast(static_cast<float>(scales[j / 2])));
      out[j] = Fma(ToFloat(Or(low, high)), scale, Mul(scale, Broadcast(-32)));
    }
  }
};

// The last K % 8 columns of a row, which only the float types can have, followed by zeros.
template <DType kType>
V8 LoadTail(const std::byte* row, int K) {
  constexpr size_t kBytes = Info(kType).bytes;
  const int k = K / 8 * 8;
  std::byte padded[8 * sizeof(float)] = {};
  __builtin_memcpy(padded, row + kBytes * k, kBytes * (K - k));
  V8 out;
  Stored<kType>::Load(padded, 0, &out);
  return out;
}

}  // namespace braid::BRAID_LEVEL
