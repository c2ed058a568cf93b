// Experts spread over devices that NCCL connects: its fake, between threads.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <deque>
#include <thread>
#include <utility>

#include "base/rng.h"
#include "expert_worker/cuda/test_experts.h"
#include "expert_worker/exchange/nccl.h"
#include "model/cuda/engine_fixture.h"
#include "tests/cuda_emulator/fake_cuda.h"
#include "tests/cuda_emulator/fake_nccl.h"
#include "tests/cuda_emulator/simt.h"

namespace braid::gpu {
namespace {

class ExpertParallelOverNccl : public testing::Test {
 protected:
  ExpertParallelOverNccl() {
    fake::Reset();
    fake::SetDevices(4);
  }
  ~ExpertParallelOverNccl() override { fake::Reset(); }

  // body(rank, exchange) on a thread for each rank, connected.
  static void OnEachConnected(int size, const std::function<void(int rank, DeviceExchange* exchange)>& body,
                              const ModelConfig& config = kConfig) {
    Meeting meeting(size);
    OnEachRank(size, [&](int rank) {
      const std::unique_ptr<DeviceExchange> exchange = Connected(rank, 3, meeting, config);
      body(rank, exchange.get());
      meeting.barrier.arrive_and_wait();
    });
  }

  struct Meeting {
    explicit Meeting(int size) : addresses(size), barrier(size) {}
    std::vector<std::string> addresses;
    std::barrier<> barrier;
  };
  static std::unique_ptr<DeviceExchange> Connected(int rank, uint64_t epoch, Meeting& meeting,
                                                   const ModelConfig& config) {
    auto factory = MakeNcclExchangeFactory({.device = rank});
    EXPECT_TRUE(factory.ok()) << factory.status();
    ExpertParallel::Options largest = Rank<__nv_bfloat16>::WithType(kSmall);
    largest.pass_rows = 16;  // of all tests
    auto exchange = (*factory)->PrepareDevice({.epoch = epoch,
                                               .rank = rank,
                                               .size = static_cast<int>(meeting.addresses.size()),
                                               .message_bytes_max = ExpertParallel::MessageBytesMax(config, largest)});
    EXPECT_TRUE(exchange.ok()) << exchange.status();
    meeting.addresses[rank] = (*exchange)->address();
    meeting.barrier.arrive_and_wait();
    EXPECT_EQ((*exchange)->Connect(meeting.addresses), absl::OkStatus());
    return *std::move(exchange);
  }
};

TEST_F(ExpertParallelOverNccl, GivesTheBitsOfOneInSlotsExactlyAndFromAGraph) {
  for (const int size : simt::kManyThreads ? std::vector<int>{2, 3, 4} : std::vector<int>{2}) {
    const std::vector<int> rows_max = {4, 20, 7, 3, 24, 4};  // up to 8 in slots, up to 4 from the graph of the first
    std::vector<std::vector<Rows>> rows(size);
    for (int rank = 0; rank < size; ++rank) {
      for (int step = 0; step < static_cast<int>(rows_max.size()); ++step) {
        const int T = RowsOf(rank, step, rows_max[step]);
        rows[rank].emplace_back(T, rows_max[step] <= 4 ? 4 : T, 100 * rank + step);
      }
    }
    const std::vector<std::vector<float>> expected = Alone<__nv_bfloat16>(rows);
    simt::SetSeed(size);
    OnEachConnected(size, [&](int at, DeviceExchange* exchange) {
      Rank<__nv_bfloat16> rank(exchange, at, RandomPlacement(size, size), size, kSmall);
      GraphExec graph;
      uint64_t graph_shape = 0;
      std::vector<float> sums;
      for (size_t step = 0; step < rows_max.size(); ++step) {
        rank.Set(rows[at][step]);
        rank.parallel->BeginStep(step + 1, rows_max[step]);
        if (step == 0) {
          graph = rank.Capture();
          graph_shape = rank.parallel->capture_shape();
        }
        if (rank.parallel->capturable() && rank.parallel->capture_shape() == graph_shape) {
          ASSERT_EQ(rank.Launch(graph), absl::OkStatus());
        } else {
          ASSERT_EQ(rank.Enqueue(), absl::OkStatus());
        }
        ASSERT_EQ(rank.Wait(), absl::OkStatus());
        const std::vector<float> one = rank.Sums();
        sums.insert(sums.end(), one.begin(), one.end());
      }
      EXPECT_TRUE(SameBits(sums, expected[at])) << at << " of " << size;
    });
  }
}

TEST_F(ExpertParallelOverNccl, FindsARankThatRunsAnotherStep) {
  OnEachConnected(2, [&](int at, DeviceExchange* exchange) {
    Rank<__nv_bfloat16> rank(exchange, at, RandomPlacement(2, 2), 2, kSmall);
    rank.Set(Rows(3, 4, at));
    const absl::Status status = rank.RunStep(1 + at, 4);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_EQ(rank.parallel->suspects(), std::vector<int>{1 - at});
  });
}

// The whole model, in steps in halves where some rank has so many rows, if that is not 0; with room in slots for
// whatever comes, or for so little that steps are run again.
struct EnginesCase {
  int overlap_rows = 0;
  bool tight = false;
};
void PrintTo(const EnginesCase& it, std::ostream* out) {
  *out << (it.overlap_rows > 0 ? "halves" : "whole") << (it.tight ? ", tight" : "");
}

class EnginesOverNccl : public ExpertParallelOverNccl, public testing::WithParamInterface<EnginesCase> {
 protected:
  ExpertParallel::Options ParallelOptions() const {
    ExpertParallel::Options options = Rank<__nv_bfloat16>::WithType(kSmall);
    options.overlap_rows = GetParam().overlap_rows;
    if (GetParam().tight) options.room = {.multiple = 0.01, .deviations = 0, .more = 0, .spare_bytes = 0};
    return options;
  }
  // body(rank, engine, experts) on a thread for each rank; each has some of the experts.
  void OnEachEngine(int size, const std::function<void(int, DeviceEngine&, ExpertParallel&)>& body) {
    OnEachEngine(size, ParallelOptions(), [&](int at, DeviceEngine& engine, ExpertParallel& experts) {
      body(at, engine, experts);
      EXPECT_EQ(experts.TakeRunsAgain() > 0, GetParam().tight);
    });
  }
  void OnEachEngine(int size, const ExpertParallel::Options& parallel_options,
                    const std::function<void(int, DeviceEngine&, ExpertParallel&)>& body) {
    const ModelConfig& config = model_.config;
    const std::vector<ExpertRanks> placement = RandomPlacement(size, 5, config);
    OnEachConnected(
        size,
        [&](int at, DeviceExchange* exchange) {
          DeviceEngineOptions options = SmallOptions(DType::kBF16);
          options.expert_rows_max = ExpertParallel::ExpertRowsMax(config, parallel_options, size);
          const EpochMemory::Sizes sizes =
              ExpertParallel::MemorySizes(config, parallel_options, options.step_tokens_max, size);
          options.exchange_bytes = sizes.all_device_bytes();
          auto engine = *DeviceEngine::Create(*OpenDevice(at), &config, &model_.tensors, options);
          const auto memory = *EpochMemory::Create(engine->exchange_memory(), sizes);
          ASSERT_EQ(engine->Load(NeverStop), absl::OkStatus());
          std::vector<bool> here;
          for (const ExpertRanks& layer : placement)
            for (int e = 0; e < config.experts; ++e) here.push_back(layer.IsAt(e, at));
          const auto ffn = engine->MakeExpertFfn(*engine->LoadExperts(here, NeverStop));
          auto experts = ExpertParallel::Make(
              &config, ffn.get(), exchange,
              {.rank = at, .size = size, .step_tokens_max = options.step_tokens_max, .placement = placement},
              parallel_options, memory.get());
          ASSERT_TRUE(experts.ok()) << experts.status();
          body(at, *engine, **experts);
        },
        config);
  }
  std::vector<float> Alone(std::span<const TokenId> tokens) {
    if (!alone_) alone_ = std::make_unique<DeviceFixture>(&model_.config, &model_.tensors, SmallOptions(DType::kBF16));
    return alone_->Logits(tokens, 100);
  }

  const TinyModel model_{DType::kBF16};
  std::unique_ptr<DeviceFixture> alone_;
};
INSTANTIATE_TEST_SUITE_P(All, EnginesOverNccl,
                         testing::ValuesIn(simt::kManyThreads
                                               ? std::vector<EnginesCase>{{0}, {1}, {4}, {0, true}, {1, true}}
                                               : std::vector<EnginesCase>{{1, true}}));

// One sequence on each.
TEST_P(EnginesOverNccl, GiveTheBitsOfOne) {
  const int size = simt::kManyThreads ? 3 : 2;
  // Steps by their rows on each rank: prefill exactly and in passes, decode in slots and from graphs.
  const std::vector<std::vector<int>> steps = {{20, 11, 0}, {1, 1, 9}, {1, 1, 1}, {1, 1, 1}, {1, 0, 1},
                                               {1, 1, 1},   {5, 1, 1}, {0, 1, 1}, {1, 1, 1}, {13, 4, 1}};
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> expected;
  for (int rank = 0; rank < size; ++rank) {
    int count = 0;
    for (const std::vector<int>& rows : steps) count += rows[rank];
    tokens.push_back(model_.Tokens(count, 1 + rank));
    expected.push_back(Alone(tokens.back()));
  }
  OnEachEngine(size, [&](int at, DeviceEngine& engine, ExpertParallel& experts) {
    SequenceCache cache{.blocks = {3, 1}, .conv_slot = 2};
    std::vector<float> all;
    int position = 0;
    for (size_t step = 0; step < steps.size(); ++step) {
      const int rows = steps[step][at];
      experts.BeginStep(step + 1, *std::max_element(steps[step].begin(), steps[step].end()));
      const Chunk chunk{&cache, position, std::span(tokens[at]).subspan(position, rows), Chunk::Logits::kAll};
      std::vector<float> logits;
      ASSERT_EQ(engine.Run({&chunk, rows > 0 ? 1u : 0u}, experts.runner(), &logits), absl::OkStatus());
      all.insert(all.end(), logits.begin(), logits.end());
      position += rows;
    }
    EXPECT_GT(experts.graphs().size(), 0);
    EXPECT_TRUE(SameBits(all, expected[at])) << at;
  });
}

// Many on each: halves begin in the middle of a prompt, and are padded.
TEST_P(EnginesOverNccl, GiveTheBitsOfOneForManySequences) {
  constexpr int kSteps = 4;
  const std::vector<int> counts = {5, 2};  // of sequences
  const auto prompt = [](int s) { return 1 + s; };
  std::vector<std::vector<std::vector<TokenId>>> tokens(counts.size());
  std::vector<std::vector<std::vector<float>>> expected(counts.size());
  for (size_t rank = 0; rank < counts.size(); ++rank) {
    for (int s = 0; s < counts[rank]; ++s) {
      tokens[rank].push_back(model_.Tokens(prompt(s) + kSteps, static_cast<uint32_t>(10 * rank) + s));
      expected[rank].push_back(Alone(tokens[rank].back()));
    }
  }
  const int V = model_.config.vocab_size;
  OnEachEngine(static_cast<int>(counts.size()), [&](int at, DeviceEngine& engine, ExpertParallel& experts) {
    const int count = counts[at];
    std::vector<SequenceCache> caches;
    for (int s = 0; s < count; ++s) caches.push_back({.blocks = {10 - s}, .conv_slot = s});
    for (int step = 0; step <= kSteps; ++step) {
      std::vector<Chunk> chunks;
      std::vector<float> want;
      for (int s = 0; s < count; ++s) {
        const int from = step == 0 ? 0 : prompt(s) + step - 1, to = prompt(s) + step;
        chunks.push_back({&caches[s], from, std::span(tokens[at][s]).subspan(from, to - from)});
        want.insert(want.end(), expected[at][s].begin() + (to - 1) * V, expected[at][s].begin() + to * V);
      }
      const int rows_max = step == 0 ? 15 : counts[0];  // of the first rank: 1 + 2 + 3 + 4 + 5
      experts.BeginStep(step + 1, rows_max);
      std::vector<float> logits;
      ASSERT_EQ(engine.Run(chunks, experts.runner(), &logits), absl::OkStatus());
      EXPECT_TRUE(SameBits(logits, want)) << step << " of " << at;
    }
    EXPECT_GT(experts.graphs().size(), 0);
  });
}

// Sequences that are written token by token, on all ranks: who has come so far, whether hosts know the tokens or not,
// and what is run twice must make no difference.
class ConversationsOverNccl : public EnginesOverNccl {
 protected:
  static constexpr int kSize = simt::kManyThreads ? 3 : 2, kSequences = simt::kManyThreads ? 3 : 1;
  // In each step but for two one of the ranks begins a sequence, until all have; then there are some more.
  static constexpr int kPrompts = 2 + kSize * kSequences, kSteps = kPrompts + (simt::kManyThreads ? 5 : 2), kRows = 16;
  static constexpr int kFirst = 2;  // tokens of a prompt, as many as a convolution looks back
  struct Sequence {
    std::vector<TokenId> prompt, answer;
    SequenceCache cache;
    int begins_at = 0;
  };
  // Two steps before, it has had its first tokens. With what a rank's other sequences have a prompt makes a step of
  // more than 12 rows, and no more than 16. A run of 15 overwrites conv columns that it began with, one of 14 does so
  // with the token behind it.
  Sequence NewSequence(int rank, int i) const {
    Sequence sequence;
    sequence.prompt = model_.Tokens(kFirst + std::array{15, 14, 13}[i], 10 * rank + i);
    sequence.cache = {.blocks = {20 - i}, .conv_slot = i};
    sequence.begins_at = 2 + kSize * i + rank;
    return sequence;
  }
  static Chunk FirstTokens(const Sequence& sequence) {
    return {&sequence.cache, 0, std::span(sequence.prompt).first(kFirst), Chunk::Logits::kNone};
  }
  static Engine::DrawnRow HowToDraw(int rank, int i, int position) {
    if (i == 0) return {};
    return {.temperature = 0.9f, .min_p = 0.01f, .uniform = UniformAt(7, rank, static_cast<uint64_t>(position))};
  }

  // On one engine that has all experts; with the logits of the last step.
  std::pair<std::vector<TokenId>, std::vector<float>> AnswerAlone(int rank, int i) {
    if (!alone_) alone_ = std::make_unique<DeviceFixture>(&model_.config, &model_.tensors, SmallOptions(DType::kBF16));
    Sequence sequence = NewSequence(rank, i);
    std::vector<float> logits;
    int position = kFirst;
    const Chunk first_tokens = FirstTokens(sequence);
    EXPECT_EQ(alone_->engine().Run({&first_tokens, 1}, alone_->runner(), &logits), absl::OkStatus());
    for (int step = sequence.begins_at; step < kSteps; ++step) {
      const bool first = step == sequence.begins_at;
      const Chunk chunk{
          &sequence.cache, position,
          first ? std::span<const TokenId>(sequence.prompt).subspan(kFirst) : std::span(sequence.answer).last(1)};
      position += static_cast<int>(chunk.tokens.size());
      const Engine::DrawnRow row = HowToDraw(rank, i, position);
      std::vector<TokenId> token;
      EXPECT_EQ(alone_->engine().Run({&chunk, 1}, alone_->runner(), &logits), absl::OkStatus());
      EXPECT_EQ(alone_->engine().Draw({&row, 1}), absl::OkStatus());
      EXPECT_EQ(alone_->engine().TakeDrawn(&token), absl::OkStatus());
      sequence.answer.push_back(token[0]);
    }
    return {sequence.answer, logits};
  }

  // A rank's steps.
  class Conversations {
   public:
    Conversations(int rank, uint64_t seed, std::vector<Sequence> sequences, DeviceEngine& engine,
                  ExpertParallel& experts)
        : rank_(rank), random_(static_cast<uint32_t>(seed) * 10 + rank), engine_(engine), experts_(experts) {
      sequences_ = std::move(sequences);
    }
    void Run() {
      for (int step = 0; step < kSteps; ++step) {
        const int rows_max = step < kPrompts ? kRows : kSequences;
        while (!begun_.empty() && !(begun_.size() < 2 && begun_.back().drawn && experts_.CanBeginAhead(rows_max) &&
                                    random_.Below(4) > 0)) {
          Take();
        }
        Begin(step, rows_max);
      }
      while (!begun_.empty()) Take();
    }
    const std::vector<Sequence>& sequences() const { return sequences_; }
    const std::vector<float>& last_logits() const { return logits_; }
    int again_with_another_behind() const { return again_with_another_behind_; }

   private:
    struct Begun {
      std::vector<int> sequences;
      std::vector<Engine::DrawnRow> rows;
      bool drawn;
    };

    void Begin(int step, int rows_max) {
      Begun begun;
      std::vector<Chunk> chunks;
      const TokenId holds_the_place = 0;
      for (int i = 0; i < static_cast<int>(sequences_.size()); ++i) {
        Sequence& sequence = sequences_[i];
        if (step == sequence.begins_at - 2) chunks.push_back(FirstTokens(sequence));
        if (step < sequence.begins_at) continue;
        Chunk chunk{&sequence.cache, kFirst, std::span(sequence.prompt).subspan(kFirst)};
        if (step > sequence.begins_at) {
          chunk.position = static_cast<int>(sequence.prompt.size()) + step - sequence.begins_at - 1;
          chunk.tokens = {begun_.empty() ? &sequence.answer.back() : &holds_the_place, 1};
          if (!begun_.empty())
            chunk.drawn =
                static_cast<int>(std::ranges::find(begun_.back().sequences, i) - begun_.back().sequences.begin());
        }
        begun.rows.push_back(HowToDraw(rank_, i, chunk.position + static_cast<int>(chunk.tokens.size())));
        begun.rows.back().row = static_cast<int>(begun.sequences.size());
        begun.sequences.push_back(i);
        chunks.push_back(chunk);
      }
      experts_.BeginStep(static_cast<uint64_t>(step) + 1, rows_max);
      ASSERT_EQ(engine_.Run(chunks, experts_.runner(), nullptr), absl::OkStatus());
      begun.drawn = random_.Below(5) > 0;  // else the host looks at its logits first
      if (begun.drawn) {
        ASSERT_EQ(engine_.Draw(begun.rows), absl::OkStatus());
      }
      begun_.push_back(std::move(begun));
    }

    void Take() {
      const Begun begun = std::move(begun_.front());
      begun_.pop_front();
      const int count = static_cast<int>(begun.sequences.size());
      if (!begun.drawn) {
        ASSERT_EQ(engine_.Logits(0, count, &logits_), absl::OkStatus());
        ASSERT_EQ(engine_.Draw(begun.rows), absl::OkStatus());
      }
      std::vector<TokenId> tokens;
      ASSERT_EQ(engine_.TakeDrawn(&tokens), absl::OkStatus());
      again_with_another_behind_ += experts_.TakeRunsAgain() > 0 && !begun_.empty();
      for (int i = 0; i < count; ++i) sequences_[begun.sequences[i]].answer.push_back(tokens[i]);
      if (begun_.empty()) {
        ASSERT_EQ(engine_.Logits(0, count, &logits_), absl::OkStatus());
      }
    }

    const int rank_;
    RandomNumbers random_;
    DeviceEngine& engine_;
    ExpertParallel& experts_;
    std::vector<Sequence> sequences_;
    std::deque<Begun> begun_;
    std::vector<float> logits_;
    int again_with_another_behind_ = 0;
  };
};
// Prompts in halves, and what comes behind them not.
INSTANTIATE_TEST_SUITE_P(All, ConversationsOverNccl, testing::Values(EnginesCase{4, true}));

TEST_P(ConversationsOverNccl, RunStepsAgainThoughOthersWereBegunBehind) {
  ExpertParallel::Options options = ParallelOptions();
  options.pass_rows = options.slot_rows_max = kRows;
  options.room.multiple = 0.2;
  options.room.steps_to_halve = 2;  // so that many do not fit
  std::vector<std::vector<std::pair<std::vector<TokenId>, std::vector<float>>>> expected(kSize);
  for (int rank = 0; rank < kSize; ++rank)
    for (int i = 0; i < kSequences; ++i) expected[rank].push_back(AnswerAlone(rank, i));
  const uint64_t seed = 1;  // some columns are lost then, if nobody saves them
  simt::SetSeed(seed);
  std::atomic<int> again_with_another_behind = 0;
  OnEachEngine(kSize, options, [&](int at, DeviceEngine& engine, ExpertParallel& experts) {
    std::vector<Sequence> sequences;
    for (int i = 0; i < kSequences; ++i) sequences.push_back(NewSequence(at, i));
    Conversations conversations(at, seed, std::move(sequences), engine, experts);
    conversations.Run();
    std::vector<float> want;
    for (int i = 0; i < kSequences; ++i) {
      EXPECT_EQ(conversations.sequences()[i].answer, expected[at][i].first) << i << " of " << at;
      want.insert(want.end(), expected[at][i].second.begin(), expected[at][i].second.end());
    }
    EXPECT_TRUE(SameBits(conversations.last_logits(), want)) << at;
    again_with_another_behind += conversations.again_with_another_behind();
  });
  EXPECT_GT(again_with_another_behind, 0);
}

// What a worker does from epoch to epoch: graphs, experts and exchange of the last one go on another thread, beside the
// set-up and the steps of the next. Each ends with a graph of one rank on its way, which the peer never launches, and
// which some wait for and some do not. None takes memory, on the device or pinned.
TEST_F(ExpertParallelOverNccl, GraphsOfAnEpochGoBeforeItsExchange) {
  const int size = 2, epochs = simt::kManyThreads ? 6 : 4, steps = 3;  // plain, captured, replayed
  const int communicators_before = fake::NcclCommunicators();
  const TinyModel model(DType::kBF16);
  const ModelConfig& config = model.config;
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> expected;
  {
    DeviceFixture alone(&config, &model.tensors, SmallOptions(DType::kBF16));
    for (int rank = 0; rank < size; ++rank) {
      tokens.push_back(model.Tokens(epochs * steps, 1 + rank));
      expected.push_back(alone.Logits(tokens.back(), 100));
    }
  }
  const ExpertParallel::Options parallel_options = Rank<__nv_bfloat16>::WithType(kSmall);
  Meeting meeting(size);
  OnEachRank(size, [&](int at) {
    DeviceEngineOptions options = SmallOptions(DType::kBF16);
    options.expert_rows_max = ExpertParallel::ExpertRowsMax(config, parallel_options, size);
    const EpochMemory::Sizes sizes =
        ExpertParallel::MemorySizes(config, parallel_options, options.step_tokens_max, size);
    options.exchange_bytes = sizes.all_device_bytes();
    auto engine = *DeviceEngine::Create(*OpenDevice(at), &config, &model.tensors, options);
    const auto memory = *EpochMemory::Create(engine->exchange_memory(), sizes);
    ASSERT_EQ(engine->Load(NeverStop), absl::OkStatus());
    meeting.barrier.arrive_and_wait();
    const uint64_t allocations = fake::CallsSoFar().allocations;  // of all ranks: they have started
    meeting.barrier.arrive_and_wait();
    // As in EpochMember: the last goes first.
    struct Epoch {
      std::unique_ptr<DeviceExchange> exchange;
      std::unique_ptr<DeviceExpertFfn> ffn;
      std::unique_ptr<ExpertParallel> experts;
    };
    std::thread ending;
    SequenceCache cache{.blocks = {3}, .conv_slot = 2};
    std::vector<float> all;
    int position = 0;
    std::vector<float> logits;
    const auto run = [&](Epoch& epoch, int step, std::vector<float>* logits) {
      epoch.experts->BeginStep(step, 1);
      const Chunk chunk{&cache, position, std::span(tokens[at]).subspan(position, 1), Chunk::Logits::kAll};
      return engine->Run({&chunk, 1}, epoch.experts->runner(), logits);
    };
    for (int number = 1; number <= epochs; ++number) {
      Epoch epoch{.exchange = Connected(at, number, meeting, config)};
      const std::vector<ExpertRanks> placement = RandomPlacement(size, number, config);
      std::vector<bool> here;
      for (const ExpertRanks& layer : placement)
        for (int e = 0; e < config.experts; ++e) here.push_back(layer.IsAt(e, at));
      epoch.ffn = engine->MakeExpertFfn(*engine->LoadExperts(here, NeverStop));
      epoch.experts = *ExpertParallel::Make(
          &config, epoch.ffn.get(), epoch.exchange.get(),
          {.rank = at, .size = size, .step_tokens_max = options.step_tokens_max, .placement = placement},
          parallel_options, memory.get());
      for (int step = 1; step <= steps; ++step, ++position) {
        ASSERT_EQ(run(epoch, step, &logits), absl::OkStatus());
        all.insert(all.end(), logits.begin(), logits.end());
      }
      EXPECT_EQ(epoch.experts->graphs().size(), 1);
      meeting.barrier.arrive_and_wait();
      // The step is run again in the next epoch; in the last one there is none.
      const bool on_its_way = number % 2 == at && number < epochs;
      if (on_its_way) {
        EXPECT_EQ(run(epoch, steps + 1, nullptr), absl::OkStatus());
      }
      meeting.barrier.arrive_and_wait();
      epoch.exchange->Abort("a new epoch");
      if (on_its_way && number > 2) {
        EXPECT_FALSE(engine->Logits(0, 1, &logits).ok());
      }
      if (ending.joinable()) ending.join();
      ending = std::thread([epoch = std::move(epoch)]() mutable { const Epoch ended = std::move(epoch); });
    }
    ending.join();
    EXPECT_EQ(fake::CallsSoFar().allocations, allocations) << "an epoch took memory";
    EXPECT_TRUE(SameBits(all, expected[at])) << at;
    meeting.barrier.arrive_and_wait();
  });
  EXPECT_EQ(fake::NcclCommunicators() - communicators_before, 0) << "left behind";
}

}  // namespace
}  // namespace braid::gpu
