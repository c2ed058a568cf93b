#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "router/sequence.h"

namespace braid {

// Sequences that wait for memory, first come, first served. Those that ran before and lost their place wait here, too,
// before all others; they were accepted, so there is always room for them. Thread-compatible.
class Queue {
 public:
  explicit Queue(int size_max) : size_max_(size_max) {}

  // kResourceExhausted if the queue is full.
  absl::Status Push(std::unique_ptr<Sequence> sequence);
  void PushFront(std::vector<std::unique_ptr<Sequence>> sequences);
  // nullptr if there is none of that id.
  std::unique_ptr<Sequence> Remove(SequenceId id);
  Sequence* Find(SequenceId id) const;

  int size() const { return static_cast<int>(waiting_.size()); }
  Sequence& at(int index) const { return *waiting_[static_cast<size_t>(index)]; }
  std::unique_ptr<Sequence> Take(int index);

 private:
  const int size_max_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
};

}  // namespace braid
