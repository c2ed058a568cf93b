#pragma once

#include <string>

#include "model/model_file.h"

namespace braid {

// What a person wants to know of a model before serving it, as lines of text: shape, experts, weight types, parameters,
// memory, tokenizer, chat template.
std::string DescribeModel(const ModelFile& model);

// 4,734,976 bytes as "4.73 MB": powers of 1000, three digits.
std::string HumanBytes(uint64_t bytes);

}  // namespace braid
