#pragma once

#include <optional>
#include <string>

#include "model/config.h"
#include "model/tensors.h"
#include "model/tokenizer_spec.h"

namespace braid {

// See ModelFile::digest(). The model's name is left out: it may come from a directory's name. Reads a few
// pages per tensor.
std::string ModelDigest(const ModelConfig& config, const ModelTensors& tensors, const TokenizerSpec* tokenizer,
                        const std::optional<std::string>& chat_template);

}  // namespace braid
