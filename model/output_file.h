#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace braid {

// A new file, written from front to back. Not thread-safe. Errors name the path.
class OutputFile {
 public:
  // kAlreadyExists if there is a file of that name: nothing is ever overwritten.
  static absl::StatusOr<std::unique_ptr<OutputFile>> Create(const std::string& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  absl::Status Write(std::span<const std::byte> bytes);
  absl::Status Write(std::string_view text);
  uint64_t bytes_written() const { return bytes_written_; }
  // To the disk, and closed; a file without Close() may be incomplete.
  absl::Status Close();

 private:
  OutputFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_;
  uint64_t bytes_written_ = 0;
};

}  // namespace braid
