#include "model/byte_spelling.h"

#include <array>

#include "model/utf8.h"

namespace braid {
namespace {

constexpr bool StandsForItself(int byte) { return (byte > 32 && byte < 127) || (byte > 160 && byte != 173); }

constexpr int kTableSize = 256 + 68;

struct Table {
  std::array<uint16_t, 256> character{};
  std::array<int16_t, kTableSize> byte{};
};

constexpr Table MakeTable() {
  Table table;
  for (int16_t& byte : table.byte) byte = -1;
  uint16_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    uint16_t character = StandsForItself(byte) ? static_cast<uint16_t>(byte) : next++;
    table.character[byte] = character;
    table.byte[character] = static_cast<int16_t>(byte);
  }
  return table;
}

constexpr Table kTable = MakeTable();

}  // namespace

std::optional<std::string> BytesOfSpelling(std::string_view spelled) {
  std::string bytes;
  for (size_t at = 0; at < spelled.size();) {
    const Utf8Step step = DecodeUtf8(spelled, at);
    if (step.code_point >= kTableSize || kTable.byte[step.code_point] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kTable.byte[step.code_point]));
    at += step.bytes;
  }
  return bytes;
}

std::string SpellBytes(std::string_view bytes) {
  std::string spelled;
  for (char byte : bytes) AppendUtf8(kTable.character[static_cast<uint8_t>(byte)], &spelled);
  return spelled;
}

}  // namespace braid
