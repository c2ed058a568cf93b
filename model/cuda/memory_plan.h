#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace braid::gpu {

// What a worker needs of a device's memory, cut up before any of it is taken: it is one allocation, at start, and none
// comes later. Parts are for the messages.
class MemoryPlan {
 public:
  enum class Part { kWeights, kExperts, kActivations, kLogits, kInputs, kConvState, kExchange, kReserve, kKv };

  // Where `count` numbers of type T will be: at a multiple of 256 bytes from the begin. Nothing is there for none.
  template <typename T>
  uint64_t Add(Part part, int64_t count) {
    return AddBytes(part, static_cast<uint64_t>(count) * sizeof(T));
  }
  uint64_t AddBytes(Part part, uint64_t bytes);
  // Room that is not for us to hand out: kernels, graphs, libraries.
  void Reserve(uint64_t bytes) { of_part_[static_cast<int>(Part::kReserve)] += bytes; }

  // Of the allocation.
  uint64_t bytes() const { return bytes_; }
  uint64_t bytes_of(Part part) const { return of_part_[static_cast<int>(part)]; }
  // With what is reserved.
  uint64_t needed_bytes() const { return bytes_ + bytes_of(Part::kReserve); }
  uint64_t left_of(uint64_t available_bytes) const {
    return available_bytes - std::min(available_bytes, needed_bytes());
  }

  // kResourceExhausted with needed and available bytes, the needed ones by part.
  absl::Status CheckFits(uint64_t available_bytes) const;
  // "9.1 GiB weights, 512 MiB reserve"
  std::string ToString() const;

 private:
  static constexpr int kParts = 9;
  uint64_t bytes_ = 0;
  uint64_t of_part_[kParts] = {};
};

}  // namespace braid::gpu
