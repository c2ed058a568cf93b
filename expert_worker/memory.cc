#include "expert_worker/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

#include "model/sequence_states.h"

namespace braid {
namespace {

constexpr uint64_t kContextsMax = 64;
constexpr uint64_t kBlocksMin = 512 / kKvBlockTokens;  // below 512 tokens there is nothing worth serving
constexpr uint64_t kBlocksMax = std::numeric_limits<int32_t>::max();

std::optional<uint64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // no such file, or "max"
}

std::optional<uint64_t> MemAvailable() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  uint64_t kib = 0;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") return kib << 10;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::nullopt;
}

// Of this container's memory, that of files which could be dropped.
uint64_t FilePagesInContainer() {
  std::ifstream file("/sys/fs/cgroup/memory.stat");
  std::string key;
  uint64_t value = 0, bytes = 0;
  while (file >> key >> value)
    if (key == "inactive_file" || key == "active_file") bytes += value;
  return bytes;
}

// Room under the limit of this container (cgroup v2, as mounted inside of it). Pages of mapped files count as used
// there but can be dropped.
std::optional<uint64_t> RoomInContainer(uint64_t droppable) {
  const std::optional<uint64_t> limit = ReadNumber("/sys/fs/cgroup/memory.max");
  const std::optional<uint64_t> used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (!limit || !used) return std::nullopt;
  const uint64_t needed = *used - std::min(*used, droppable);
  return *limit - std::min(*limit, needed);
}

uint64_t Available(uint64_t droppable_in_container) {
  constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();
  return std::min(MemAvailable().value_or(kUnlimited), RoomInContainer(droppable_in_container).value_or(kUnlimited));
}

}  // namespace

uint64_t AvailableMemoryBytes() { return Available(0); }

uint64_t MemoryForCopiesBytes() { return Available(FilePagesInContainer()); }  // MemAvailable has them already

absl::StatusOr<int> ChooseKvBlocks(const ModelConfig& config, KvType type, uint64_t kv_bytes,
                                   uint64_t available_bytes) {
  const uint64_t block_bytes = std::max<uint64_t>(KvBlockBytes(config, type), 1);
  const uint64_t context_blocks =
      (static_cast<uint64_t>(config.context_tokens_max) + kKvBlockTokens - 1) / kKvBlockTokens;
  const uint64_t useful = std::min(kContextsMax * context_blocks, kBlocksMax);
  const uint64_t needed = std::min(kBlocksMin, context_blocks) * block_bytes;
  const uint64_t bytes = kv_bytes > 0 ? kv_bytes : available_bytes / 4;
  if (kv_bytes > available_bytes) {
    return absl::ResourceExhaustedError(
        fmt::format("kv_bytes is {}, available are {} bytes", kv_bytes, available_bytes));
  }
  if (bytes < needed) {
    return absl::ResourceExhaustedError(fmt::format(
        "the KV cache needs at least {} bytes, {} are to be had (of {} available)", needed, bytes, available_bytes));
  }
  return static_cast<int>(std::min(bytes / block_bytes, kv_bytes > 0 ? kBlocksMax : useful));
}

}  // namespace braid
