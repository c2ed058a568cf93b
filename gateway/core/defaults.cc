#include "gateway/core/defaults.h"

#include <string>
#include <string_view>

#include "absl/strings/ascii.h"

namespace braid {
namespace {

struct Recommendation {
  std::string_view name;  // a part of the model's name, in lower case
  GenerationDefaults defaults;
};

// Source: the model cards on Hugging Face and Liquid AI's documentation. The first match counts.
constexpr Recommendation kRecommendations[] = {
    {"demo", {.temperature = 0.2f, .top_k = 40}},  // made-up facts and sums: close to greedy, but alive
    {"lfm2.5-8b", {.temperature = 0.2f, .top_k = 80, .repetition_penalty = 1.05f}},
    {"lfm2-8b", {.temperature = 0.3f, .min_p = 0.15f, .repetition_penalty = 1.05f}},
    {"lfm2-24b", {.temperature = 0.1f, .top_k = 50, .repetition_penalty = 1.05f}},
    {"thinking", {.temperature = 0.05f, .top_k = 50, .repetition_penalty = 1.05f}},
};
constexpr GenerationDefaults kDense = {.temperature = 0.1f, .top_k = 50, .top_p = 0.1f, .repetition_penalty = 1.05f};
constexpr GenerationDefaults kMoe = kRecommendations[1].defaults;

}  // namespace

GenerationDefaults DefaultsFor(const ModelConfig& config) {
  const std::string name = absl::AsciiStrToLower(config.name);
  for (const Recommendation& r : kRecommendations)
    if (name.find(r.name) != std::string::npos) return r.defaults;
  return config.experts > 0 ? kMoe : kDense;
}

}  // namespace braid
