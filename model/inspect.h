#pragma once

#include <string>

#include "model/model_file.h"

namespace braid {

// What a person wants to know of a model before serving it, as lines of text: shape, experts, weight types, parameters,
// memory, tokenizer, chat template.
std::string DescribeModel(const ModelFile& model);

}  // namespace braid
