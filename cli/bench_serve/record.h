#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace braid {

// Bytes that brought tokens. Tokens that come with the same bytes arrive together.
struct TokenArrival {
  double at_s = 0;
  int tokens = 0;
};

// What became of one request. Times are seconds since the run began.
struct RequestRecord {
  uint64_t request = 0;
  int prompt_tokens_asked = 0;
  int output_tokens_asked = 0;

  double scheduled_s = 0;  // all latencies count from here: when it was to be sent, even if that was late
  double sent_s = 0;
  double ended_s = 0;
  std::vector<TokenArrival> arrivals;

  int prompt_tokens = 0;  // by the server's count, else what was asked for
  int cached_tokens = 0;
  int output_tokens = 0;          // by the server's count, else one for each chunk with text
  bool tokens_by_server = false;  // `usage` came
  int http_status = 0;            // 0: no answer
  std::string finish_reason;
  std::string error;         // its kind; empty: complete
  std::string error_detail;  // for people

  bool complete() const { return error.empty(); }
};

}  // namespace braid
