// Attention of one row and key head for one level; attention.h says what it computes. Included once per level.

namespace braid::BRAID_LEVEL {

inline float Dot(const float* a, const float* b, int n) {
  V8 acc = Zero();
  for (int i = 0; i < n; i += 8) acc = Fma(LoadF32(a + i), LoadF32(b + i), acc);
  return Sum(acc);
}

// y = y * keep + sum over j of p[j] * v[j], kV vectors wide. The positions are added one by one, in order.
template <int kV>
void AddValues(const float* p, const float* v, int count, int64_t stride, float keep, float* y) {
  V8 acc[kV];
  for (int i = 0; i < kV; ++i) acc[i] = Mul(LoadF32(y + 8 * i), Broadcast(keep));
  for (int j = 0; j < count; ++j, v += stride) {
    const V8 weight = Broadcast(p[j]);
    for (int i = 0; i < kV; ++i) acc[i] = Fma(weight, LoadF32(v + 8 * i), acc[i]);
  }
  for (int i = 0; i < kV; ++i) Store(y + 8 * i, acc[i]);
}

// The running softmax of one query head.
struct Running {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0;
};

// Scores of one piece to probabilities relative to the new maximum. Returns what the old sums shrink by.
inline float Update(Running& state, float* p, int count) {
  float max = state.max;
  for (int j = 0; j < count; ++j) max = std::max(max, p[j]);
  const float keep = Exp(state.max - max);
  float sum = 0;
  for (int j = 0; j < count; ++j) p[j] = Exp(p[j] - max);
  for (int j = 0; j < count; ++j) sum += p[j];
  state = {max, state.sum * keep + sum};
  return keep;
}

void Attend(const Attention& op, int row, int kv_head) {
  const int group = op.heads / op.kv_heads, dim = op.head_dim;
  const KvRow& where = op.rows[row];
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const int64_t at = (int64_t{row} * op.heads + int64_t{kv_head} * group) * dim;
  const float* q = op.q + at;
  float* y = op.y + at;
  std::fill_n(y, group * dim, 0.0f);
  Running running[Attention::kGroupMax];
  float p[KvArena::kBlockTokensMax];
  for (int start = 0; start <= where.position; start += op.arena.block_tokens) {
    const int count = std::min(op.arena.block_tokens, where.position + 1 - start);
    const float* k = op.arena.key(where, start) + kv_head * dim;
    const float* v = op.arena.value(where, start) + kv_head * dim;
    for (int g = 0; g < group; ++g) {
      for (int j = 0; j < count; ++j) p[j] = Dot(q + g * dim, k + int64_t{j} * op.arena.kv_dim, dim) * scale;
      const float keep = Update(running[g], p, count);
      int i = 0;
      for (; i + 64 <= dim; i += 64) AddValues<8>(p, v + i, count, op.arena.kv_dim, keep, y + g * dim + i);
      for (; i < dim; i += 8) AddValues<1>(p, v + i, count, op.arena.kv_dim, keep, y + g * dim + i);
    }
  }
  for (int g = 0; g < group; ++g) {
    const float inverse = 1.0f / running[g].sum;
    for (int i = 0; i < dim; ++i) y[g * dim + i] *= inverse;
  }
}

}  // namespace braid::BRAID_LEVEL
