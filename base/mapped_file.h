#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace braid {

// A whole file mapped read-only and shared: two processes that map one model file hold its pages once.
// Thread-safe. bytes() is valid as long as the object lives. A file truncated by others while mapped raises SIGBUS;
// model files are not to be written in place.
class MappedFile {
 public:
  // kNotFound, kPermissionDenied or kInvalidArgument (not a regular file), naming `path`.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  MappedFile(std::string path, const std::byte* data, size_t size) : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  const std::byte* data_;
  size_t size_;
};

}  // namespace braid
