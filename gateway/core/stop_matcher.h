#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace braid {

// Finds the first stop string in a text that comes in pieces. What may still turn out to be the beginning of one is
// held back, so no part of a stop string is ever let through. Pure: the pieces' sizes change nothing but the timing.
//
// The match that is complete first wins; of several that end at the same byte, the longest. With the stops "bcd" and
// "ab", "xabcd" ends as "x".
class StopMatcher {
 public:
  // REQUIRES: no stop is empty.
  explicit StopMatcher(std::vector<std::string> stops);

  // The text that is now known to be before any stop string. After a match: what was before it, then always "".
  std::string Push(std::string_view text);
  // The text ends here, or something that is not text follows: lets go what was held back.
  std::string Flush();

  bool matched() const { return matched_; }

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> border;  // border[i]: longest proper prefix of text[0..i] that is also its suffix
    size_t matched = 0;          // bytes of `text` that the input now ends with
  };
  void Advance(Pattern& pattern, char c) const;

  std::vector<Pattern> patterns_;
  std::string held_;
  bool matched_ = false;
};

}  // namespace braid
