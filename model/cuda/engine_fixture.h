#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <vector>

#include "model/cuda/device_engine.h"
#include "model/engine.h"
#include "model/random_model.h"

// For tests: a small model, and the engine of a (fake) device that runs sequences of it, cut into steps as one likes.

namespace braid::gpu {

// In rows.
struct TinyModel : RandomModel {
  explicit TinyModel(DType type, bool moe = true) : RandomModel(Shape(moe), type, /*panels=*/false) {
    tensors.final_norm = Add(DType::kF32, 1, config.model_dim);
  }

  static ModelConfig Shape(bool moe) {
    ModelConfig config;
    using Kind = ModelConfig::LayerKind;
    config.architecture = moe ? "lfm2moe" : "lfm2";
    config.model_dim = 64;
    config.vocab_size = 56;
    config.layers = {Kind::kConv, Kind::kAttention, Kind::kConv, Kind::kAttention};
    config.heads = 4;
    config.kv_heads = 2;
    config.head_dim = 32;
    config.dense_ffn_dim = 96;
    config.dense_layers = moe ? 1 : 4;
    config.experts = moe ? 8 : 0;
    config.experts_per_token = moe ? 3 : 0;
    config.expert_ffn_dim = 32;
    config.context_tokens_max = 1024;
    return config;
  }
};

inline DeviceEngineOptions SmallOptions(DType precision) {
  DeviceEngineOptions options;
  options.precision = precision;
  options.step_tokens_max = 128;
  options.states = {.blocks = 64, .sequences = 8, .snapshots = 2};
  options.logit_rows = 16;
  return options;
}

inline bool NeverStop() { return false; }

class DeviceFixture {
 public:
  DeviceFixture(const ModelConfig* config, const ModelTensors* tensors, const DeviceEngineOptions& options)
      : config_(*config) {
    absl::StatusOr<Device> device = OpenDevice(0);
    EXPECT_TRUE(device.ok()) << device.status();
    auto engine = DeviceEngine::Create(*device, config, tensors, options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    EXPECT_TRUE(engine_->Load(NeverStop).ok());
    if (config->experts > 0 && options.expert_places == 0) UseExperts({});
  }

  // Those of the steps from now on.
  void UseExperts(const std::vector<bool>& wanted) {
    auto held = engine_->LoadExperts(wanted, NeverStop);
    ASSERT_TRUE(held.ok()) << held.status();
    ffn_ = engine_->MakeExpertFfn(*std::move(held));
    auto experts = engine_->MakeLocalExperts(ffn_.get());
    ASSERT_TRUE(experts.ok()) << experts.status();
    experts_ = *std::move(experts);
  }

  // Blocks are handed out from the top, so that they never lie in order; all is what earlier sequences have left.
  SequenceCache NewSequence(int tokens) {
    SequenceCache cache;
    cache.conv_slot = next_slot_ = (next_slot_ + 1) % engine_->states().sizes().sequences;
    while (static_cast<int>(cache.blocks.size()) * kKvBlockTokens < tokens) cache.blocks.push_back(NextBlock());
    return cache;
  }

  std::vector<float> Step(std::span<const Chunk> chunks) {
    std::vector<float> logits;
    const absl::Status status = engine_->Run(chunks, runner(), &logits);
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

  ExpertRunner& runner() { return experts_ ? static_cast<ExpertRunner&>(*experts_) : none_; }
  LocalExperts& experts() { return *experts_; }
  DeviceEngine& engine() { return *engine_; }

 private:
  // Of a dense model.
  class NoExperts : public ExpertRunner {
   public:
    absl::Status Enqueue(const RoutedRows&, cudaStream_t) override { return absl::InternalError("there are none"); }
  };

  int32_t NextBlock() {
    const int blocks = engine_->states().sizes().blocks;
    return next_block_ = (next_block_ + blocks - 1) % blocks;
  }

  const ModelConfig& config_;
  NoExperts none_;
  std::unique_ptr<DeviceEngine> engine_;
  std::unique_ptr<DeviceExpertFfn> ffn_;
  std::unique_ptr<LocalExperts> experts_;
  int32_t next_block_ = 0, next_slot_ = 0;
};

}  // namespace braid::gpu
