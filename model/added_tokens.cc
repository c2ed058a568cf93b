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

size_t Two(char first, char second) { return size_t{static_cast<uint8_t>(first)} << 8 | static_cast<uint8_t>(second); }

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<TokenizerSpec::AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::sort(tokens_.begin(), tokens_.end(), [](const auto& a, const auto& b) { return a.text < b.text; });
  BuildTrie();
  for (const auto& token : tokens_) {
    only_specials_ &= token.special;
    if (token.text.size() > 1) {
      begins_.set(Two(token.text[0], token.text[1]));
    } else {
      for (int second = 0; second < 256; ++second) begins_.set(Two(token.text[0], static_cast<char>(second)));
    }
  }
}

size_t AddedTokenMatcher::NextCandidate(std::string_view text, size_t at) const {
  while (at + 1 < text.size() && !begins_[Two(text[at], text[at + 1])]) ++at;
  return at;
}

void AddedTokenMatcher::BuildTrie() {
  struct Range {
    size_t begin, end;  // of tokens_: those that pass through a node
    size_t depth;
  };
  std::vector<Range> ranges = {{0, tokens_.size(), 0}};  // by node
  for (size_t node = 0; node < ranges.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    nodes_.push_back({static_cast<uint32_t>(edge_bytes_.size())});
    if (begin < end && tokens_[begin].text.size() == depth) nodes_.back().token = static_cast<int32_t>(begin++);
    while (begin < end) {
      const char byte = tokens_[begin].text[depth];
      size_t next = begin + 1;
      while (next < end && tokens_[next].text[depth] == byte) ++next;
      edge_bytes_.push_back(byte);
      ranges.push_back({begin, next, depth + 1});
      begin = next;
    }
    nodes_.back().edge_count = static_cast<uint32_t>(edge_bytes_.size()) - nodes_.back().edges;
  }
}

const TokenizerSpec::AddedToken* AddedTokenMatcher::LongestAt(std::string_view text, size_t at) const {
  const TokenizerSpec::AddedToken* longest = nullptr;
  const Node* node = &nodes_[0];
  for (; at < text.size(); ++at) {
    const size_t edge = std::string_view(edge_bytes_).substr(node->edges, node->edge_count).find(text[at]);
    if (edge == std::string_view::npos) break;
    node = &nodes_[node->edges + edge + 1];
    if (node->token >= 0) longest = &tokens_[node->token];
  }
  return longest;
}

AddedTokenMatcher::Cursor::Cursor(const AddedTokenMatcher& matcher, std::string_view text, bool parse_specials)
    : matcher_(matcher), text_(text), parse_specials_(parse_specials) {
  if (matcher.only_specials_ && !parse_specials) at_ = text.size();
}

bool AddedTokenMatcher::Cursor::Counts(const TokenizerSpec::AddedToken& token, size_t begin) const {
  if (token.special && !parse_specials_) return false;
  if (!token.single_word) return true;
  return !EndsWithWord(text_.substr(0, begin)) && !BeginsWithWord(text_.substr(begin + token.text.size()));
}

bool AddedTokenMatcher::Cursor::Next() {
  while ((at_ = matcher_.NextCandidate(text_, at_)) < text_.size()) {
    const auto* token = matcher_.LongestAt(text_, at_);
    if (token == nullptr) {
      ++at_;
      continue;
    }
    size_t begin = at_, end = at_ + token->text.size();
    at_ = end;  // also past a match that does not count
    if (!Counts(*token, begin)) continue;
    if (token->lstrip) begin = std::max(SkipSpaceBackward(text_, begin), done_);
    if (token->rstrip) end = SkipSpaceForward(text_, end);
    before_ = done_ < begin ? text_.substr(done_, begin - done_) : std::string_view();
    id_ = token->id;
    done_ = end;
    return true;
  }
  before_ = text_.substr(done_);
  return false;
}

}  // namespace braid
