#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "base/ids.h"
#include "router/prompt_lookup.h"

namespace braid {

// How often the token that followed a match came again, by the match's length. Counts fade, so that it is about the
// text of late.
class HitRates {
 public:
  // `window`: the tokens that it remembers, more or less.
  explicit HitRates(double window) : decay_(1 - 1 / window) {}

  void Add(int matched, bool hit);
  // The chance of a hit. `others` stand for what was not seen here; null: what is usual for texts.
  double Of(int matched, const HitRates* others) const;

 private:
  struct Count {
    double hits = 0, all = 0;
  };
  static constexpr size_t kLengths = 5;  // 2, 3, 4 to 7, 8 to 15, longer
  static size_t IndexOf(int matched);

  double decay_;
  std::array<Count, kLengths> counts_;
};

// Guesses how one sequence goes on, and how likely that is. It learns from every token, also from those that it was not
// asked about: whether a guess would have been right is known without running it. Pure; thread-compatible.
class Drafter {
 public:
  // Gets ready for guesses behind `log`, which is the last call's with tokens behind it. Constant time per token.
  void Look(std::span<const TokenId> log);
  // Whether there is any. The others below REQUIRE it, and the log of the last Look.
  bool guesses() const { return match_.length > 0; }
  // The i-th token behind the log. A repetition that is under way is taken to go on: beyond its end it is its own
  // beginning.
  TokenId Guess(std::span<const TokenId> log, int i) const;
  // The chance that it is right if those before it are. `all`: of all sequences.
  double Chance(int i, const HitRates& all) const { return rates_.Of(match_.length + i, &all); }

  // `token` comes behind `log`, which is the last Look's with tokens behind it. Adds what it learns to `all` as well.
  void Learn(std::span<const TokenId> log, TokenId token, HitRates* all);

 private:
  static constexpr double kWindow = 50;

  PromptLookup lookup_;
  PromptLookup::Match match_;
  int looked_at_ = 0;  // the length of the log then
  HitRates rates_{kWindow};
};

}  // namespace braid
