#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "base/status.h"
#include "model/hf_tokenizer.h"
#include "model/json_reader.h"

namespace braid {

inline std::string ReadTextFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A tokenizer.json, with the tokenizer_config.json beside it if there is one.
inline absl::StatusOr<TokenizerSpec> LoadTokenizerSpec(const std::filesystem::path& path) {
  constexpr int kVocabSize = 1 << 20;  // no model here to say how many rows it has
  ASSIGN_OR_RETURN(const nlohmann::json tokenizer, ParseJson(ReadTextFile(path)));
  nlohmann::json config = nlohmann::json::object();
  const auto config_path = path.parent_path() / "tokenizer_config.json";
  if (std::filesystem::exists(config_path)) {
    ASSIGN_OR_RETURN(config, ParseJson(ReadTextFile(config_path)));
  }
  return ReadHfTokenizer(tokenizer, config, {}, kVocabSize);
}

}  // namespace braid
