#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/status.h"

namespace braid {

static_assert(std::endian::native == std::endian::little, "GGUF is read by memcpy");

// Reads forward through bytes that may end anywhere.
class GgufCursor {
 public:
  explicit GgufCursor(std::span<const std::byte> bytes) : bytes_(bytes) {}
  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  absl::StatusOr<std::span<const std::byte>> Take(uint64_t count) {
    if (count > remaining())
      return InvalidArgument("truncated: " + std::to_string(count) + " bytes wanted at byte " +
                             std::to_string(position_) + ", the file has " + std::to_string(remaining()) + " left");
    const std::span<const std::byte> taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  template <typename T>
  absl::StatusOr<T> Read() {
    ASSIGN_OR_RETURN(const std::span<const std::byte> raw, Take(sizeof(T)));
    T value;
    std::memcpy(&value, raw.data(), sizeof(T));
    return value;
  }

  absl::StatusOr<std::string_view> ReadString() {
    ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>());
    ASSIGN_OR_RETURN(const std::span<const std::byte> raw, Take(length));
    return std::string_view(reinterpret_cast<const char*>(raw.data()), raw.size());
  }

 private:
  std::span<const std::byte> bytes_;
  uint64_t position_ = 0;
};

}  // namespace braid
