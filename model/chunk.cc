#include "model/chunk.h"

#include "base/check.h"

namespace braid {

void StepRows::LayOut(std::span<const Chunk> step) {
  chunks = step;
  tokens.clear();
  positions.clear();
  kv.clear();
  wanted.clear();
  for (const Chunk& chunk : step) {
    const int size = static_cast<int>(chunk.tokens.size()), end = chunk.position + size;
    CHECK(chunk.cache != nullptr && chunk.position >= 0 && size > 0);
    CHECK_LE(end, static_cast<int64_t>(chunk.cache->blocks.size()) * kKvBlockTokens) << "positions without a KV block";
    for (int i = 0; i < size; ++i) {
      if (chunk.logits == Chunk::Logits::kAll || (chunk.logits == Chunk::Logits::kLast && i == size - 1))
        wanted.push_back(count());
      tokens.push_back(chunk.tokens[i]);
      positions.push_back(chunk.position + i);
      kv.push_back({chunk.cache->blocks.data(), chunk.position + i});
    }
  }
  CHECK_LE(count(), kStepRowsMax);
}

}  // namespace braid
