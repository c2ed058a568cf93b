// Weights of every stored type as float vectors. Included by linear-inl.h, once per level, after the level's vectors.
// kernels/ref/dequant.cc draws the block layouts; the values here have the same bits: a scale times a quant is exact
// (Q6_K: rounded once), and so is what is subtracted, so that one fused operation does both.

#include <cstddef>
#include <cstdint>

namespace braid::BRAID_LEVEL {

// Stored<type>: blocks of kBlock columns, widened in parts of kPart columns, kPart / 8 vectors. Prepare does once per
// block what the parts share; Load widens part `part`, which is a constant wherever it matters, as the loops over it
// are unrolled.
template <DType kType>
struct Stored;

// A type without anything to prepare.
struct Unprepared {
  struct Scales {};
  static void Prepare(const std::byte*, Scales*) {}
};

template <>
struct Stored<DType::kF32> : Unprepared {
  static constexpr int kBlock = 8, kPart = 8;
  static void Load(const std::byte* block, const Scales&, int, V8* out) { out[0] = LoadF32(block); }
};

template <>
struct Stored<DType::kF16> : Unprepared {
  static constexpr int kBlock = 8, kPart = 8;
  static void Load(const std::byte* block, const Scales&, int, V8* out) { out[0] = LoadF16(block); }
};

template <>
struct Stored<DType::kBF16> : Unprepared {
  static constexpr int kBlock = 8, kPart = 8;
  static void Load(const std::byte* block, const Scales&, int, V8* out) { out[0] = LoadBF16(block); }
};

template <>
struct Stored<DType::kQ4_0> : Unprepared {
  static constexpr int kBlock = 32, kPart = 32;
  static void Load(const std::byte* block, const Scales&, int, V8* out) {
    const V8 d = BroadcastF16(block), bias = Mul(d, Broadcast(-8));
    const I8 low = WidenU8(block + 2), high = WidenU8(block + 10);
    out[0] = Fma(ToFloat(And(low, 15)), d, bias);
    out[1] = Fma(ToFloat(And(high, 15)), d, bias);
    out[2] = Fma(ToFloat(Shift(low, -4)), d, bias);
    out[3] = Fma(ToFloat(Shift(high, -4)), d, bias);
  }
};

template <>
struct Stored<DType::kQ8_0> : Unprepared {
  static constexpr int kBlock = 32, kPart = 32;
  static void Load(const std::byte* block, const Scales&, int, V8* out) {
    const V8 d = BroadcastF16(block);
    BRAID_UNROLL for (int j = 0; j < 4; ++j) out[j] = Mul(ToFloat(WidenS8(block + 2 + 8 * j)), d);
  }
};

// What Q4_K and Q5_K share: eight 6-bit scales and minima, packed into twelve bytes.
struct ScaledAndShifted {
  struct Scales {
    float scale[8], minus_min[8];
  };
  static void Prepare(const std::byte* block, Scales* to) {
    uint32_t s[3];
    __builtin_memcpy(s, block + 4, sizeof s);
    constexpr uint32_t kLow6 = 0x3F3F3F3F, kLow4 = 0x0F0F0F0F, kLow2 = 0x03030303;
    const uint32_t scales[] = {s[0] & kLow6, (s[2] & kLow4) | (s[0] >> 6 & kLow2) << 4};
    const uint32_t minima[] = {s[1] & kLow6, (s[2] >> 4 & kLow4) | (s[1] >> 6 & kLow2) << 4};
    Store(to->scale, Mul(ToFloat(WidenU8(scales)), BroadcastF16(block)));
    Store(to->minus_min, Mul(ToFloat(WidenU8(minima)), Mul(BroadcastF16(block + 2), Broadcast(-1))));
  }
};

template <>
struct Stored<DType::kQ4_K> : ScaledAndShifted {
  static constexpr int kBlock = 256, kPart = 32;
  static void Load(const std::byte* block, const Scales& scales, int b, V8* out) {
    const V8 scale = Broadcast(scales.scale[b]), minus_min = Broadcast(scales.minus_min[b]);
    BRAID_UNROLL for (int j = 0; j < 4; ++j) {
      const I8 both = WidenU8(block + 16 + 32 * (b / 2) + 8 * j);
      out[j] = Fma(ToFloat(b % 2 ? Shift(both, -4) : And(both, 15)), scale, minus_min);
    }
  }
};

// Of 32 bytes: nibble `high` (0 or 1) of each, and two bits of each moved to where `mask` has them.
inline I8 Nibbles(const std::byte* p, int high) { return And(Shift(LoadInts(p), -4 * high), 0x0F0F0F0F); }
inline I8 UpperBits(const std::byte* p, int left, int mask) { return And(Shift(LoadInts(p), left), mask); }

template <>
struct Stored<DType::kQ5_K> : ScaledAndShifted {
  static constexpr int kBlock = 256, kPart = 32;
  static void Load(const std::byte* block, const Scales& scales, int b, V8* out) {
    const V8 scale = Broadcast(scales.scale[b]), minus_min = Broadcast(scales.minus_min[b]);
    const I8 q = Or(Nibbles(block + 48 + 32 * (b / 2), b % 2), UpperBits(block + 16, 4 - b, 0x10101010));
    out[0] = Fma(ToFloat(WidenPart<0>(q)), scale, minus_min);
    out[1] = Fma(ToFloat(WidenPart<1>(q)), scale, minus_min);
    out[2] = Fma(ToFloat(WidenPart<2>(q)), scale, minus_min);
    out[3] = Fma(ToFloat(WidenPart<3>(q)), scale, minus_min);
  }
};

template <>
struct Stored<DType::kQ6_K> {
  static constexpr int kBlock = 256, kPart = 32;
  struct Scales {
    float scale[16];
  };
  static void Prepare(const std::byte* block, Scales* to) {
    const V8 d = BroadcastF16(block + 208);
    Store(to->scale, Mul(ToFloat(WidenS8(block + 192)), d));
    Store(to->scale + 8, Mul(ToFloat(WidenS8(block + 200)), d));
  }
  static void Load(const std::byte* block, const Scales& scales, int b, V8* out) {
    const int half = b / 4, quarter = b % 4;
    const I8 q = Or(Nibbles(block + 64 * half + 32 * (quarter % 2), quarter / 2),
                    UpperBits(block + 128 + 32 * half, 4 - 2 * quarter, 0x30303030));
    const V8 low = Broadcast(scales.scale[2 * b]), high = Broadcast(scales.scale[2 * b + 1]);
    const V8 low_bias = Mul(low, Broadcast(-32)), high_bias = Mul(high, Broadcast(-32));
    out[0] = Fma(ToFloat(WidenPart<0>(q)), low, low_bias);
    out[1] = Fma(ToFloat(WidenPart<1>(q)), low, low_bias);
    out[2] = Fma(ToFloat(WidenPart<2>(q)), high, high_bias);
    out[3] = Fma(ToFloat(WidenPart<3>(q)), high, high_bias);
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
  Stored<kType>::Load(padded, {}, 0, &out);
  return out;
}

}  // namespace braid::BRAID_LEVEL
