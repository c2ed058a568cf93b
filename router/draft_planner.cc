#include "router/draft_planner.h"

#include <algorithm>

namespace braid {
namespace {

constexpr double kChanceMin = 0.1;  // less is not worth thinking about
constexpr double kGainMin = 1.02;   // less is noise

}  // namespace

void DraftPlanner::OnToken(Sequence& sequence, TokenId token) {
  if (drafts_max_ > 0) sequence.drafter.Learn(sequence.log(), token, &rates_);
}

bool DraftPlanner::WouldChoose(std::span<Decode> decodes, int rows) {
  Choose(decodes, rows, 1);
  return std::any_of(decodes.begin(), decodes.end(), [](const Decode& decode) { return decode.drafts > 0; });
}

void DraftPlanner::Choose(std::span<Decode> decodes, int rows, int skipped) {
  rows_.clear();
  for (Decode& decode : decodes) {
    Drafter& drafter = decode.sequence->drafter;
    drafter.Look(decode.sequence->log());
    if (!drafter.guesses()) continue;
    double chance = 1;
    for (int i = 0; i < std::min(drafts_max_, decode.most); ++i) {
      chance *= drafter.Chance(i + skipped, rates_);
      if (chance < kChanceMin) break;
      rows_.push_back({chance, &decode});
    }
  }
  std::stable_sort(rows_.begin(), rows_.end(), [](const Row& a, const Row& b) { return a.chance > b.chance; });
  double tokens = rows;
  double best = kGainMin * tokens / times_.Seconds(rows);
  size_t taken = 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    tokens += rows_[i].chance;
    const double rate = tokens / times_.Seconds(rows + static_cast<int>(i) + 1);
    if (rate <= best) continue;
    best = rate;
    taken = i + 1;
  }
  for (size_t i = 0; i < taken; ++i) ++rows_[i].decode->drafts;
}

void DraftPlanner::AddDrafts(const Decode& decode, int drafts) {
  for (int i = 0; i < drafts; ++i) decode.chunk->add_tokens(decode.sequence->drafter.Guess(decode.sequence->log(), i));
  decode.chunk->set_drafts(static_cast<uint32_t>(drafts));
}

}  // namespace braid
