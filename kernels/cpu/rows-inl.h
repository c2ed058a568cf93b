// The ops that walk over a row value by value, for one level. Included once per level, after the level's vectors. What
// is left over behind the last sixteen values goes one by one, with the same operations.

namespace braid::BRAID_LEVEL {

// 1 / sqrt(mean(x^2) + eps). The squares are exact in double, sixteen lanes add them up.
inline float InverseRms(const float* x, int n, float eps) {
  D16 lanes = ZeroD16();
  int i = 0;
  for (; i + 16 <= n; i += 16) lanes = AddSquares(lanes, Load16(x + i));
  double sum = Sum(lanes);
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return static_cast<float>(1.0 / std::sqrt(sum / n + static_cast<double>(eps)));
}

void NormRow(const RmsNorm& op, int t) {
  const int D = op.D;
  const float* x = op.x + int64_t{t} * D;
  float* y = op.y + int64_t{t} * D;
  if (op.add != nullptr) {
    const float* add = op.add + int64_t{t} * D;
    float* sum = op.sum + int64_t{t} * D;
    int d = 0;
    for (; d + 16 <= D; d += 16) Store(sum + d, Add(Load16(x + d), Load16(add + d)));
    for (; d < D; ++d) sum[d] = x[d] + add[d];
    x = sum;
  }
  const float scale = InverseRms(x, D, op.eps);
  const V16 scales = Broadcast16(scale);
  int d = 0;
  for (; d + 16 <= D; d += 16) Store(y + d, Mul(Mul(Load16(x + d), scales), Load16(op.weight + d)));
  for (; d < D; ++d) y[d] = x[d] * scale * op.weight[d];
  if (op.q != nullptr) QuantizeBlocks(y, D / 32, op.q + int64_t{t} * (D / 32));
}

void HeadNormRopeRow(const HeadNormRope& op, int t) {
  const int half = op.head_dim / 2;
  const float *cos = op.cos + int64_t{t} * half, *sin = op.sin + int64_t{t} * half;
  const float* weight = op.weight;
  for (int h = 0; h < op.heads; ++h) {
    float* x = op.x + (int64_t{t} * op.heads + h) * op.head_dim;
    const float scale = InverseRms(x, op.head_dim, op.eps);
    const V16 scales = Broadcast16(scale);
    int i = 0;
    for (; i + 16 <= half; i += 16) {
      const V16 a = Mul(Mul(Load16(x + i), scales), Load16(weight + i));
      const V16 b = Mul(Mul(Load16(x + i + half), scales), Load16(weight + i + half));
      const V16 c = Load16(cos + i), s = Load16(sin + i);
      Store(x + i, Sub(Mul(a, c), Mul(b, s)));
      Store(x + i + half, Add(Mul(b, c), Mul(a, s)));
    }
    for (; i < half; ++i) {
      const float a = x[i] * scale * weight[i], b = x[i + half] * scale * weight[i + half];
      x[i] = a * cos[i] - b * sin[i];
      x[i + half] = b * cos[i] + a * sin[i];
    }
  }
}

// y = C * (sum over taps of tap * u), u being B * X of a row of this step, or a stored column.
void ConvolveRow(const ShortConv& op, const ConvPiece& piece, int row) {
  constexpr int kTapsMax = ShortConv::kTapsMax;
  const int D = op.D;
  // Where each tap's u comes from: two factors, or a column and nothing, or nothing at all.
  const float *tap[kTapsMax], *b[kTapsMax], *x[kTapsMax];
  int taps = 0;
  for (int j = 0; j < op.taps; ++j) {
    const int back = op.taps - 1 - j;
    const int position = piece.position + (row - piece.row) - back;
    if (position < 0) continue;
    tap[taps] = op.kernel + int64_t{j} * D;
    if (row - back >= piece.row) {
      b[taps] = op.bcx + int64_t{row - back} * 3 * D;
      x[taps] = b[taps] + 2 * D;
    } else {
      b[taps] = piece.columns + int64_t{position % op.ring} * D;
      x[taps] = nullptr;
    }
    ++taps;
  }
  const float* c = op.bcx + int64_t{row} * 3 * D + D;
  float* y = op.y + int64_t{row} * D;
  int d = 0;
  for (; d + 16 <= D; d += 16) {
    V16 sum = Zero16();
    for (int j = 0; j < taps; ++j) {
      const V16 u = x[j] == nullptr ? Load16(b[j] + d) : Mul(Load16(b[j] + d), Load16(x[j] + d));
      sum = Add(sum, Mul(Load16(tap[j] + d), u));
    }
    Store(y + d, Mul(sum, Load16(c + d)));
  }
  for (; d < D; ++d) {
    float sum = 0;
    for (int j = 0; j < taps; ++j) sum += tap[j][d] * (x[j] == nullptr ? b[j][d] : b[j][d] * x[j][d]);
    y[d] = sum * c[d];
  }
}

void WeightedSumRow(const WeightedSum& op, int t) {
  const int D = op.D;
  const float* weights = op.weights + int64_t{t} * op.K;
  const int32_t* rows = op.row_of + int64_t{t} * op.K;
  float* y = op.y + int64_t{t} * D;
  int d = 0;
  for (; d + 16 <= D; d += 16) {
    V16 sum = Zero16();
    for (int k = 0; k < op.K; ++k)
      sum = Add(sum, Mul(Broadcast16(weights[k]), Load16(op.rows + int64_t{rows[k]} * D + d)));
    Store(y + d, sum);
  }
  for (; d < D; ++d) {
    float sum = 0;
    for (int k = 0; k < op.K; ++k) sum += weights[k] * op.rows[int64_t{rows[k]} * D + d];
    y[d] = sum;
  }
}

}  // namespace braid::BRAID_LEVEL
