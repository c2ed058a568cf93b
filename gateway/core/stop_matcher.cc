#include "gateway/core/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/planted_bug.h"

// Knuth-Morris-Pratt, one automaton per stop string: each byte costs amortised constant time per string, whatever the
// text and the strings look like, and `matched` says how much of the text's end must be held back.

namespace braid {
namespace {

std::vector<size_t> Borders(const std::string& text) {
  std::vector<size_t> border(text.size(), 0);
  for (size_t i = 1; i < text.size(); ++i) {
    size_t k = border[i - 1];
    while (k > 0 && text[k] != text[i]) k = border[k - 1];
    border[i] = text[k] == text[i] ? k + 1 : 0;
  }
  return border;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& stop : stops) {
    CHECK(!stop.empty()) << "the validator refuses empty stop strings";
    std::vector<size_t> border = Borders(stop);
    patterns_.push_back({std::move(stop), std::move(border)});
  }
}

void StopMatcher::Advance(Pattern& pattern, char c) const {
  size_t k = pattern.matched;
  while (k > 0 && pattern.text[k] != c) k = pattern.border[k - 1];
  pattern.matched = pattern.text[k] == c ? k + 1 : 0;
}

std::string StopMatcher::Push(std::string_view text) {
  if (matched_) return "";
  for (char c : text) {
    held_.push_back(c);
    size_t longest = 0;
    for (Pattern& pattern : patterns_) {
      Advance(pattern, c);
      if (pattern.matched == pattern.text.size()) longest = std::max(longest, pattern.matched);
    }
    if (longest == 0) continue;
    matched_ = true;
    held_.resize(held_.size() - longest);
    return std::exchange(held_, "");
  }
  size_t keep = 0;
  if (Planted(Bug::kForgetsStopTail)) return Flush();
  for (const Pattern& pattern : patterns_) keep = std::max(keep, pattern.matched);
  std::string free = held_.substr(0, held_.size() - keep);
  held_.erase(0, free.size());
  return free;
}

std::string StopMatcher::Flush() {
  for (Pattern& pattern : patterns_) pattern.matched = 0;
  return std::exchange(held_, "");
}

}  // namespace braid
