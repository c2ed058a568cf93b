#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace braid {

// A new file, written from front to back, in pieces that file systems keep in huge pages: who maps the file soon after
// reads it all the faster. Not thread-safe. Errors name the path.
class OutputFile {
 public:
  // kAlreadyExists if there is a file of that name: nothing is ever overwritten.
  static absl::StatusOr<std::unique_ptr<OutputFile>> Create(const std::string& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  absl::Status Write(std::span<const std::byte> bytes);
  absl::Status Write(std::string_view text);
  uint64_t bytes_written() const { return bytes_written_; }  // those in the buffer, too
  // To the disk, and closed; a file without Close() may be incomplete.
  absl::Status Close();

 private:
  OutputFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status WriteOut(std::span<const std::byte> bytes);

  std::string path_;
  int fd_;
  uint64_t bytes_written_ = 0;
  std::vector<std::byte> buffer_;  // less than a piece, from a multiple of one
};

}  // namespace braid
