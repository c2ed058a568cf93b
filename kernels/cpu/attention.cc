#include "kernels/attention.h"

#include <algorithm>
#include <bit>

#include "kernels/cpu/level.h"
#include "kernels/half.h"

namespace braid {
namespace {

// As many items as this for each thread keep all of them busy to the end.
constexpr int kItemsPerThread = 8;

int Spans(const AttentionTile& tile) { return tile.position / Attention::kSpanTokens + 1; }

// What makes 127 steps either way of the largest of n numbers. Numbers that are not finite make one that is not.
float Int8Scale(const float* x, int n) {
  uint32_t largest = 0;  // the bits of sizes, which rise as they do
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFF);
  return std::bit_cast<float>(largest) * (1.0f / 127);
}

struct ToInt8 {
  explicit ToInt8(float scale) : inverse(scale > 0 ? 1.0f / scale : 0.0f) {}
  int8_t operator()(float x) const {
    constexpr float kWhole = 0x1.8p23f;  // a number of this size has no room for a fraction, so it is rounded
    const float rounded = std::clamp(x * inverse, -127.0f, 127.0f) + kWhole;
    return static_cast<int8_t>(std::bit_cast<int32_t>(rounded) - std::bit_cast<int32_t>(kWhole));
  }
  const float inverse;
};

// Key and value of position j of a block, as `key_number` and `value_number` make them of floats.
template <typename Number, typename KeyNumber, typename ValueNumber>
void StoreHead(const KvArena& arena, int32_t block, int head, int j, const float* k, const float* v,
               const KeyNumber& key_number, const ValueNumber& value_number) {
  constexpr int P = KvArena::kWordBytes / sizeof(Number);
  const int dim = arena.head_dim;
  Number* key = reinterpret_cast<Number*>(arena.keys(block, head)) + j * P;
  Number* value = reinterpret_cast<Number*>(arena.values(block, head)) + j / P * KvArena::RowDim(dim) * P + j % P;
  for (int d = 0; d < dim; d += P, key += P * KvArena::kBlockTokens)
    for (int part = 0; part < P; ++part) key[part] = key_number(k[d + part]);
  for (int d = 0; d < dim; ++d) value[d * P] = value_number(v[d]);
}

void StorePosition(const KvStore& op, int t) {
  const KvArena& arena = op.arena;
  const int dim = arena.head_dim, position = op.rows[t].position;
  const int32_t block = op.rows[t].blocks[position / KvArena::kBlockTokens];
  const int j = position % KvArena::kBlockTokens;
  for (int head = 0; head < arena.kv_heads; ++head) {
    const int64_t at = (int64_t{t} * arena.kv_heads + head) * dim;
    const float *k = op.k + at, *v = op.v + at;
    if (arena.type == KvType::kInt8) {
      const float key_scale = Int8Scale(k, dim), value_scale = Int8Scale(v, dim);
      arena.key_scales(block, head)[j] = key_scale;
      arena.value_scales(block, head)[j] = value_scale;
      StoreHead<int8_t>(arena, block, head, j, k, v, ToInt8(key_scale), ToInt8(value_scale));
    } else {
      StoreHead<uint16_t>(arena, block, head, j, k, v, BFloat16FromFloat, BFloat16FromFloat);
    }
  }
}

// Runs of rows of one sequence, cut into tiles.
void CutIntoTiles(const Attention& op, std::vector<AttentionTile>* tiles) {
  const int group = op.heads / op.kv_heads;
  const int rows_max = AttentionTileRows(op.head_dim);
  tiles->clear();
  for (int t = 0, end; t < op.T; t = end) {
    for (end = t + 1; end < op.T && op.rows[end].blocks == op.rows[t].blocks;) ++end;
    for (int begin = t * group; begin < end * group; begin += rows_max) {
      AttentionTile tile{begin, std::min(begin + rows_max, end * group), 0};
      for (int i = begin / group; i <= (tile.end - 1) / group; ++i)
        tile.position = std::max(tile.position, op.rows[i].position);
      tiles->push_back(tile);
    }
  }
}

// Key heads that an item of this tile takes, as far as its rows leave room and no more than `most`.
int HeadsTogether(const AttentionTile& tile, int head_dim, int most) {
  const int rows = (tile.end - tile.begin + 5) / 6 * 6;
  return std::clamp(AttentionTileRows(head_dim) / rows, 1, most);
}

// Calls add(tile, head_begin, head_end). Key heads outside, tiles inside: neighbours read the same keys.
template <typename F>
void ForEachItem(const Attention& op, const std::vector<AttentionTile>& tiles, int heads_most, const F& add) {
  for (int head = 0; head < op.kv_heads; ++head) {
    for (const AttentionTile& tile : tiles) {
      const int together = HeadsTogether(tile, op.head_dim, heads_most);
      if (head % together == 0) add(tile, head, std::min(head + together, op.kv_heads));
    }
  }
}

// The most heads together that still give every thread enough to do, of tiles over their whole context (in_spans:
// counted by span).
int ChooseHeads(const Attention& op, const std::vector<AttentionTile>& tiles, int threads, bool in_spans) {
  int heads = op.kv_heads;
  for (; heads > 1; heads = (heads + 1) / 2) {
    int64_t items = 0;
    ForEachItem(op, tiles, heads, [&](const AttentionTile& tile, int, int) { items += in_spans ? Spans(tile) : 1; });
    if (threads == 1 || items >= int64_t{kItemsPerThread} * threads) break;
  }
  return heads;
}

void RunWhole(const Attention& op, AttentionScratch& scratch, ThreadPool& pool) {
  const CpuLevel& level = ActiveCpuLevel();
  scratch.items.clear();
  ForEachItem(op, scratch.tiles, ChooseHeads(op, scratch.tiles, pool.threads(), false),
              [&](const AttentionTile& tile, int begin, int end) {
                scratch.items.push_back({tile, begin, end});
              });
  pool.ParallelFor(static_cast<int>(scratch.items.size()), 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) level.attend(op, scratch.items[i]);
  });
}

void RunInSpans(const Attention& op, AttentionScratch& scratch, ThreadPool& pool) {
  const CpuLevel& level = ActiveCpuLevel();
  scratch.items.clear();
  scratch.merges.clear();
  int64_t floats = 0;
  for (const AttentionTile& tile : scratch.tiles)
    floats += AttentionPartialFloats(tile.end - tile.begin, op.head_dim) * Spans(tile) * op.kv_heads;
  if (scratch.partials.size() < static_cast<size_t>(floats)) scratch.partials.resize(static_cast<size_t>(floats));
  float* partial = scratch.partials.data();
  ForEachItem(op, scratch.tiles, ChooseHeads(op, scratch.tiles, pool.threads(), true),
              [&](const AttentionTile& tile, int begin, int end) {
                scratch.merges.push_back({tile, begin, end, 0, partial});
                for (int span = 0; span < Spans(tile); ++span) {
                  scratch.items.push_back({tile, begin, end, span, partial});
                  partial += AttentionPartialFloats((end - begin) * (tile.end - tile.begin), op.head_dim);
                }
              });
  pool.ParallelFor(static_cast<int>(scratch.items.size()), 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) level.attend_span(op, scratch.items[i]);
  });
  pool.ParallelFor(static_cast<int>(scratch.merges.size()), 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) level.merge_spans(op, scratch.merges[i]);
  });
}

}  // namespace

void Run(const KvStore& op, ThreadPool& pool) {
  pool.ParallelFor(op.T, 16, [&](int begin, int end) {
    for (int t = begin; t < end; ++t) StorePosition(op, t);
  });
}

void Run(const Attention& op, AttentionScratch& scratch, ThreadPool& pool) {
  CutIntoTiles(op, &scratch.tiles);
  const std::vector<AttentionTile>& tiles = scratch.tiles;
  const bool few = static_cast<int64_t>(tiles.size()) * op.kv_heads <= int64_t{kItemsPerThread} * pool.threads();
  const bool several_spans = std::ranges::any_of(tiles, [](const AttentionTile& tile) { return Spans(tile) > 1; });
  if (few && several_spans && pool.threads() > 1) return RunInSpans(op, scratch, pool);
  RunWhole(op, scratch, pool);
}

}  // namespace braid
