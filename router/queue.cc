#include "router/queue.h"

#include <algorithm>
#include <utility>

namespace braid {

absl::Status Queue::Push(std::unique_ptr<Sequence> sequence) {
  if (size() >= size_max_) return absl::ResourceExhaustedError("the queue is full; retry later");
  waiting_.push_back(std::move(sequence));
  return absl::OkStatus();
}

void Queue::PushFront(std::vector<std::unique_ptr<Sequence>> sequences) {
  for (auto& sequence : sequences) {
    // Ids rise as sequences come. Among those that ran before, the order in which they came.
    auto at = std::find_if(waiting_.begin(), waiting_.end(),
                           [&](const auto& other) { return !other->accepted || sequence->id() < other->id(); });
    waiting_.insert(at, std::move(sequence));
  }
}

std::unique_ptr<Sequence> Queue::Remove(SequenceId id) {
  for (int i = 0; i < size(); ++i) {
    if (at(i).id() == id) return Take(i);
  }
  return nullptr;
}

Sequence* Queue::Find(SequenceId id) const {
  for (const auto& sequence : waiting_) {
    if (sequence->id() == id) return sequence.get();
  }
  return nullptr;
}

std::unique_ptr<Sequence> Queue::Take(int index) {
  auto it = waiting_.begin() + index;
  std::unique_ptr<Sequence> sequence = std::move(*it);
  waiting_.erase(it);
  return sequence;
}

}  // namespace braid
