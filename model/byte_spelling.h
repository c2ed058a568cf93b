#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace braid {

// Vocabularies of byte-level BPE write bytes as printable characters (GPT-2's table): printable Latin-1 bytes stand for
// themselves, the 68 others for U+0100 and up in ascending order, so that a space is written "Ġ".

// The bytes that `spelled` stands for; nullopt if it has a character outside the table or is not UTF-8.
std::optional<std::string> BytesOfSpelling(std::string_view spelled);

std::string SpellBytes(std::string_view bytes);

}  // namespace braid
