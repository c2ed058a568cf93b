#include "model/utf8.h"

#include <utility>

#include "base/check.h"

namespace braid {
namespace {

// What the first byte of a character says: its length, and the range of the second byte, which is narrower than
// 80..BF where the full range would give overlong forms, surrogates or code points beyond U+10FFFF.
struct Lead {
  int length;  // 0: no character begins so
  uint8_t second_min, second_max;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Appends `bytes` with invalid runs replaced, up to an unfinished character at the end; returns where that begins.
size_t AppendDecoded(std::string_view bytes, std::string* out) {
  size_t at = 0;
  while (at < bytes.size()) {
    Utf8Step step = DecodeUtf8(bytes, at);
    if (step.kind == Utf8Step::Kind::kUnfinished) break;
    if (step.kind == Utf8Step::Kind::kCharacter) {
      out->append(bytes.substr(at, step.bytes));
    } else {
      AppendUtf8(kReplacementCharacter, out);
    }
    at += step.bytes;
  }
  return at;
}

}  // namespace

Utf8Step DecodeUtf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(at);
  if (first < 0x80) return {Utf8Step::Kind::kCharacter, first, 1};
  const Lead lead = LeadOf(first);
  if (lead.length == 0) return {Utf8Step::Kind::kInvalid, kReplacementCharacter, 1};
  uint32_t code_point = first & (0x7F >> lead.length);
  for (int i = 1; i < lead.length; ++i) {
    if (at + i == text.size()) return {Utf8Step::Kind::kUnfinished, kReplacementCharacter, i};
    const uint8_t next = byte(at + i);
    const uint8_t min = i == 1 ? lead.second_min : 0x80, max = i == 1 ? lead.second_max : 0xBF;
    if (next < min || next > max) return {Utf8Step::Kind::kInvalid, kReplacementCharacter, i};
    code_point = code_point << 6 | (next & 0x3F);
  }
  return {Utf8Step::Kind::kCharacter, code_point, lead.length};
}

void AppendUtf8(uint32_t code_point, std::string* out) {
  CHECK_LE(code_point, 0x10FFFFu);
  if (code_point >= 0xD800 && code_point < 0xE000) code_point = kReplacementCharacter;
  const auto tail = [&](int shift) { out->push_back(static_cast<char>(0x80 | (code_point >> shift & 0x3F))); };
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out->push_back(static_cast<char>(0xC0 | code_point >> 6));
    tail(0);
  } else if (code_point < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | code_point >> 12));
    tail(6), tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | code_point >> 18));
    tail(12), tail(6), tail(0);
  }
}

std::string ToValidUtf8(std::string_view bytes) {
  Utf8Assembler assembler;
  std::string text = assembler.Push(bytes);
  return text + assembler.Finish();
}

bool IsValidUtf8(std::string_view bytes) {
  for (size_t at = 0; at < bytes.size();) {
    Utf8Step step = DecodeUtf8(bytes, at);
    if (step.kind != Utf8Step::Kind::kCharacter) return false;
    at += step.bytes;
  }
  return true;
}

std::string Utf8Assembler::Push(std::string_view bytes) {
  std::string text;
  if (pending_.empty()) {
    pending_ = bytes.substr(AppendDecoded(bytes, &text));
    return text;
  }
  std::string joined = std::exchange(pending_, "");
  joined.append(bytes);
  pending_ = joined.substr(AppendDecoded(joined, &text));
  return text;
}

std::string Utf8Assembler::Finish() {
  std::string text;
  if (!pending_.empty()) AppendUtf8(kReplacementCharacter, &text);
  pending_.clear();
  return text;
}

}  // namespace braid
