#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "cli/bench_serve/load_run.h"
#include "cli/bench_serve/prompt.h"

namespace braid {

// What a server is, as far as a load needs to know.
struct ServerFacts {
  std::string model;  // the first that it lists; empty: it lists none
  ServerDialect dialect;
  int token_min = 0, token_max = 0;  // ids that are surely its own and, most likely, ordinary text
  double words_per_token = 1;        // of the words that text prompts are made of
};

// What the user has already decided.
struct ProbeWishes {
  std::string model;
  std::optional<PromptKind> prompt;
};

// Asks /v1/models, then sends a few completions of one token, with less and less beyond OpenAI's own API until the
// server takes one. kUnavailable: it does not answer, or not yet; otherwise the error has the server's words.
absl::StatusOr<ServerFacts> ProbeServer(const LoadRunOptions& options, const ProbeWishes& wishes);

}  // namespace braid
