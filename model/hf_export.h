#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/conversion_plan.h"
#include "model/tokenizer_spec.h"

// The files of a Hugging Face directory, for a model that did not come from one.

namespace braid {

// config.json. `dtype` is the type of the matrices, a float type.
nlohmann::ordered_json HfConfigJson(const ModelConfig& config, const TokenizerSpec& tokenizer, bool tied_head,
                                    DType dtype);

// "bfloat16" and so on, as config.json spells a float type.
std::string HfDTypeName(DType dtype);

// tokenizer.json. kInvalidArgument if a token is not UTF-8, which JSON cannot hold.
absl::StatusOr<nlohmann::ordered_json> HfTokenizerJson(const TokenizerSpec& tokenizer);
nlohmann::ordered_json HfTokenizerConfigJson(const ModelConfig& config, const TokenizerSpec& tokenizer);
nlohmann::ordered_json HfGenerationConfigJson(const TokenizerSpec& tokenizer);

// Everything of a safetensors file before the data, which follows in order without gaps.
std::string EncodeSafetensorsHeader(const ConversionPlan& plan);

}  // namespace braid
