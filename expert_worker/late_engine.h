#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "expert_worker/token_draw.h"
#include "model/engine.h"

namespace braid {

// For tests: a CPU's engine that plays a device. It computes at once, but says nothing of how that went, nor what it
// has drawn, before it is asked. Chunks can name what was drawn.
class LateEngine : public Engine {
 public:
  // `engine` must outlive *this. `masked` is never drawn.
  LateEngine(Engine* engine, TokenId masked) : engine_(*engine), masked_(masked) {}

  // Whether the device has come to this Draw, by number; asked by whoever waits for it.
  std::function<bool(int)> ready = [](int) { return true; };
  // What TakeDrawn does until then.
  std::function<void()> wait = [] { std::this_thread::yield(); };
  // Draws so far. Thread-safe.
  int draws_begun() const { return draws_begun_; }

  absl::Status Run(std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits) override {
    CHECK(logits == nullptr) << "a device has no memory for all of them";
    std::deque<TokenId> tokens;
    std::vector<Chunk> known(chunks.begin(), chunks.end());
    for (Chunk& chunk : known) {
      if (chunk.drawn < 0) continue;
      CHECK_EQ(chunk.tokens.size(), 1u);
      tokens.push_back(std::max(drawings_.back().tokens.at(static_cast<size_t>(chunk.drawn)), 0));
      chunk.tokens = {&tokens.back(), 1};
    }
    status_ = engine_.Run(known, experts, nullptr);
    return absl::OkStatus();
  }
  absl::Status Logits(int begin, int end, std::vector<float>* logits) override {
    CHECK_EQ(left_, 0u) << "of a step behind one whose tokens were not taken";
    RETURN_IF_ERROR(status_);
    return engine_.Logits(begin, end, logits);
  }
  bool draws() const override { return true; }
  absl::Status Draw(std::span<const DrawnRow> rows) override {
    CHECK_LT(left_++, kDrawsMax);
    if (drawings_.size() == kDrawsMax) drawings_.pop_front();
    Drawing& drawing = drawings_.emplace_back();
    drawing.status = status_;
    drawing.number = draws_begun_;
    for (const DrawnRow& row : rows) drawing.tokens.push_back(status_.ok() ? TokenOf(row) : 0);
    ++draws_begun_;
    return absl::OkStatus();
  }
  bool Drawn() override { return left_ == 0 || ready(Oldest().number); }
  absl::Status TakeDrawn(std::vector<TokenId>* tokens) override {
    CHECK_GT(left_, 0u);
    while (!Drawn()) wait();
    const Drawing& drawing = Oldest();
    --left_;
    if (!drawing.status.ok()) left_ = 0;
    *tokens = drawing.tokens;
    return drawing.status;
  }
  ExpertFfn& experts() override { return engine_.experts(); }

  // Draws that were not taken.
  size_t left() const { return left_; }

 private:
  struct Drawing {
    absl::Status status;
    std::vector<TokenId> tokens;
    int number = 0;
  };

  Drawing& Oldest() { return drawings_[drawings_.size() - left_]; }

  TokenId TokenOf(const DrawnRow& row) {
    std::vector<float> logits;
    CHECK(engine_.Logits(row.row, row.row + 1, &logits).ok());
    LogitRow sorted;
    if (!sorted.Read(logits)) return -1;
    logits[static_cast<size_t>(masked_)] = -std::numeric_limits<float>::infinity();
    sorted.Read(logits);
    if (row.temperature == 0) return sorted.Best();
    TokenDraw draw;
    draw.Start(&sorted, row.temperature);
    if (row.top_k > 0) draw.KeepBest(static_cast<size_t>(row.top_k));
    if (row.top_p < 1) draw.KeepMass(static_cast<double>(row.top_p));
    return draw.Draw(row.min_p, row.uniform);
  }

  Engine& engine_;
  const TokenId masked_;
  absl::Status status_;  // of the last Run
  std::deque<Drawing> drawings_;
  size_t left_ = 0;
  std::atomic<int> draws_begun_{0};
};

// For tests: an engine whose rows behind a token are not finite, at every fifth position or so.
class PoisonedEngine : public Engine {
 public:
  // `engine` must outlive *this.
  PoisonedEngine(Engine* engine, TokenId poison) : engine_(*engine), poison_(poison) {}

  absl::Status Run(std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits) override {
    CHECK(logits == nullptr);
    poisoned_.clear();
    for (const Chunk& chunk : chunks) {
      const size_t first = chunk.logits == Chunk::Logits::kAll    ? 0
                           : chunk.logits == Chunk::Logits::kLast ? chunk.tokens.size() - 1
                                                                  : chunk.tokens.size();
      for (size_t i = first; i < chunk.tokens.size(); ++i)
        poisoned_.push_back(chunk.tokens[i] == poison_ && (static_cast<size_t>(chunk.position) + i) % 5 == 0);
    }
    return engine_.Run(chunks, experts, nullptr);
  }
  absl::Status Logits(int begin, int end, std::vector<float>* logits) override {
    RETURN_IF_ERROR(engine_.Logits(begin, end, logits));
    for (int row = begin; row < end; ++row) {
      const size_t V = logits->size() / static_cast<size_t>(end - begin);
      if (poisoned_.at(static_cast<size_t>(row)))
        (*logits)[static_cast<size_t>(row - begin) * V + 3] = std::numeric_limits<float>::quiet_NaN();
    }
    return absl::OkStatus();
  }
  ExpertFfn& experts() override { return engine_.experts(); }

 private:
  Engine& engine_;
  const TokenId poison_;
  std::vector<bool> poisoned_;  // by row that somebody wants
};

}  // namespace braid
