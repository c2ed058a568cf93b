#include "model/cuda/memory_plan.h"

#include <fmt/format.h>

#include "base/human.h"

namespace braid::gpu {
namespace {

constexpr uint64_t kAlignment = 256;  // what cudaMalloc gives
constexpr const char* kNames[] = {"weights",    "experts",  "activations", "logits", "inputs",
                                  "conv state", "exchange", "reserve",     "KV"};

}  // namespace

uint64_t MemoryPlan::AddBytes(Part part, uint64_t bytes) {
  const uint64_t at = bytes_;
  const uint64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  bytes_ += rounded;
  of_part_[static_cast<int>(part)] += rounded;
  return at;
}

absl::Status MemoryPlan::CheckFits(uint64_t available_bytes) const {
  if (needed_bytes() <= available_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(fmt::format("{} of device memory are needed, {} are available ({})",
                                                  HumanBytes(needed_bytes()), HumanBytes(available_bytes), ToString()));
}

std::string MemoryPlan::ToString() const {
  std::string parts;
  for (int i = 0; i < kParts; ++i) {
    if (of_part_[i] == 0) continue;
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", HumanBytes(of_part_[i]), kNames[i]);
  }
  return parts;
}

}  // namespace braid::gpu
