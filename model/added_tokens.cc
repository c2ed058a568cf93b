#include "model/added_tokens.h"

#include <algorithm>
#include <utility>

#include "model/char_class.h"
#include "model/utf8.h"

namespace braid {
namespace {

bool BeginsWithWord(std::string_view text) { return !text.empty() && IsWordCharacter(DecodeUtf8(text, 0).code_point); }

// The character that ends at `end`. REQUIRES: end > 0.
size_t CharacterBefore(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && end - at < 4 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool EndsWithWord(std::string_view text) {
  return !text.empty() && IsWordCharacter(DecodeUtf8(text, CharacterBefore(text, text.size())).code_point);
}

size_t SkipSpaceBackward(std::string_view text, size_t end) {
  while (end > 0) {
    const size_t at = CharacterBefore(text, end);
    if (!IsSpace(CharAt(text, at).type)) break;
    end = at;
  }
  return end;
}

size_t SkipSpaceForward(std::string_view text, size_t at) {
  for (Char c = CharAt(text, at); IsSpace(c.type); c = CharAt(text, at)) at += c.bytes;
  return at;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<TokenizerSpec::AddedToken> tokens) : tokens_(std::move(tokens)) {
  token_of_node_.push_back(-1);
  for (size_t i = 0; i < tokens_.size(); ++i) {
    uint32_t node = 0;
    for (char c : tokens_[i].text) {
      const uint8_t byte = static_cast<uint8_t>(c);
      if (node == 0) begins_[byte] = true;
      auto [edge, is_new] = edges_.try_emplace(uint64_t{node} << 8 | byte, token_of_node_.size());
      node = edge->second;
      if (is_new) token_of_node_.push_back(-1);
    }
    token_of_node_[node] = static_cast<int32_t>(i);
    only_specials_ &= tokens_[i].special;
    const auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<uint8_t>(tokens_[i].text[at])); };
    if (tokens_[i].text.size() > 1) begins_with_two_.set(byte(0) << 8 | byte(1));
    if (tokens_[i].text.size() == 1) {
      for (size_t second = 0; second < 256; ++second) begins_with_two_.set(byte(0) << 8 | second);
    }
  }
}

bool AddedTokenMatcher::MayBeginAt(std::string_view text, size_t at) const {
  const auto first = static_cast<uint8_t>(text[at]);
  if (!begins_[first]) return false;
  return at + 1 == text.size() || begins_with_two_[size_t{first} << 8 | static_cast<uint8_t>(text[at + 1])];
}

const TokenizerSpec::AddedToken* AddedTokenMatcher::LongestAt(std::string_view text, size_t at) const {
  const TokenizerSpec::AddedToken* longest = nullptr;
  uint32_t node = 0;
  for (; at < text.size(); ++at) {
    auto edge = edges_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[at]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_of_node_[node] >= 0) longest = &tokens_[token_of_node_[node]];
  }
  return longest;
}

std::vector<AddedTokenMatcher::Piece> AddedTokenMatcher::Split(std::string_view text, bool parse_specials) const {
  std::vector<Piece> pieces;
  if (only_specials_ && !parse_specials) {
    if (!text.empty()) pieces.push_back({-1, text});
    return pieces;
  }
  size_t done = 0;  // everything before is in `pieces`
  for (size_t at = 0; at < text.size();) {
    const TokenizerSpec::AddedToken* token = MayBeginAt(text, at) ? LongestAt(text, at) : nullptr;
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->text.size();
    at = end;  // also past a match that does not count
    if (token->special && !parse_specials) continue;
    if (token->single_word && (EndsWithWord(text.substr(0, begin)) || BeginsWithWord(text.substr(end)))) continue;
    if (token->lstrip) begin = std::max(SkipSpaceBackward(text, begin), done);
    if (token->rstrip) end = SkipSpaceForward(text, end);
    if (done < begin) pieces.push_back({-1, text.substr(done, begin - done)});
    pieces.push_back({token->id, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) pieces.push_back({-1, text.substr(done)});
  return pieces;
}

}  // namespace braid
