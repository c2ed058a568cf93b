#include "model/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/status.h"

namespace braid {
namespace {

constexpr size_t kPieceBytes = 4 << 20;  // two huge pages of x86-64

absl::Status ErrnoStatus(int error, const std::string& path) {
  const std::string message = path + ": " + std::strerror(error);
  if (error == EEXIST) return absl::AlreadyExistsError(message);
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
  if (error == ENOSPC || error == EDQUOT) return absl::ResourceExhaustedError(message);
  return absl::UnavailableError(message);
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputFile>> OutputFile::Create(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, path);
  return std::unique_ptr<OutputFile>(new OutputFile(path, fd));
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status OutputFile::Write(std::span<const std::byte> bytes) {
  CHECK(fd_ >= 0) << path_ << " is closed";
  bytes_written_ += bytes.size();
  while (buffer_.size() + bytes.size() >= kPieceBytes) {
    const size_t part = kPieceBytes - buffer_.size();
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(part));
    bytes = bytes.subspan(part);
    RETURN_IF_ERROR(WriteOut(buffer_));
    buffer_.clear();
  }
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  return absl::OkStatus();
}

absl::Status OutputFile::WriteOut(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, path_);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Write(std::string_view text) { return Write(std::as_bytes(std::span(text))); }

absl::Status OutputFile::Close() {
  RETURN_IF_ERROR(WriteOut(buffer_));
  const int fd = std::exchange(fd_, -1);
  const int synced = fsync(fd) == 0 ? 0 : errno;
  const int closed = close(fd) == 0 ? 0 : errno;
  if (synced != 0 || closed != 0) return ErrnoStatus(synced != 0 ? synced : closed, path_);
  return absl::OkStatus();
}

}  // namespace braid
