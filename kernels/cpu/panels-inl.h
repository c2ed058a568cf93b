// Dots of int8 rows with panels for one level; panels.h draws the layout, linear.h fixes the order of the additions.
// Included once per level, after the level's vectors.
//
// A tile is up to kPanelRows rows by kPanelHalves halves of a panel. The integer sum of a block starts from a number
// whose bits, read as a float, are 1.5 * 2^23 plus the correction for what unsigned weights have too much; after the
// dots the float minus 1.5 * 2^23 is the sum, exactly, as long as it stays below 2^22. That spares a conversion, which
// would run where the multiplications do.

namespace braid::BRAID_LEVEL {

inline constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
inline constexpr int32_t kMagicBits = QuantBlock::kMagicBits;
inline constexpr int kPrefetchBytes = 4096;

inline V16 FromMagic(I16 sum) { return Sub(AsFloat(sum), Broadcast16(kMagic)); }

// What a tile carries through the columns of one panel.
template <int R, int H>
struct Tile {
  const QuantBlock* x[R];
  V16 acc[R][H];
};

// acc += sum * (scale * x's scale), sum being what FromMagic makes of it.
template <int R, int H>
inline void AddScaled(Tile<R, H>& tile, int block, const I16 (&sum)[R][H], const V16 (&scale)[H]) {
  BRAID_UNROLL for (int r = 0; r < R; ++r) {
    const V16 x_scale = Broadcast16(tile.x[r][block].scale);
    BRAID_UNROLL for (int h = 0; h < H; ++h) tile.acc[r][h] =
        Fma(FromMagic(sum[r][h]), Mul(scale[h], x_scale), tile.acc[r][h]);
  }
}

template <int R, int H>
inline void Start(I16 (&sum)[R][H], int r, int32_t value) {
  BRAID_UNROLL for (int h = 0; h < H; ++h) sum[r][h] = Broadcast16I(value);
}

// sum += the weights' columns [column, column + 4) times x's.
template <int kBits, int R, int H>
inline void AddDots(const Tile<R, H>& tile, int block, int column, const Bytes (&w)[H], I16 (&sum)[R][H]) {
  BRAID_UNROLL for (int r = 0; r < R; ++r) {
    const Quad x = BroadcastQuad(tile.x[r][block].q + column);
    BRAID_UNROLL for (int h = 0; h < H; ++h) sum[r][h] = Dot4<kBits>(sum[r][h], w[h], x);
  }
}

inline void PrefetchLines(const std::byte* p, int bytes) {
  for (int at = 0; at < bytes; at += 64) __builtin_prefetch(p + kPrefetchBytes + at);
}

// Format<type>::Block advances a tile by one block: `group` is where the columns' group of blocks begins, `p` where the
// block does, both of the first half of the tile.
template <DType kType>
struct Format;

template <>
struct Format<DType::kQ4_0> {
  static constexpr int kGroupBlocks = 1, kGroupBytes = 0, kBlockBytes = 576;
  template <int R, int H>
  static void Block(Tile<R, H>& tile, int block, const std::byte*, const std::byte* p, int half) {
    I16 sum[R][H];
    BRAID_UNROLL for (int r = 0; r < R; ++r) Start(sum, r, tile.x[r][block].start);
    const std::byte* nibbles = p + 64 + 256 * half;
    BRAID_UNROLL for (int j = 0; j < 4; ++j) {
      Bytes low[H], high[H];
      BRAID_UNROLL for (int h = 0; h < H; ++h) {
        const Bytes both = LoadBytes(nibbles + 256 * h + 64 * j);
        low[h] = LowNibbles(both), high[h] = HighNibbles(both);
      }
      AddDots<4>(tile, block, 4 * j, low, sum);
      AddDots<4>(tile, block, 16 + 4 * j, high, sum);
    }
    V16 scale[H];
    BRAID_UNROLL for (int h = 0; h < H; ++h) scale[h] = Load16F16(p + 32 * (half + h));
    AddScaled(tile, block, sum, scale);
  }
};

template <>
struct Format<DType::kQ8_0> {
  static constexpr int kGroupBlocks = 1, kGroupBytes = 0, kBlockBytes = 1088;
  template <int R, int H>
  static void Block(Tile<R, H>& tile, int block, const std::byte*, const std::byte* p, int half) {
    I16 sum[R][H];
    BRAID_UNROLL for (int r = 0; r < R; ++r) Start(sum, r, kMagicBits + tile.x[r][block].minus_sum() * 128);
    const std::byte* bytes = p + 64 + 512 * half;
    BRAID_UNROLL for (int j = 0; j < 8; ++j) {
      Bytes w[H];
      BRAID_UNROLL for (int h = 0; h < H; ++h) w[h] = LoadBytes(bytes + 512 * h + 64 * j);
      AddDots<8>(tile, block, 4 * j, w, sum);
    }
    V16 scale[H];
    BRAID_UNROLL for (int h = 0; h < H; ++h) scale[h] = Load16F16(p + 32 * (half + h));
    AddScaled(tile, block, sum, scale);
  }
};

// Q4_K and Q5_K: w = d * scale * q - dmin * min, so that a block adds its dots times the one and its sum times the
// other.
template <bool kFifthBit>
struct ScaledAndShiftedFormat {
  static constexpr int kGroupBlocks = 8, kGroupBytes = 128, kBlockBytes = 576 + (kFifthBit ? 128 : 0);
  template <int R, int H>
  static void Block(Tile<R, H>& tile, int block, const std::byte* group, const std::byte* p, int half) {
    I16 sum[R][H];
    BRAID_UNROLL for (int r = 0; r < R; ++r) Start(sum, r, kMagicBits);
    const std::byte* nibbles = p + 64 + 256 * half;
    Bytes fifth[H];
    if constexpr (kFifthBit) BRAID_UNROLL for (int h = 0; h < H; ++h) fifth[h] = LoadBytes(p + 576 + 64 * (half + h));
    const auto step = [&]<int j>() {
      Bytes low[H], high[H];
      BRAID_UNROLL for (int h = 0; h < H; ++h) {
        const Bytes both = LoadBytes(nibbles + 256 * h + 64 * j);
        low[h] = LowNibbles(both), high[h] = HighNibbles(both);
        if constexpr (kFifthBit) {
          low[h] = Or(low[h], MoveBits<j, 4, 1>(fifth[h]));
          high[h] = Or(high[h], MoveBits<4 + j, 4, 1>(fifth[h]));
        }
      }
      AddDots<kFifthBit ? 5 : 4>(tile, block, 4 * j, low, sum);
      AddDots<kFifthBit ? 5 : 4>(tile, block, 16 + 4 * j, high, sum);
    };
    step.template operator()<0>();
    step.template operator()<1>();
    step.template operator()<2>();
    step.template operator()<3>();
    V16 scale[H], min[H];
    BRAID_UNROLL for (int h = 0; h < H; ++h) {
      const int at = half + h;
      scale[h] = Mul(Load16F16(group + 32 * at), FloatOfU8(p + 16 * at));
      min[h] = Mul(Load16F16(group + 64 + 32 * at), FloatOfU8(p + 32 + 16 * at));
    }
    AddScaled(tile, block, sum, scale);
    BRAID_UNROLL for (int r = 0; r < R; ++r) {
      const QuantBlock& x = tile.x[r][block];
      const V16 x_scale = Broadcast16(x.scale), x_sum = Broadcast16(static_cast<float>(x.minus_sum()));
      BRAID_UNROLL for (int h = 0; h < H; ++h) tile.acc[r][h] = Fma(x_sum, Mul(min[h], x_scale), tile.acc[r][h]);
    }
  }
};
template <>
struct Format<DType::kQ4_K> : ScaledAndShiftedFormat<false> {};
template <>
struct Format<DType::kQ5_K> : ScaledAndShiftedFormat<true> {};

// Each half of sixteen columns has a scale of its own.
template <>
struct Format<DType::kQ6_K> {
  static constexpr int kGroupBlocks = 8, kGroupBytes = 64, kBlockBytes = 832;
  template <int R, int H>
  static void Block(Tile<R, H>& tile, int block, const std::byte* group, const std::byte* p, int half) {
    const std::byte* nibbles = p + 64 + 256 * half;
    const std::byte* upper = p + 576 + 128 * half;
    const auto columns = [&]<int u>() {
      I16 sum[R][H];
      BRAID_UNROLL for (int r = 0; r < R; ++r) Start(sum, r, kMagicBits + tile.x[r][block].minus_half_sum[u] * 32);
      const auto step = [&]<int j>() {
        Bytes w[H];
        BRAID_UNROLL for (int h = 0; h < H; ++h) {
          const Bytes both = LoadBytes(nibbles + 256 * h + 64 * j);
          w[h] = Or(u == 0 ? LowNibbles(both) : HighNibbles(both),
                    MoveBits<2 * j, 4, 3>(LoadBytes(upper + 128 * h + 64 * u)));
        }
        AddDots<6>(tile, block, 16 * u + 4 * j, w, sum);
      };
      step.template operator()<0>();
      step.template operator()<1>();
      step.template operator()<2>();
      step.template operator()<3>();
      V16 scale[H];
      BRAID_UNROLL for (int h = 0; h < H; ++h) scale[h] =
          Mul(Load16F16(group + 32 * (half + h)), FloatOfS8(p + 32 * u + 16 * (half + h)));
      AddScaled(tile, block, sum, scale);
    };
    columns.template operator()<0>();
    columns.template operator()<1>();
  }
};

// All columns of R rows by H halves from `half` on.
template <DType kType, int R, int H>
void RunTile(const PanelTask& task, int row, int half) {
  using F = Format<kType>;
  Tile<R, H> tile;
  BRAID_UNROLL for (int r = 0; r < R; ++r) {
    tile.x[r] = task.rows[row + r];
    BRAID_UNROLL for (int h = 0; h < H; ++h) tile.acc[r][h] = Zero16();
  }
  const std::byte* p = task.panel;
  for (int block = 0; block < task.blocks;) {
    const std::byte* group = p;
    p += F::kGroupBytes;
    for (int i = 0; i < F::kGroupBlocks; ++i, ++block, p += F::kBlockBytes) {
      // The first tile is the one that waits for memory; the next panel lies behind this one.
      if (row == 0 && half == 0) PrefetchLines(p, F::kBlockBytes);
      F::Block(tile, block, group, p, half);
    }
  }
  BRAID_UNROLL for (int r = 0; r < R; ++r) BRAID_UNROLL for (int h = 0; h < H; ++h)
      Store(task.y + (row + r) * task.y_stride + 16 * (half + h), tile.acc[r][h]);
}

template <DType kType, int R>
void RunRows(const PanelTask& task, int row) {
  for (int half = 0; half < 2; half += kPanelHalves) RunTile<kType, R, kPanelHalves>(task, row, half);
}

template <DType kType, int R>
void RunLastRows(const PanelTask& task, int row) {
  if constexpr (R > 0) {
    if (task.R - row == R) return RunRows<kType, R>(task, row);
    RunLastRows<kType, R - 1>(task, row);
  }
}

template <DType kType>
void RunPanelOfType(const PanelTask& task) {
  int row = 0;
  // Not six, six, one: the last two tiles share what is left, as few rows read a panel at a poor rate.
  for (; task.R - row >= 2 * kPanelRows || task.R - row == kPanelRows; row += kPanelRows)
    RunRows<kType, kPanelRows>(task, row);
  if (const int left = task.R - row; left > kPanelRows) {
    PanelTask first = task;
    first.R = row + left / 2;
    RunLastRows<kType, kPanelRows>(first, row);
    row = first.R;
  }
  RunLastRows<kType, kPanelRows>(task, row);
}

void RunPanel(const PanelTask& task) {
  switch (task.type) {
    case DType::kQ4_0:
      return RunPanelOfType<DType::kQ4_0>(task);
    case DType::kQ8_0:
      return RunPanelOfType<DType::kQ8_0>(task);
    case DType::kQ4_K:
      return RunPanelOfType<DType::kQ4_K>(task);
    case DType::kQ5_K:
      return RunPanelOfType<DType::kQ5_K>(task);
    case DType::kQ6_K:
      return RunPanelOfType<DType::kQ6_K>(task);
    default:
      return;
  }
}

// q's block from 32 floats at x.
inline void Quantize(const float* x, QuantBlock* q) {
  const V16 a = Load16(x), b = Load16(x + 16);
  const int32_t bits = std::max(MaxBits(AbsBits(a)), MaxBits(AbsBits(b)));
  const float max = std::bit_cast<float>(bits);
  q->scale = max / 127.0f;
  // The smallest subnormals have no reciprocal, what is not finite has no quants: zeros then.
  const bool plain = q->scale >= std::numeric_limits<float>::min() && bits < 0x7F800000;
  const V16 inverse = Broadcast16(plain ? 127.0f / max : 0.0f), magic = Broadcast16(kMagic);
  I16 first = Zero16I(), second = Zero16I();
  if (plain) {
    first = BitsMinus(Add(Mul(a, inverse), magic), kMagicBits);
    second = BitsMinus(Add(Mul(b, inverse), magic), kMagicBits);
  }
  StoreLowBytes(q->q, first);
  StoreLowBytes(q->q + 16, second);
  q->minus_half_sum[0] = -Sum(first);
  q->minus_half_sum[1] = -Sum(second);
  q->start = kMagicBits + 8 * q->minus_sum();
}

void QuantizeBlocks(const float* x, int64_t blocks, QuantBlock* q) {
  for (int64_t i = 0; i < blocks; ++i) Quantize(x + 32 * i, q + i);
}

// silu(gate) * up of R rows of 32, quantised: block r of the result goes to q[r * stride].
void SwiGluQuantize(const float* gate, const float* up, int R, QuantBlock* q, int64_t stride) {
  for (int r = 0; r < R; ++r, gate += 32, up += 32) {
    alignas(64) float y[32];
    for (int i = 0; i < 32; i += 16) {
      const V16 g = Load16(gate + i);
      const V16 sigmoid_inverse = Add(Broadcast16(1.0f), Exp16(Sub(Zero16(), g)));
      Store(y + i, Mul(Div(g, sigmoid_inverse), Load16(up + i)));
    }
    Quantize(y, q + r * stride);
  }
}

}  // namespace braid::BRAID_LEVEL
