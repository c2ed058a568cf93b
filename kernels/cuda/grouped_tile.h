#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/grouped_linear.h"

namespace braid::gpu {

// Tiles of at most `tile_rows` rows, none over two experts, are numbered through. What a launch must provide for:
inline int TilesMax(const GroupedLinear& op, int tile_rows) {
  const int experts = op.rows_max < op.E ? op.rows_max : op.E;
  return (op.rows_max - experts) / tile_rows + experts;
}

struct GroupedTile {
  int expert, begin, end;  // rows [begin, end); none: a tile behind the last
};

// The first row of an expert's matrix in w. REQUIRES: the expert has rows.
__device__ inline int64_t FirstWeight(const GroupedLinear& op, int expert) {
  return static_cast<int64_t>(op.places == nullptr ? expert : op.places[expert]) * op.N;
}

// REQUIRES: all lanes of the warp are here, for the same tile.
__device__ inline GroupedTile FindTile(const GroupedLinear& op, int tile, int tile_rows, int lane) {
  int before = 0;  // tiles of the experts already looked at
  for (int at = 0; at < op.E; at += 32) {
    const int expert = at + lane;
    const int begin = op.offsets[min(expert, op.E)], end = op.offsets[min(expert + 1, op.E)];
    int tiles = (end - begin + tile_rows - 1) / tile_rows;  // inclusive sum
    const int own = tiles;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int left = __shfl_up_sync(kAllLanes, tiles, distance);
      if (lane >= distance) tiles += left;
    }
    const unsigned behind = __ballot_sync(kAllLanes, before + tiles > tile);
    if (behind != 0) {
      const int found = __ffs(static_cast<int>(behind)) - 1;
      const int first = begin + (tile - before - (tiles - own)) * tile_rows;
      const int found_begin = __shfl_sync(kAllLanes, first, found), found_end = __shfl_sync(kAllLanes, end, found);
      return {at + found, found_begin, min(found_end, found_begin + tile_rows)};
    }
    before += __shfl_sync(kAllLanes, tiles, 31);
  }
  return {0, 0, 0};
}

}  // namespace braid::gpu
