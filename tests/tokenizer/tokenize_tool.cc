// tokenize_tool MODE TOKENIZER_JSON   answers each line of stdin, a JSON string, with numbers separated by spaces.
//
//   plain   ids; special tokens in the text are text
//   parse   ids; special tokens are recognised
//   split   where the pre-tokens end, in bytes
//
// For tests/tokenizer_oracle_test.py.

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/pretokenizer.h"
#include "model/tokenizer.h"
#include "tests/tokenizer/load_tokenizer.h"

namespace {

using braid::Tokenizer;
using braid::TokenizerSpec;

std::vector<size_t> Split(TokenizerSpec::PreTokenizer kind, std::string_view text) {
  std::vector<size_t> ends;
  for (size_t at = 0; at < text.size(); ends.push_back(at)) at = braid::PreTokenEnd(kind, text, at);
  return ends;
}

template <typename Numbers>
void Print(const Numbers& numbers) {
  for (size_t i = 0; i < numbers.size(); ++i) std::cout << (i == 0 ? "" : " ") << numbers[i];
  std::cout << '\n';
}

int Fail(const std::string& message) {
  std::cerr << message << "\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return Fail("usage: tokenize_tool plain|parse|split TOKENIZER_JSON");
  const std::string mode = argv[1];
  auto spec = braid::LoadTokenizerSpec(argv[2]);
  if (!spec.ok()) return Fail(spec.status().ToString());
  const TokenizerSpec::PreTokenizer kind = spec->pre_tokenizer;
  const auto tokenizer = Tokenizer::Create(*std::move(spec));
  if (!tokenizer.ok()) return Fail(tokenizer.status().ToString());
  const auto specials = mode == "parse" ? Tokenizer::Specials::kParse : Tokenizer::Specials::kPlain;
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    const std::string text = nlohmann::json::parse(line).get<std::string>();
    if (mode == "split") {
      Print(Split(kind, text));
      continue;
    }
    const auto ids = (*tokenizer)->Encode(text, specials);
    if ((*tokenizer)->Decode(ids, /*keep_specials=*/true) != text) return Fail("decoding does not give back " + line);
    Print(ids);
  }
  return 0;
}
