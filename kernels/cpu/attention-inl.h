// Attention of a tile of rows for one level; attention.h says what it computes and lays the keys and
// values out. Included once per level, after the level's vectors.
//
// Rows go by sixes, so that a vector of keys or values, once widened, is used six times, and a row's number, once
// broadcast, for all vectors of a register tile. For each six a piece of the context is taken from scores, lanes being
// positions, through the softmax to values, lanes being dimensions: the piece stays in the first cache for the next
// six. A register tile only decides which sums grow together, never the order in which one grows.

namespace braid::BRAID_LEVEL {

inline constexpr int kRowsAtOnce = 6;
inline constexpr int kBlockTokens = KvArena::kBlockTokens;
inline constexpr int kPieceTokens = Attention::kPieceTokens;
inline constexpr int kPieceBlocks = kPieceTokens / kBlockTokens;
inline constexpr int kPieceVectors = kPieceTokens / 16;
static_assert(kAttentionTileRowsMax % kRowsAtOnce == 0 && Attention::kSpanTokens % kPieceTokens == 0);

// A key head's part of the blocks of a piece, and what comes after it, which is fetched meanwhile. Number is uint16_t
// for bfloat16 and int8_t for int8, which has scales.
template <typename Number>
struct Piece {
  const Number* keys[kPieceBlocks];
  const Number* values[kPieceBlocks];
  const Number* next_keys[kPieceBlocks];
  const Number* next_values[kPieceBlocks];
  const float* key_scales[kPieceBlocks];
  const float* value_scales[kPieceBlocks];
};
template <typename Number>
inline constexpr bool kScaled = std::is_same_v<Number, int8_t>;

// Numbers that lie in a word, and what LoadPart gives of one in relation to what it is.
template <typename Number>
inline constexpr int kParts = KvArena::kWordBytes / sizeof(Number);
template <typename Number>
inline constexpr float kPartUnit = kScaled<Number> ? kInt8PartUnit : 1;

// Calls run<part>() for all parts of a word.
template <int parts, typename F>
inline void ForParts(const F& run) {
  run.template operator()<0>();
  run.template operator()<1>();
  if constexpr (parts == 4) {
    run.template operator()<2>();
    run.template operator()<3>();
  }
}

// Scores of R rows with the 16 * V positions of the piece from vector `first` on. Row r's number d is q[6 d + r], its
// scores go to p[64 r].
template <int R, int V, typename Number>
void Scores(const float* q, const Piece<Number>& piece, int first, int dim, float* p) {
  constexpr int P = kParts<Number>;
  const Number *keys[V], *next[V];
  BRAID_UNROLL for (int v = 0; v < V; ++v) {
    const int block = (first + v) / 2, half = (first + v) % 2 * 16 * P;
    keys[v] = piece.keys[block] + half, next[v] = piece.next_keys[block] + half;
  }
  V16 acc[R][V];
  BRAID_UNROLL for (int r = 0; r < R; ++r) BRAID_UNROLL for (int v = 0; v < V; ++v) acc[r][v] = Zero16();
  int64_t at = 0;
  for (int d = 0; d < dim; d += P, q += P * kRowsAtOnce, at += P * kBlockTokens) {
    ForParts<P>([&]<int part>() {
      V16 k[V];
      BRAID_UNROLL for (int v = 0; v < V; ++v) k[v] = LoadPart<part>(keys[v] + at);
      BRAID_UNROLL for (int r = 0; r < R; ++r) {
        const V16 all = Broadcast16(q[part * kRowsAtOnce + r]);
        BRAID_UNROLL for (int v = 0; v < V; ++v) acc[r][v] = Fma(all, k[v], acc[r][v]);
      }
    });
    BRAID_UNROLL for (int v = 0; v < V; ++v) __builtin_prefetch(next[v] + at);
  }
  if constexpr (kScaled<Number>) {
    BRAID_UNROLL for (int v = 0; v < V; ++v) {
      const V16 scales = Load16(piece.key_scales[(first + v) / 2] + (first + v) % 2 * 16);
      BRAID_UNROLL for (int r = 0; r < R; ++r) acc[r][v] = Mul(acc[r][v], scales);
    }
  }
  BRAID_UNROLL for (int r = 0; r < R; ++r) BRAID_UNROLL for (int v = 0; v < V; ++v)
      Store(p + r * kPieceTokens + 16 * (first + v), acc[r][v]);
}

// y += sum of p[j] * value[j] over the piece's positions [begin, end), for R rows (p[64 r], y[dim r]) and 16 * V
// dimensions from `d` on. The positions are added one by one, in order; p has the scales of the values in it.
template <int R, int V, typename Number>
void AddValues(const float* p, const Piece<Number>& piece, int begin, int end, int dim, int d, float* y) {
  constexpr int P = kParts<Number>;
  V16 acc[R][V];
  BRAID_UNROLL for (int r = 0; r < R; ++r) BRAID_UNROLL for (int v = 0; v < V; ++v) acc[r][v] =
      Load16(y + r * dim + d + 16 * v);
  for (int j = begin / P * P; j < end; j += P) {
    const int block = j / kBlockTokens;
    const int64_t at = (int64_t{j % kBlockTokens / P} * dim + d) * P;
    const Number *values = piece.values[block] + at, *next = piece.next_values[block] + at;
    ForParts<P>([&]<int part>() {
      if (j + part < begin || j + part >= end) return;
      V16 value[V];
      BRAID_UNROLL for (int v = 0; v < V; ++v) value[v] = LoadPart<part>(values + 16 * P * v);
      BRAID_UNROLL for (int r = 0; r < R; ++r) {
        const V16 all = Broadcast16(p[r * kPieceTokens + j + part]);
        BRAID_UNROLL for (int v = 0; v < V; ++v) acc[r][v] = Fma(all, value[v], acc[r][v]);
      }
    });
    BRAID_UNROLL for (int v = 0; v < V; ++v) __builtin_prefetch(next + 16 * P * v);
  }
  BRAID_UNROLL for (int r = 0; r < R; ++r) BRAID_UNROLL for (int v = 0; v < V; ++v)
      Store(y + r * dim + d + 16 * v, acc[r][v]);
}

// All vectors of some rows, in the tiles that this level's registers hold.
template <int R, typename Number>
void ScoresOfRows(const float* q, const Piece<Number>& piece, int vectors, int dim, float* p) {
  int v = 0;
  for (; v + kAttentionVectors <= vectors; v += kAttentionVectors) Scores<R, kAttentionVectors>(q, piece, v, dim, p);
  for (; v < vectors; ++v) Scores<R, 1>(q, piece, v, dim, p);
}
template <int R, typename Number>
void AddValuesOfRows(const float* p, const Piece<Number>& piece, int begin, int end, int dim, float* y) {
  int d = 0;
  for (; d + 16 * kAttentionVectors <= dim; d += 16 * kAttentionVectors)
    AddValues<R, kAttentionVectors>(p, piece, begin, end, dim, d, y);
  for (; d < dim; d += 16) AddValues<R, 1>(p, piece, begin, end, dim, d, y);
}

// Calls run<R>(row) for rows [0, rows), at most six, in register tiles.
template <typename F>
void ByRows(int rows, const F& run) {
  if (rows == 6) return run.template operator()<6>(0);
  int row = 0;
  if (rows >= 4) run.template operator()<4>(row), row += 4;
  if (rows - row >= 2) run.template operator()<2>(row), row += 2;
  if (rows - row >= 1) run.template operator()<1>(row);
}

// The running softmax of some rows: y and the sum in relation to 2 to the base, the sum in sixteen parts.
struct Running {
  Running(float* memory, int rows, int dim) : y(memory), sum(y + int64_t{rows} * dim), base(sum + int64_t{rows} * 16) {}
  float* y;     // (rows, dim)
  float* sum;   // (rows, 16)
  float* base;  // (rows)
};

inline void Scale(float* y, int dim, V16 factor) {
  for (int d = 0; d < dim; d += 16) Store(y + d, Mul(Load16(y + d), factor));
}

// The scores at p, of which row r sees the first `count`, to weights in relation to its base; zeros where it sees none.
// What the values are multiplied with has their scales in it, which lie block by block.
// The base is a score that no other one exceeds by much: as it rarely moves, nothing waits for the maximum of a piece.
template <bool kWhole, bool kScales>
inline void Update(const Running& state, int r, int dim, const float* const* scales, float* p, int count) {
  alignas(64) static constexpr float kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  constexpr float kMuch = 8;  // weights stay below 2^8
  const auto where_seen = [&](int v, V16 yes, V16 no) {
    if constexpr (kWhole) return yes;
    return SelectLess(Load16(kLanes), Broadcast16(static_cast<float>(count - 16 * v)), yes, no);
  };
  V16 base = Broadcast16(state.base[r]);
  V16 score[kPieceVectors];
  BRAID_UNROLL for (int v = 0; v < kPieceVectors; ++v) score[v] = where_seen(v, Load16(p + 16 * v), base);
  V16 max = score[0];
  BRAID_UNROLL for (int v = 1; v < kPieceVectors; ++v) max = Max(max, score[v]);
  V16 sum = Load16(state.sum + 16 * r);
  if (const float top = MaxLane(max); top > state.base[r] + kMuch) {
    const V16 before = base;
    state.base[r] = top, base = Broadcast16(top);
    const V16 keep = Exp2(Sub(before, base));
    sum = Mul(sum, keep);
    Scale(state.y + r * dim, dim, keep);
  }
  BRAID_UNROLL for (int v = 0; v < kPieceVectors; ++v) score[v] = Sub(score[v], base);
  Exp2(score);
  BRAID_UNROLL for (int v = 0; v < kPieceVectors; ++v) {
    score[v] = where_seen(v, score[v], Zero16());
    sum = Add(sum, score[v]);
    if constexpr (kScales) score[v] = Mul(score[v], Load16(scales[v / 2] + v % 2 * 16));
    Store(p + 16 * v, score[v]);
  }
  Store(state.sum + 16 * r, sum);
}

// An item on its way through the context. Row r of its key head h is row h * rows + r of a Running.
struct AttentionWalk {
  AttentionWalk(const Attention& attention, const AttentionItem& item)
      : op(attention),
        first_head(item.head_begin),
        heads(item.head_end - item.head_begin),
        begin(item.tile.begin),
        rows(item.tile.end - item.tile.begin),
        position(item.tile.position),
        group(op.heads / op.kv_heads),
        dim(KvArena::RowDim(op.head_dim)),
        part_unit(op.arena.type == KvType::kInt8 ? kPartUnit<int8_t> : kPartUnit<uint16_t>),
        queries_stride(int64_t{rows + kRowsAtOnce - 1} / kRowsAtOnce * kRowsAtOnce * op.head_dim) {}

  int64_t Offset(int head, int r) const {  // of a row in q and y
    const int row = begin + r;
    return (int64_t{row / group} * op.heads + (first_head + head) * group + row % group) * op.head_dim;
  }
  const KvRow& where(int r) const { return op.rows[(begin + r) / group]; }
  int spans() const { return position / Attention::kSpanTokens + 1; }
  Running State(float* memory) const { return Running(memory, heads * rows, dim); }

  // Six by six rows, transposed; times what makes scores exponents of two, of keys as LoadPart gives them.
  void LoadQueries() {
    const float scale = 1.44269504f / std::sqrt(static_cast<float>(op.head_dim)) / part_unit;
    for (int head = 0; head < heads; ++head) {
      for (int r = 0; r < rows; ++r) {
        const float* from = op.q + Offset(head, r);
        float* to = q + head * queries_stride + int64_t{r - r % kRowsAtOnce} * op.head_dim + r % kRowsAtOnce;
        for (int d = 0; d < op.head_dim; ++d) to[d * kRowsAtOnce] = from[d] * scale;
      }
    }
  }

  template <typename Number>
  Piece<Number> Locate(int start, int head) const {
    Piece<Number> piece;
    const int32_t* blocks = where(0).blocks;
    const int last = position / kBlockTokens;
    const int next_head = first_head + (head + 1) % heads, skip = (head + 1) / heads * kPieceBlocks;
    for (int b = 0; b < kPieceBlocks; ++b) {
      const int block = start / kBlockTokens + b, next_block = block + skip;
      const int32_t now = blocks[std::min(block, last)], next = blocks[std::min(next_block, last)];
      piece.keys[b] = reinterpret_cast<const Number*>(op.arena.keys(now, first_head + head));
      piece.values[b] = reinterpret_cast<const Number*>(op.arena.values(now, first_head + head));
      piece.next_keys[b] = reinterpret_cast<const Number*>(op.arena.keys(next, next_head));
      piece.next_values[b] = reinterpret_cast<const Number*>(op.arena.values(next, next_head));
      if constexpr (kScaled<Number>) {
        piece.key_scales[b] = op.arena.key_scales(now, first_head + head);
        piece.value_scales[b] = op.arena.value_scales(now, first_head + head);
        const float* scales = op.arena.key_scales(next, next_head);
        BRAID_UNROLL for (int i = 0; i < 2 * kBlockTokens; i += 16) __builtin_prefetch(scales + i);
      }
    }
    return piece;
  }

  // Rows [first, first + n), n <= 6, of a head meet the piece from position `start` on.
  template <typename Number>
  void MeetPiece(const Running& state, const Piece<Number>& piece, int start, int head, int first, int n) {
    int count[kRowsAtOnce], least = kPieceTokens, most = 0;
    for (int r = 0; r < n; ++r) {
      count[r] = std::clamp(where(first + r).position + 1 - start, 0, kPieceTokens);
      least = std::min(least, count[r]), most = std::max(most, count[r]);
    }
    if (most == 0) return;
    alignas(64) float p[kRowsAtOnce * kPieceTokens];
    const int at = head * rows + first;
    const float* six = q + head * queries_stride + int64_t{first} * op.head_dim;
    float* y = state.y + int64_t{at} * dim;
    ByRows(n,
           [&]<int R>(int r) { ScoresOfRows<R>(six + r, piece, (most + 15) / 16, op.head_dim, p + r * kPieceTokens); });
    for (int r = 0; r < n; ++r) {
      if (count[r] == kPieceTokens) {
        Update<true, kScaled<Number>>(state, at + r, dim, piece.value_scales, p + r * kPieceTokens, count[r]);
      } else if (count[r] > 0) {
        Update<false, kScaled<Number>>(state, at + r, dim, piece.value_scales, p + r * kPieceTokens, count[r]);
      }
    }
    // What all see goes together; a row never touches a value that it does not see.
    ByRows(n,
           [&]<int R>(int r) { AddValuesOfRows<R>(p + r * kPieceTokens, piece, 0, least, dim, y + int64_t{r} * dim); });
    for (int r = 0; r < n; ++r)
      if (count[r] > least) AddValuesOfRows<1>(p + r * kPieceTokens, piece, least, count[r], dim, y + int64_t{r} * dim);
  }

  void WalkSpan(const Running& state, int span) {
    op.arena.type == KvType::kInt8 ? WalkSpanOf<int8_t>(state, span) : WalkSpanOf<uint16_t>(state, span);
  }
  template <typename Number>
  void WalkSpanOf(const Running& state, int span) {
    std::fill_n(state.y, int64_t{heads} * rows * dim, 0.0f);
    std::fill_n(state.sum, heads * rows * 16, 0.0f);
    std::fill_n(state.base, heads * rows, std::numeric_limits<float>::lowest());
    const int begin_at = span * Attention::kSpanTokens;
    const int end_at = std::min(position + 1, begin_at + Attention::kSpanTokens);
    for (int start = begin_at; start < end_at; start += kPieceTokens) {
      for (int head = 0; head < heads; ++head) {
        const Piece<Number> piece = Locate<Number>(start, head);
        for (int r = 0; r < rows; r += kRowsAtOnce)
          MeetPiece(state, piece, start, head, r, std::min(kRowsAtOnce, rows - r));
      }
    }
  }

  // total and the span behind it. A row that does not see the span stays as it is.
  void Merge(const Running& total, const Running& part, int span) const {
    for (int i = 0; i < heads * rows; ++i) {
      if (where(i % rows).position < span * Attention::kSpanTokens) continue;
      const float base = std::max(total.base[i], part.base[i]);
      const V16 old_factor = Exp2(Broadcast16(total.base[i] - base));
      const V16 new_factor = Exp2(Broadcast16(part.base[i] - base));
      const auto merge = [&](float* a, const float* b) {
        Store(a, Fma(Load16(b), new_factor, Mul(Load16(a), old_factor)));
      };
      total.base[i] = base;
      merge(total.sum + 16 * i, part.sum + 16 * i);
      for (int d = 0; d < dim; d += 16) merge(total.y + int64_t{i} * dim + d, part.y + int64_t{i} * dim + d);
    }
  }

  void Finish(const Running& total) const {
    for (int i = 0; i < heads * rows; ++i) {
      const float inverse = 1.0f / part_unit / Sum(Load16(total.sum + 16 * i));
      const float* from = total.y + int64_t{i} * dim;
      float* to = op.y + Offset(i / rows, i % rows);
      for (int d = 0; d < op.head_dim; ++d) to[d] = from[d] * inverse;
    }
  }

  const Attention& op;
  const int first_head, heads, begin, rows, position, group, dim;
  const float part_unit;
  const int64_t queries_stride;
  alignas(64) float q[kAttentionTileFloats];
};

inline constexpr int kRunningFloats = kAttentionTileFloats + kAttentionTileRowsMax * (16 + 1);

void Attend(const Attention& op, const AttentionItem& item) {
  AttentionWalk walk(op, item);
  walk.LoadQueries();
  alignas(64) float memory[2][kRunningFloats];
  const Running total = walk.State(memory[0]), part = walk.State(memory[1]);
  walk.WalkSpan(total, 0);
  for (int span = 1; span < walk.spans(); ++span) {
    walk.WalkSpan(part, span);
    walk.Merge(total, part, span);
  }
  walk.Finish(total);
}

void AttendSpan(const Attention& op, const AttentionItem& item) {
  AttentionWalk walk(op, item);
  walk.LoadQueries();
  walk.WalkSpan(walk.State(item.partial), item.span);
}

void MergeSpans(const Attention& op, const AttentionItem& item) {
  const AttentionWalk walk(op, item);
  const Running total = walk.State(item.partial);
  const int64_t stride = AttentionPartialFloats(walk.heads * walk.rows, op.head_dim);
  for (int span = 1; span < walk.spans(); ++span) walk.Merge(total, walk.State(item.partial + span * stride), span);
  walk.Finish(total);
}

}  // namespace braid::BRAID_LEVEL
