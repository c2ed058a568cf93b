// tokenizer_bench TOKENIZER_JSON FILE...   how fast one core encodes and decodes each file; a line of JSON per file.
//
//   bytes, tokens        of the file
//   encode_mb_s          the whole file as one text, the median of several runs
//   decode_mb_s          its ids back to bytes
//   prompt_ms            a prompt of 128K tokens: the beginning of the file, over and over if it is short
//   prompt_cold_ms       the same with the caches full of other things, as a server finds them between requests
//   digest               of the ids; equal digests mean equal ids
//
// Driven by bench.py, which brings texts and the vocabularies and measures `tokenizers` beside it.

#include <algorithm>
#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "model/tokenizer.h"
#include "tests/tokenizer/load_tokenizer.h"

namespace {

using braid::TokenId;
using braid::Tokenizer;

constexpr int kRuns = 9;
constexpr size_t kPromptTokens = 128 << 10;
constexpr size_t kCachesBytes = size_t{96} << 20;

// What the process has used of a core: waiting while others have it does not count.
double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

template <typename F>
double Seconds(F run) {
  const double start = CpuSeconds();
  run();
  return CpuSeconds() - start;
}

// `prepare` runs before each run and is not counted.
template <typename F, typename P>
double MedianSeconds(F run, P prepare) {
  std::vector<double> seconds;
  for (int i = 0; i < kRuns; ++i) {
    prepare();
    seconds.push_back(Seconds(run));
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return seconds[kRuns / 2];
}

void Nothing() {}

void FillCaches() {
  static std::vector<uint64_t> memory(kCachesBytes / sizeof(uint64_t));
  for (uint64_t& word : memory) ++word;
}

uint64_t Digest(const std::vector<TokenId>& ids) {
  return std::accumulate(ids.begin(), ids.end(), uint64_t{14695981039346656037u},
                         [](uint64_t sum, TokenId id) { return (sum ^ static_cast<uint64_t>(id)) * 1099511628211u; });
}

// The first bytes of `text` that make 128K tokens.
std::string Prompt(const Tokenizer& tokenizer, std::string text, std::vector<TokenId> ids) {
  while (ids.size() < kPromptTokens) {
    text += "\n" + text;
    ids = tokenizer.Encode(text, Tokenizer::Specials::kPlain);
  }
  size_t bytes = 0;
  for (size_t i = 0; i < kPromptTokens; ++i) bytes += tokenizer.Bytes(ids[i]).size();
  return text.substr(0, bytes);
}

nlohmann::ordered_json Measure(const Tokenizer& tokenizer, const std::string& path) {
  const std::string text = braid::ReadTextFile(path);
  std::vector<TokenId> ids;
  std::string decoded;
  const auto encode = [&] { ids = tokenizer.Encode(text, Tokenizer::Specials::kPlain); };
  const double encode_s = MedianSeconds(encode, Nothing);
  const double decode_s = MedianSeconds([&] { decoded = tokenizer.Decode(ids, /*keep_specials=*/true); }, Nothing);
  const std::string prompt = Prompt(tokenizer, text, ids);
  std::vector<TokenId> prompt_ids;
  const auto encode_prompt = [&] { prompt_ids = tokenizer.Encode(prompt, Tokenizer::Specials::kPlain); };
  const double prompt_s = MedianSeconds(encode_prompt, Nothing);
  const double cold_s = MedianSeconds(encode_prompt, FillCaches);
  const double mb = static_cast<double>(text.size()) * 1e-6;
  return {{"file", path},
          {"bytes", text.size()},
          {"tokens", ids.size()},
          {"encode_mb_s", mb / encode_s},
          {"decode_mb_s", mb / decode_s},
          {"prompt_tokens", prompt_ids.size()},
          {"prompt_ms", prompt_s * 1e3},
          {"prompt_cold_ms", cold_s * 1e3},
          {"digest", Digest(ids)},
          {"round_trip", decoded == text}};
}

int Fail(const std::string& message) {
  std::cerr << message << "\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return Fail("usage: tokenizer_bench TOKENIZER_JSON FILE...");
  auto spec = braid::LoadTokenizerSpec(argv[1]);
  if (!spec.ok()) return Fail(spec.status().ToString());
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = absl::UnknownError("not created");
  const double create_s = Seconds([&] { tokenizer = Tokenizer::Create(*std::move(spec)); });
  if (!tokenizer.ok()) return Fail(tokenizer.status().ToString());
  for (int i = 2; i < argc; ++i) {
    nlohmann::ordered_json result = Measure(**tokenizer, argv[i]);
    result["create_ms"] = create_s * 1e3;
    std::cout << result.dump() << std::endl;
  }
  return 0;
}
