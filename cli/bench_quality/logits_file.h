#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "cli/bench_quality/sequences.h"

namespace braid {

// What both engines gave, for others to compare with: a safetensors file with
//
//   tokens     I32 (N)     all sequences, one behind the other
//   lengths    I32 (S)     of the sequences
//   reference  F32 (N, V)  logits after each token
//   candidate  F32 (N, V)
class LogitsFile {
 public:
  // Replaces a file at `path`. kPermissionDenied if it cannot be written, here and below.
  static absl::StatusOr<std::unique_ptr<LogitsFile>> Create(const std::string& path, const TokenSequences& sequences,
                                                            int vocab_size);
  // The next rows of both.
  absl::Status Append(std::span<const float> reference, std::span<const float> candidate);
  absl::Status Close();

 private:
  LogitsFile(const std::string& path) : path_(path), file_(path, std::ios::binary | std::ios::trunc) {}
  void Write(std::span<const float> rows, uint64_t offset);
  absl::Status Outcome() const;

  const std::string path_;
  std::ofstream file_;
  uint64_t reference_offset_ = 0, candidate_offset_ = 0;  // where the next rows go
};

}  // namespace braid
