#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "kernels/thread_pool.h"

namespace braid {

// A packed file says what it must come to. Opening it compares its digest: configuration, tokenizer, chat template, and
// a sample of every tensor, in milliseconds. The hashes of the tensors are for whoever has seconds.

// Fills in both. REQUIRES: the file at `path` has keys for them, of the right length.
absl::Status SealPackedFile(const std::string& path, ThreadPool* pool);

// Reads every byte of every tensor. kInvalidArgument if the file is no packed one, or does not open; kDataLoss naming
// the tensors that are not what they were.
absl::Status VerifyPackedFile(const std::string& path, ThreadPool* pool,
                              const std::function<void(uint64_t done, uint64_t total)>& progress);

}  // namespace braid
