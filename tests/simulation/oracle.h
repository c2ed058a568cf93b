#pragma once

#include <string>
#include <vector>

#include "gateway/core/call_fold.h"
#include "gateway/inference.h"

namespace braid::simulation {

// What a caller has been told of one choice.
struct Transcript {
  struct ToolCall {
    std::string id, name, arguments;
    friend bool operator==(const ToolCall&, const ToolCall&) = default;
  };
  std::string echo, reasoning, content;
  std::vector<ToolCall> calls;
  std::vector<TokenId> tokens;
  std::string scores;  // of prompt and answer, spelled out
  bool finished = false;
  Finished::Reason reason = Finished::Reason::kStop;
  friend bool operator==(const Transcript&, const Transcript&) = default;
};

// Adds up the events of one call. A fold: however an answer is cut into events, the result is the same.
class CallRecord {
 public:
  // An error names what no correct gateway would say at this point.
  std::string Add(const CallEvent& event);

  bool accepted() const { return accepted_; }
  bool done() const { return done_; }
  bool failed() const { return failed_; }
  bool ended() const { return done_ || failed_; }
  const ApiError& error() const { return error_; }
  const std::vector<Transcript>& choices() const { return choices_; }
  const Done& totals() const { return totals_; }

  // Empty if this is the beginning of `right`, and all of it once done(); else what differs.
  std::string DifferenceFrom(const CallRecord& right) const;

 private:
  Transcript& Choice(int index);

  bool accepted_ = false, done_ = false, failed_ = false;
  std::vector<Transcript> choices_;
  Done totals_;
  ApiError error_;
};

// A request together with its right answer, found by running the model alone: no cluster, no steps, no cache that could
// be lost. The same for every seed, so each is worked out once per process.
struct Exam {
  PreparedCall call;
  bool poison = false;
  CallRecord answer;
};

inline constexpr int kExams = 512;
// Thread-safe.
const Exam& GetExam(int index);

}  // namespace braid::simulation
