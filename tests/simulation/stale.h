#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "braid/v1/worker.pb.h"
#include "tests/simulation/random.h"

namespace braid::simulation {

// The epoch that a message is about; 0: none.
inline uint64_t EpochOf(const v1::AttachRequest& message) {
  switch (message.message_case()) {
    case v1::AttachRequest::kPrepared:
      return message.prepared().epoch();
    case v1::AttachRequest::kConfigured:
      return message.configured().epoch();
    case v1::AttachRequest::kBegun:
      return message.begun().epoch();
    case v1::AttachRequest::kStepDone:
      return message.step_done().epoch();
    case v1::AttachRequest::kFault:
      return message.fault().epoch();
    default:
      return 0;
  }
}
inline uint64_t EpochOf(const v1::AttachResponse& message) {
  switch (message.message_case()) {
    case v1::AttachResponse::kPrepare:
      return message.prepare().epoch();
    case v1::AttachResponse::kConfigure:
      return message.configure().epoch();
    case v1::AttachResponse::kBegin:
      return message.begin().epoch();
    case v1::AttachResponse::kStepPlan:
      return message.step_plan().epoch();
    case v1::AttachResponse::kStop:
      return message.stop().epoch();
    default:
      return 0;
  }
}

// What was said on one stream under epochs that are over. To say it again must change nothing.
template <typename Message>
class Past {
 public:
  void Remember(const Message& message) {
    if (EpochOf(message) == 0) return;
    if (messages_.size() >= kMessagesMax) messages_.pop_front();
    messages_.push_back(message);
  }
  // One of an epoch below `over`; null if none comes to mind.
  const Message* Recall(uint64_t over, Random& random) const {
    const int kind = random.Between(0, 10);  // most are about steps, but the others are more interesting
    std::vector<const Message*> candidates;
    for (const Message& message : messages_) {
      if (EpochOf(message) < over && message.message_case() == kind) candidates.push_back(&message);
    }
    return candidates.empty() ? nullptr : random.Pick(candidates);
  }

 private:
  static constexpr size_t kMessagesMax = 128;
  std::deque<Message> messages_;
};

}  // namespace braid::simulation
