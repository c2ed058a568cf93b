#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "model/config.h"

namespace braid {

// A Hugging Face config.json of model_type lfm2 or lfm2_moe, in any of the spellings the hub has seen, or of
// braid_checksum, the model of the fault tests (tests/checksum_model.py). Options that
// would change the arithmetic and that we do not offer (biases, rope scaling, quantisation) are kInvalidArgument.
// `name` is the model's name. The result has passed Validate().
absl::StatusOr<ModelConfig> ReadHfConfig(const nlohmann::json& config, const std::string& name);

// The dense feed-forward dimension of an lfm2 config after block_auto_adjust_ff_dim. Source: transformers' Lfm2MLP.
int AdjustedFfnDim(int ffn_dim, std::optional<double> multiplier, int multiple_of);

// Ids of special tokens in config.json or generation_config.json; absent if not given, the first of a list.
struct HfSpecialIds {
  std::optional<int64_t> bos, eos, pad;
};
absl::StatusOr<HfSpecialIds> ReadHfSpecialIds(const nlohmann::json& config);

}  // namespace braid
