#pragma once

#include "model/config.h"

namespace braid {

// What a request gets for the sampling parameters it leaves unset: what the model's makers recommend. Their model cards
// are the only source; neither generation_config.json nor GGUF holds these numbers.
struct GenerationDefaults {
  float temperature = 1;
  int top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
};

// Chosen by the model's name, else by its architecture.
GenerationDefaults DefaultsFor(const ModelConfig& config);

}  // namespace braid
