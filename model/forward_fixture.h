#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "model/engine.h"

// For tests: a model that runs sequences, cut into steps as one likes.

namespace braid {

class ForwardFixture {
 public:
  ForwardFixture(const ModelConfig* config, const ModelTensors* tensors, int threads = 1, int kv_blocks = 64,
                 KvType kv_type = KvType::kBFloat16)
      : pool_(threads),
        states_(*config, {.blocks = kv_blocks, .sequences = kSequences}, kv_type),
        engine_(MakeEngine(config, tensors, &states_, &pool_)),
        experts_(config->experts, &engine_->experts(), &pool_) {}

  // A sequence with blocks for `tokens` positions. Blocks are handed out from the top, so that they never lie in order,
  // and all is what earlier sequences have left of it.
  SequenceCache NewSequence(int tokens) {
    SequenceCache cache;
    cache.conv_slot = next_slot_ = (next_slot_ + 1) % kSequences;
    while (static_cast<int>(cache.blocks.size()) * kKvBlockTokens < tokens) cache.blocks.push_back(NextBlock());
    return cache;
  }

  std::vector<float> Step(std::span<const Chunk> chunks) { return Step(chunks, experts_); }
  std::vector<float> Step(std::span<const Chunk> chunks, ExpertRunner& experts) {
    std::vector<float> logits;
    const absl::Status status = engine_->Run(chunks, experts, &logits);
    EXPECT_TRUE(status.ok()) << status;
    return logits;
  }

  // Logits (n, V) of all positions of a new sequence, prefilled in pieces of at most `piece` tokens.
  std::vector<float> Logits(std::span<const TokenId> tokens, int piece) {
    SequenceCache cache = NewSequence(static_cast<int>(tokens.size()));
    std::vector<float> all;
    for (size_t at = 0; at < tokens.size(); at += piece) {
      const auto part = tokens.subspan(at, std::min<size_t>(piece, tokens.size() - at));
      const Chunk chunk{&cache, static_cast<int>(at), part, Chunk::Logits::kAll};
      const std::vector<float> logits = Step({&chunk, 1});
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  }

  Engine& engine() { return *engine_; }
  LocalExperts& experts() { return experts_; }
  HostStates& states() { return states_; }

 private:
  static constexpr int kSequences = 64;

  int32_t NextBlock() {
    const int blocks = states_.sizes().blocks;
    return next_block_ = (next_block_ + blocks - 1) % blocks;
  }

  ThreadPool pool_;
  HostStates states_;
  std::unique_ptr<Engine> engine_;
  LocalExperts experts_;
  int32_t next_block_ = 0, next_slot_ = 0;
};

}  // namespace braid
