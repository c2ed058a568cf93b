#include "expert_worker/tiny_model.h"

#include <string>
#include <utility>

namespace braid {
namespace {

ModelConfig Config() {
  using Kind = ModelConfig::LayerKind;
  ModelConfig config = TinyConfig();
  config.vocab_size = TinyWorkerModel::kVocab;
  config.layers = {Kind::kConv, Kind::kAttention, Kind::kConv, Kind::kAttention};
  config.experts = 8;
  config.experts_per_token = 3;
  return config;
}

}  // namespace

TinyWorkerModel::TinyWorkerModel() : TinyModel(Config()) {
  digest_ = "tiny";
  TokenizerSpec spec;
  for (int id = 0; id < kVocab; ++id) spec.tokens.push_back(id == kNoToken ? "" : "t" + std::to_string(id));
  set_tokenizer(std::move(spec));
}

}  // namespace braid
