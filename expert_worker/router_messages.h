#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "braid/v1/worker.pb.h"

// What a router says, for tests.

namespace braid {

inline v1::AttachResponse Prepare(uint64_t epoch, int rank = 0, int size = 2) {
  v1::AttachResponse message;
  message.mutable_prepare()->set_epoch(epoch);
  message.mutable_prepare()->set_rank(static_cast<uint32_t>(rank));
  message.mutable_prepare()->set_size(static_cast<uint32_t>(size));
  message.mutable_prepare()->set_connect_timeout_ms(2000);
  return message;
}

inline v1::AttachResponse Stop(uint64_t epoch) {
  v1::AttachResponse message;
  message.mutable_stop()->set_epoch(epoch);
  return message;
}

// `keep`: sequences and their lengths.
inline v1::AttachResponse Begin(uint64_t epoch, const std::vector<std::pair<uint64_t, uint32_t>>& keep = {}) {
  v1::AttachResponse message;
  message.mutable_begin()->set_epoch(epoch);
  for (const auto& [sequence, length] : keep) {
    v1::SequenceKept* kept = message.mutable_begin()->add_keep();
    kept->set_sequence(sequence);
    kept->set_length(length);
  }
  return message;
}

inline v1::AttachResponse Plan(uint64_t epoch, uint64_t step) {
  v1::AttachResponse message;
  message.mutable_step_plan()->set_epoch(epoch);
  message.mutable_step_plan()->set_step(step);
  return message;
}

}  // namespace braid
