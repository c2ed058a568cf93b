#include "model/cuda/step_inputs.h"

#include <algorithm>

#include "base/check.h"

namespace braid::gpu {
namespace {

int EndOf(const Chunk& chunk) { return chunk.position + static_cast<int>(chunk.tokens.size()); }

int SpansOf(const StepRows& step) {
  int end = 0;
  for (const Chunk& chunk : step.chunks) end = std::max(end, EndOf(chunk));
  return SpansFor(end);
}

// Calls tile(first row, rows) for each tile of a chunk whose first row is `row`.
template <typename F>
void ForEachTile(const Chunk& chunk, int row, TileRows tile_rows, const F& tile) {
  const int tokens = static_cast<int>(chunk.tokens.size());
  for (int at = 0; at < tokens; at += tile_rows.most) tile(row + at, std::min(tile_rows.most, tokens - at));
}

}  // namespace

StepInputs StepInputs::At(const StepShape& shape, std::byte* memory) {
  StepInputs inputs{};
  size_t at = 0;
  const auto take = [&]<typename T>(T*& pointer, int64_t count) {
    pointer = memory == nullptr ? nullptr : reinterpret_cast<T*>(memory + at);
    at += (static_cast<size_t>(count) * sizeof(T) + 15) / 16 * 16;
  };
  for (int32_t** rows : {&inputs.tokens, &inputs.positions, &inputs.sequences, &inputs.piece_of})
    take(*rows, shape.rows);
  take(inputs.wanted, shape.wanted);
  take(inputs.blocks, int64_t{shape.sequences} * shape.blocks());
  take(inputs.pieces, shape.sequences);
  take(inputs.saves, shape.saves);
  take(inputs.tiles, int64_t{shape.few_tiles} + shape.tiles);
  inputs.bytes = at;
  return inputs;
}

int SpansFor(int end) {
  int spans = 1;
  while (spans * PagedAttention::kSpanTokens < end) spans *= 2;
  return spans;
}

StepShape DecodeShape(const StepRows& step, int rows) {
  return {.rows = rows, .sequences = rows, .spans = SpansOf(step), .wanted = rows, .tokens_max = 1};
}

StepShape ShapeOf(const StepRows& step, TileRows tile_rows) {
  StepShape shape{.rows = step.count(),
                  .sequences = static_cast<int>(step.chunks.size()),
                  .spans = SpansOf(step),
                  .wanted = static_cast<int>(step.wanted.size())};
  for (const Chunk& chunk : step.chunks) {
    shape.tokens_max = std::max(shape.tokens_max, static_cast<int>(chunk.tokens.size()));
    shape.saves += static_cast<int>(chunk.saves.size());
    ForEachTile(chunk, 0, tile_rows, [&](int, int rows) { ++(rows <= tile_rows.few ? shape.few_tiles : shape.tiles); });
  }
  if (shape.tokens_max == 1) shape.tiles = shape.few_tiles = 0;
  return shape;
}

void Cut(const StepRows& step, int begin, int end, StepPart* part) {
  part->chunks.clear();
  part->saves.clear();
  size_t saves = 0;
  for (const Chunk& chunk : step.chunks) saves += chunk.saves.size();
  part->saves.reserve(saves);  // pieces point into them
  int row = 0;
  for (const Chunk& chunk : step.chunks) {
    const int size = static_cast<int>(chunk.tokens.size());
    const int from = std::clamp(begin - row, 0, size), to = std::clamp(end - row, 0, size);
    row += size;
    if (from == to) continue;
    Chunk& piece = part->chunks.emplace_back(chunk);
    piece.position += from;
    piece.tokens = chunk.tokens.subspan(static_cast<size_t>(from), static_cast<size_t>(to - from));
    if (chunk.logits == Chunk::Logits::kLast && to < size) piece.logits = Chunk::Logits::kNone;
    const size_t first = part->saves.size();
    for (const ColumnsSave& save : chunk.saves)
      if (save.position > piece.position && save.position <= chunk.position + to) part->saves.push_back(save);
    piece.saves = std::span(part->saves).subspan(first);
  }
  StepRows& rows = part->rows;
  rows.chunks = part->chunks;
  rows.tokens.assign(step.tokens.begin() + begin, step.tokens.begin() + end);
  rows.positions.assign(step.positions.begin() + begin, step.positions.begin() + end);
  rows.wanted.clear();
  for (const int32_t wanted : step.wanted)
    if (wanted >= begin && wanted < end) rows.wanted.push_back(wanted - begin);
}

void Fill(const StepRows& step, const StepShape& shape, TileRows tile_rows, const StepInputs& inputs) {
  CHECK(step.count() <= shape.rows && static_cast<int>(step.chunks.size()) <= shape.sequences);
  const int stride = shape.blocks();
  int row = 0, piece = 0;
  ConvSave* save = inputs.saves;
  AttentionTile *few_tile = inputs.tiles, *tile = inputs.tiles + shape.few_tiles;
  const bool tiled = shape.tiles + shape.few_tiles > 0;
  for (const Chunk& chunk : step.chunks) {
    const int tokens = static_cast<int>(chunk.tokens.size());
    inputs.pieces[piece] = {row, tokens, chunk.position, chunk.cache->conv_slot};
    for (const ColumnsSave& made : chunk.saves) *save++ = {piece, made.position, made.copy};
    if (tiled) {
      ForEachTile(chunk, row, tile_rows, [&](int first_row, int rows) {
        *(rows <= tile_rows.few ? few_tile : tile)++ = {first_row, rows};
      });
    }
    const int used = (EndOf(chunk) + kKvBlockTokens - 1) / kKvBlockTokens;
    std::copy_n(chunk.cache->blocks.begin(), used, inputs.blocks + int64_t{piece} * stride);
    std::fill_n(inputs.sequences + row, tokens, piece);
    std::fill_n(inputs.piece_of + row, tokens, piece);
    row += tokens;
    ++piece;
  }
  std::copy(step.tokens.begin(), step.tokens.end(), inputs.tokens);
  std::copy(step.positions.begin(), step.positions.end(), inputs.positions);
  std::copy(step.wanted.begin(), step.wanted.end(), inputs.wanted);
  // Padding reads what is there in any case: token 0, the first sequence's blocks, the first rows.
  const int padding = shape.rows - row;
  std::fill_n(inputs.tokens + row, padding, 0);
  std::fill_n(inputs.positions + row, padding, -1);
  std::fill_n(inputs.sequences + row, padding, 0);
  std::fill_n(inputs.piece_of + row, padding, -1);
  std::fill(inputs.pieces + piece, inputs.pieces + shape.sequences, ConvPiece{});
  std::fill(inputs.wanted + step.wanted.size(), inputs.wanted + shape.wanted, 0);
}

}  // namespace braid::gpu
