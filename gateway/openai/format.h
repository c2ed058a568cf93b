#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "gateway/inference.h"
#include "gateway/openai/bodies.h"

// What a client of the OpenAI-compatible routes reads: the events of one call as JSON. Pure.
//
// A stream is server-sent events: "data: {chunk}\n\n" each, at last "data: [DONE]\n\n". An error after the stream has
// begun is one "data: {"error":...}\n\n" and no [DONE]: the answer is truncated and must not look complete. An answer
// that is not streamed is one JSON object, written with Done.

namespace braid {

struct AnswerShape {
  std::string id;           // "chatcmpl-..." or "cmpl-..."
  std::string model;        // as /v1/models has it
  std::string fingerprint;  // "system_fingerprint": of the model file and the arithmetic; may be empty
  int64_t created_unix_s = 0;
  AnswerOptions options;
};

// One per call. Thread-compatible.
class AnswerFormatter {
 public:
  virtual ~AnswerFormatter() = default;
  // Appends to `out` what the client is to read because of `event`: nothing, some server-sent events, or the whole
  // body.
  virtual void Add(const CallEvent& event, std::string* out) = 0;
};

std::unique_ptr<AnswerFormatter> MakeChatFormatter(AnswerShape shape);
std::unique_ptr<AnswerFormatter> MakeCompletionFormatter(AnswerShape shape);

// {"error":{"message","type","param","code"}}
std::string ErrorJson(const ApiError& error);

}  // namespace braid
