#include "router/drafter.h"

#include <algorithm>
#include <bit>

namespace braid {
namespace {

// What is usual: the longer two texts agreed, the more likely they go on to.
constexpr std::array<double, 5> kUsual = {0.3, 0.4, 0.55, 0.75, 0.9};
constexpr double kUsualWeight = 4;  // in tokens seen

}  // namespace

size_t HitRates::IndexOf(int matched) {
  if (matched <= 3) return static_cast<size_t>(std::max(matched, 2) - 2);
  return std::min<size_t>(std::bit_width(static_cast<unsigned>(matched)) - 1, kLengths - 1);
}

void HitRates::Add(int matched, bool hit) {
  Count& count = counts_[IndexOf(matched)];
  count.hits = count.hits * decay_ + (hit ? 1 : 0);
  count.all = count.all * decay_ + 1;
}

double HitRates::Of(int matched, const HitRates* others) const {
  static_assert(kUsual.size() == kLengths);
  const Count& count = counts_[IndexOf(matched)];
  const double usual = others != nullptr ? others->Of(matched, nullptr) : kUsual[IndexOf(matched)];
  return (count.hits + kUsualWeight * usual) / (count.all + kUsualWeight);
}

void Drafter::Look(std::span<const TokenId> log) {
  match_ = lookup_.Find(log);
  looked_at_ = static_cast<int>(log.size());
}

TokenId Drafter::Guess(std::span<const TokenId> log, int i) const {
  return log[static_cast<size_t>(match_.next + i % (looked_at_ - match_.next))];
}

void Drafter::Learn(std::span<const TokenId> log, TokenId token, HitRates* all) {
  if (!guesses()) return;
  const int i = static_cast<int>(log.size()) - looked_at_;
  const bool hit = Guess(log, i) == token;
  rates_.Add(match_.length + i, hit);
  all->Add(match_.length + i, hit);
  if (!hit) match_ = {};  // what follows was guessed behind another token
}

}  // namespace braid
