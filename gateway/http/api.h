#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <variant>

#include "gateway/http/message.h"
#include "gateway/http/routes.h"
#include "gateway/inference.h"
#include "gateway/openai/format.h"
#include "monitoring/metrics.h"

namespace braid {

// A call that was accepted for validation and goes on behind the door.
struct StartedCall {
  std::unique_ptr<Call> call;
  std::unique_ptr<AnswerFormatter> formatter;
  bool stream = false;
};
using HttpOutcome = std::variant<HttpReply, StartedCall>;

// What each route answers, given a request whose header was admitted. No sockets. Thread-safe.
class HttpApi {
 public:
  // Both must outlive the api.
  HttpApi(Inference* inference, Metrics* metrics) : inference_(*inference), metrics_(*metrics) {}

  // Cheap enough for the thread that serves the sockets. REQUIRES: a GET route.
  HttpReply Get(const RouteMatch& match);
  // Parses, and may render and tokenize: as slow as the body is long. `sink` is used if a call was started. Never
  // throws: what goes wrong with one request stays in it. REQUIRES: a POST route.
  HttpOutcome Post(RouteId route, const std::string& body, const std::string& request_id, Inference::Sink sink);

  // From now on: health says draining, calls are refused.
  void Drain() { draining_ = true; }
  bool draining() const { return draining_; }
  std::string model_digest() const { return inference_.model().digest; }

 private:
  HttpOutcome Dispatch(RouteId route, const std::string& body, const std::string& request_id, Inference::Sink sink);
  HttpReply Health();
  HttpReply Models(const std::string& only_id);
  HttpOutcome Chat(const std::string& body, const std::string& request_id, Inference::Sink sink);
  HttpOutcome Completion(const std::string& body, const std::string& request_id, Inference::Sink sink);
  HttpReply Tokenize(const std::string& body);
  HttpReply Detokenize(const std::string& body);

  Inference& inference_;
  Metrics& metrics_;
  std::atomic<bool> draining_ = false;
};

}  // namespace braid
