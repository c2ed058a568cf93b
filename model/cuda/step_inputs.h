#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/kv.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/short_conv.h"
#include "model/chunk.h"
#include "model/config.h"

namespace braid::gpu {

// How large a step is. Launches depend on this alone: steps of one shape are one graph.
struct StepShape {
  int rows = 0;        // with those that pad it
  int sequences = 0;   // and pieces; with padding
  int spans = 0;       // of the longest context, rounded up: see SpansFor
  int wanted = 0;      // rows that somebody wants logits of; with padding
  int tiles = 0;       // of attention
  int few_tiles = 0;   // of few rows, before the others; 0 of both: each row is a tile
  int saves = 0;       // of conv columns
  int tokens_max = 0;  // of any piece

  int blocks() const { return spans * PagedAttention::kSpanTokens / KvArena::kBlockTokens; }  // of a sequence
  friend bool operator==(const StepShape&, const StepShape&) = default;
};

// What the kernels of a step read, in one stretch of memory: made on the host, copied to the device at once.
struct StepInputs {
  // (rows); token below 0: one that was drawn, see Gather; position and piece -1: padding
  int32_t *tokens, *positions, *sequences, *piece_of;
  int32_t* wanted;    // (wanted), rows
  int32_t* blocks;    // (sequences, shape.blocks())
  ConvPiece* pieces;  // (sequences), one for each; no tokens: padding
  ConvSave* saves;
  AttentionTile* tiles;  // (few_tiles + tiles)
  size_t bytes;

  // At `memory`, a multiple of 16 bytes; nullptr: only `bytes` is asked for.
  static StepInputs At(const StepShape& shape, std::byte* memory);
};

// How many rows tiles of attention have at most: those of a prefill, and those of what looks like a decode. The two are
// worked on apart: what a prefill needs to go fast would leave most of a GPU idle beside one row.
struct TileRows {
  int most, few;
};

// That of a decode step, each chunk one token whose logits are wanted, padded to `rows`: pieces, wanted rows and rows
// are the same. REQUIRES: rows >= the chunks' number.
StepShape DecodeShape(const StepRows& step, int rows);
// Of any step.
StepShape ShapeOf(const StepRows& step, TileRows tile_rows);
// So many spans, a power of two, that positions below `end` are in them.
int SpansFor(int end);

// Some rows of a step, as a step of their own behind that of the rows before them: chunks may be cut.
struct StepPart {
  StepRows rows;  // but for kv
  std::vector<Chunk> chunks;
  std::vector<ColumnsSave> saves;
};
// The rows [begin, end). `step` must outlive the use of *part.
void Cut(const StepRows& step, int begin, int end, StepPart* part);

// REQUIRES: `shape` is that of the step, `inputs` is at host memory.
void Fill(const StepRows& step, const StepShape& shape, TileRows tile_rows, const StepInputs& inputs);

}  // namespace braid::gpu
