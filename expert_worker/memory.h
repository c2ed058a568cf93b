#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/kv_arena.h"
#include "model/config.h"

namespace braid {

// Bytes that this process could still take: what the machine has available, or less in a container with a limit.
uint64_t AvailableMemoryBytes();
// The same if nothing that can be read from files again need stay in memory: room for a copy of what a file has.
uint64_t MemoryForCopiesBytes();

// How many KV blocks to own. `kv_bytes` 0: a quarter of `available_bytes`, at most what 64 full contexts need. The rest
// stays for weights that are not mapped in yet, scratch and the other processes. kResourceExhausted with needed and
// available bytes if `kv_bytes` is more than is available or not even a short sequence fits.
absl::StatusOr<int> ChooseKvBlocks(const ModelConfig& config, KvType type, uint64_t kv_bytes, uint64_t available_bytes);

}  // namespace braid
