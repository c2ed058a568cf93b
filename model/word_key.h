#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "model/salted_hash.h"

namespace braid {

// A word of up to 16 bytes as two integers, read straight out of the text: compared and hashed without a loop over its
// bytes, stored without a pointer to follow.
struct WordKey {
  static constexpr size_t kBytesMax = 16;

  uint64_t low = 0, high = 0;  // zeros behind the word
  uint32_t size = 0;           // tells "a" from "a\0"
  bool operator==(const WordKey&) const = default;

  // The key of the `size` bytes at `at`. REQUIRES: they lie within the text; 0 < size <= kBytesMax.
  static WordKey Of(std::string_view text, size_t at, size_t size) {
    char padded[kBytesMax] = {};
    const char* bytes = text.data() + at;
    if (text.size() - at < kBytesMax) bytes = static_cast<const char*>(std::memcpy(padded, bytes, size));
    return {Load(bytes, size), size > 8 ? Load(bytes + 8, size - 8) : 0, static_cast<uint32_t>(size)};
  }

  uint64_t Hash(const SaltedHash& hash) const { return hash(low, high + size); }

 private:
  // The first bytes of eight; all of them if `bytes` is more.
  static uint64_t Load(const char* from, size_t bytes) {
    static_assert(std::endian::native == std::endian::little);  // the first bytes are the lowest
    uint64_t word;
    std::memcpy(&word, from, sizeof(word));
    return bytes >= 8 ? word : word & ~(~uint64_t{0} << 8 * bytes);
  }
};

}  // namespace braid
