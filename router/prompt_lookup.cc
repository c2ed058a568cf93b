#include "router/prompt_lookup.h"

#include <algorithm>
#include <bit>

namespace braid {
namespace {

constexpr size_t kSlotsMin = 256;

// How many tokens before `a` are those before `b`. REQUIRES: a < b.
int CommonSuffix(std::span<const TokenId> log, int a, int b) {
  const int most = std::min(a, PromptLookup::kMatchMax);
  int length = 0;
  while (length < most && log[static_cast<size_t>(a - length - 1)] == log[static_cast<size_t>(b - length - 1)])
    ++length;
  return length;
}

}  // namespace

PromptLookup::Match PromptLookup::Find(std::span<const TokenId> log) {
  if (log.size() < kMatchMin) return {};
  Index(log);
  const int end = static_cast<int>(log.size());
  Match best;
  int32_t place = earlier_.back();  // the latest one is the end itself
  for (int i = 0; i < kCandidatesMax && place != 0 && best.length < kMatchMax; ++i) {
    const int length = CommonSuffix(log, place, end);
    if (length >= kMatchMin && length > best.length) best = {length, place};
    place = earlier_[static_cast<size_t>(place) - 1];
  }
  return best;
}

void PromptLookup::Index(std::span<const TokenId> log) {
  if (latest_.size() < log.size()) {  // twice as many slots each time: constant time per token
    latest_.assign(std::max(kSlotsMin, std::bit_ceil(log.size())), 0);
    earlier_.clear();
  }
  for (size_t i = earlier_.size(); i < log.size(); ++i) {
    if (i == 0) {
      earlier_.push_back(0);
      continue;
    }
    int32_t& latest = Latest(log[i - 1], log[i]);
    earlier_.push_back(latest);
    latest = static_cast<int32_t>(i + 1);
  }
}

int32_t& PromptLookup::Latest(TokenId first, TokenId second) {
  const uint64_t pair = uint64_t{static_cast<uint32_t>(first)} << 32 | static_cast<uint32_t>(second);
  const uint64_t hash = pair * 0x9E3779B97F4A7C15u;
  return latest_[(hash ^ hash >> 32) * 0xD6E8FEB86659FD93u >> 32 & (latest_.size() - 1)];
}

}  // namespace braid
