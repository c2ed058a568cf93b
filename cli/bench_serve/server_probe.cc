#include "cli/bench_serve/server_probe.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/status.h"
#include "cli/bench_serve/answer_chunk.h"
#include "cli/bench_serve/sse.h"

namespace braid {
namespace {

constexpr std::chrono::seconds kTimeout{60};
constexpr char kSafeIds[] = "[100,101,102]";  // of every vocabulary

// From most to least. Servers that check strictly, as Braid does, refuse what they do not know.
constexpr ServerDialect kDialects[] = {
    {PromptKind::kTokenIds, true, true, true},   {PromptKind::kTokenIds, true, true, false},
    {PromptKind::kTokenIds, false, true, false}, {PromptKind::kTokenIds, false, false, false},
    {PromptKind::kText, true, true, true},       {PromptKind::kText, true, true, false},
    {PromptKind::kText, false, true, false},     {PromptKind::kText, false, false, false},
};

struct Verdict {
  int status = 0;
  std::string error;  // empty: the answer was as it should be
  std::optional<TokenUsage> usage;
};

Verdict Judge(const HttpAnswer& answer) {
  Verdict verdict = {.status = answer.status};
  if (answer.status != 200) {
    verdict.error = "HTTP " + std::to_string(answer.status) + ": " + ErrorMessage(answer.body);
    return verdict;
  }
  SseParser parser;
  bool any = false;
  parser.Feed(answer.body, [&](std::string_view data) {
    const std::optional<AnswerChunk> chunk = ParseAnswerChunk(data);
    if (!chunk) return;
    any = true;
    if (chunk->error) verdict.error = *chunk->error;
    if (chunk->usage) verdict.usage = chunk->usage;
  });
  if (!any) verdict.error = "the answer is not a stream of JSON events";
  return verdict;
}

// No smaller request would be answered either.
absl::Status Hopeless(const Verdict& verdict) {
  switch (verdict.status) {
    case 401:
    case 403:
      return absl::PermissionDeniedError(verdict.error);
    case 404:
      return absl::NotFoundError(verdict.error);
    case 429:
    case 502:
    case 503:
    case 504:
      return absl::UnavailableError(verdict.error);
    default:
      return absl::OkStatus();
  }
}

class Prober {
 public:
  Prober(const LoadRunOptions& options, const ProbeWishes& wishes) : options_(options), wishes_(wishes) {
    facts_.model = wishes.model;
  }

  absl::StatusOr<ServerFacts> Run() {
    RETURN_IF_ERROR(AskModels());
    RETURN_IF_ERROR(FindDialect());
    RETURN_IF_ERROR(facts_.dialect.prompt == PromptKind::kTokenIds ? FindVocabulary() : MeasureWords());
    return facts_;
  }

 private:
  absl::Status AskModels() {
    ASSIGN_OR_RETURN(const HttpAnswer answer, Fetch(options_, "GET", "/v1/models", "", kTimeout));
    const auto json = nlohmann::json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
    const auto first = nlohmann::json::json_pointer("/data/0");
    if (!json.is_object() || !json.contains(first) || !json[first].is_object()) return absl::OkStatus();
    const nlohmann::json& model = json[first];
    if (facts_.model.empty() && model.contains("id") && model["id"].is_string()) facts_.model = model["id"];
    const auto vocabulary = nlohmann::json::json_pointer("/meta/n_vocab");  // llama.cpp says it
    if (model.contains(vocabulary) && model[vocabulary].is_number_integer()) vocabulary_ = model[vocabulary];
    return absl::OkStatus();
  }

  absl::StatusOr<Verdict> Try(const ServerDialect& dialect, const std::string& prompt) {
    const std::string body = RequestBody({.model = facts_.model, .dialect = dialect}, prompt, 1, 0);
    ASSIGN_OR_RETURN(const HttpAnswer answer, Fetch(options_, "POST", "/v1/completions", body, kTimeout));
    Verdict verdict = Judge(answer);
    RETURN_IF_ERROR(Hopeless(verdict));
    return verdict;
  }

  absl::Status FindDialect() {
    std::string error;
    for (const ServerDialect& dialect : kDialects) {
      if (wishes_.prompt && dialect.prompt != *wishes_.prompt) continue;
      const bool ids = dialect.prompt == PromptKind::kTokenIds;
      ASSIGN_OR_RETURN(const Verdict verdict, Try(dialect, ids ? kSafeIds : "\"one two three\""));
      facts_.dialect = dialect;
      if (verdict.error.empty()) return absl::OkStatus();
      error = verdict.error;
    }
    return absl::FailedPreconditionError("the server takes no completion: " + error);
  }

  // The largest round number of ids that it takes. The first eighth is left out: there control tokens live.
  absl::Status FindVocabulary() {
    std::vector<int> sizes = {128'000, 64'000, 32'000, 16'000, 8'000, 4'000, 2'000, 1'000, 500, 256};
    if (vocabulary_ > 0) sizes.insert(sizes.begin(), vocabulary_);
    for (const int size : sizes) {
      if (vocabulary_ > 0 && size > vocabulary_) continue;
      ASSIGN_OR_RETURN(const Verdict verdict, Try(facts_.dialect, "[" + std::to_string(size - 1) + "]"));
      facts_.token_min = size / 8;
      facts_.token_max = size;
      if (verdict.error.empty()) return absl::OkStatus();
    }
    return absl::FailedPreconditionError("the server takes no token ids that could be drawn from; try --prompt text");
  }

  absl::Status MeasureWords() {
    constexpr int kWords = 256;
    ASSIGN_OR_RETURN(const Verdict verdict, Try(facts_.dialect, PromptJson({.kind = PromptKind::kText}, 0, kWords)));
    if (verdict.error.empty() && verdict.usage && verdict.usage->prompt_tokens > 0)
      facts_.words_per_token = std::clamp(kWords / static_cast<double>(verdict.usage->prompt_tokens), 0.1, 2.0);
    return absl::OkStatus();
  }

  const LoadRunOptions& options_;
  const ProbeWishes& wishes_;
  ServerFacts facts_;
  int vocabulary_ = 0;
};

}  // namespace

absl::StatusOr<ServerFacts> ProbeServer(const LoadRunOptions& options, const ProbeWishes& wishes) {
  return Prober(options, wishes).Run();
}

}  // namespace braid
