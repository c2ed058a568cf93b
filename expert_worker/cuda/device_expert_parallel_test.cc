#include "expert_worker/cuda/device_expert_parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <functional>
#include <numeric>
#include <thread>

#include "base/status.h"
#include "expert_worker/cuda/test_exchange.h"
#include "kernels/cuda/grouped_linear.h"
#include "kernels/cuda/test_tensors.h"
#include "kernels/random_weights.h"
#include "tests/cuda_emulator/fake_cuda.h"
#include "tests/cuda_emulator/simt.h"

namespace braid::gpu {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int kDim = 32, kFfn = 16, kExperts = 6, kChosen = 3, kLayers = 3, kDenseLayers = 1;
constexpr int kStepTokens = 24;

ModelConfig Config() {
  ModelConfig config;
  config.model_dim = kDim;
  config.layers.assign(kLayers, ModelConfig::LayerKind::kConv);
  config.dense_layers = kDenseLayers;
  config.experts = kExperts;
  config.experts_per_token = kChosen;
  config.expert_ffn_dim = kFfn;
  return config;
}
const ModelConfig kConfig = Config();

// Device memory of the calling thread's device, with what it is to hold.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(size_t n) : n_(n), memory_(*AllocateDevice(std::max<size_t>(n, 1) * sizeof(T))) {}
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) { Set(values); }
  void Set(const std::vector<T>& values) {
    ASSERT_EQ(values.size(), n_);
    EXPECT_EQ(cudaMemcpy(data(), values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  std::vector<T> Get() {
    std::vector<T> values(n_);
    EXPECT_EQ(cudaMemcpy(values.data(), data(), n_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }
  T* data() { return static_cast<T*>(memory_.get()); }

 private:
  size_t n_;
  DeviceMemory memory_;
};

// The gated feed-forwards of the experts that are placed at one rank, and of no others.
template <typename T>
class TestFfn : public ExpertFfn {
 public:
  TestFfn(const std::vector<ExpertRanks>& placement, int rank, int rows_max) : between_(size_t(rows_max) * kFfn) {
    for (int layer = 0; layer < static_cast<int>(placement.size()); ++layer) {
      std::vector<int32_t> here, places(kExperts);
      for (int e = kExperts - 1; e >= 0; --e) {
        if (!placement[layer].IsAt(e, rank)) continue;
        places[e] = static_cast<int32_t>(here.size());
        here.push_back(e);
      }
      layers_.push_back({static_cast<int>(here.size()), Weights(layer, here, 2 * kFfn * kDim, 0),
                         Weights(layer, here, kFfn * kDim, 1), OnDevice<int32_t>(places)});
    }
  }
  absl::Status Enqueue(const ExpertGroups& groups, cudaStream_t stream) override {
    Layer& layer = layers_[groups.layer - kDenseLayers];
    if (groups.rows_max == 0 || layer.here == 0) return absl::OkStatus();
    GroupedLinear up{.E = kExperts, .N = 2 * kFfn, .K = kDim, .type = kTypeOf<T>, .x = groups.x};
    up.source = groups.source;
    up.offsets = groups.offsets;
    up.rows_max = groups.rows_max;
    up.w = {kTypeOf<T>, layer.here * 2 * kFfn, kDim, layer.up.data()};
    up.swiglu = true;
    up.y_type = kTypeOf<T>;
    up.y = between_.data();
    up.places = layer.places.data();
    RETURN_IF_ERROR(Check(up));
    RETURN_IF_ERROR(CudaError(Run(up, Choose(up), stream), "up"));
    GroupedLinear down = up;
    down.N = kDim;
    down.K = kFfn;
    down.x = between_.data();
    down.source = nullptr;
    down.w = {kTypeOf<T>, layer.here * kDim, kFfn, layer.down.data()};
    down.swiglu = false;
    down.y = groups.y;
    RETURN_IF_ERROR(Check(down));
    return CudaError(Run(down, Choose(down), stream), "down");
  }

 private:
  struct Layer {
    int here;
    OnDevice<T> up, down;
    OnDevice<int32_t> places;
  };
  static OnDevice<T> Weights(int layer, const std::vector<int32_t>& experts, int n, int which) {
    std::vector<float> all;
    for (const int32_t e : experts) {
      const std::vector<float> one = RandomNumbers(1 + which + 2 * e + 100 * layer).Floats(n);
      all.insert(all.end(), one.begin(), one.end());
    }
    return OnDevice<T>(Rounded<T>(all));
  }
  OnDevice<T> between_;
  std::vector<Layer> layers_;
};

// By layer and expert, a share of the ranks.
std::vector<ExpertRanks> RandomPlacement(int size, uint32_t seed) {
  RandomNumbers random(seed);
  std::vector<ExpertRanks> placement;
  for (int l = 0; l < kConfig.moe_layer_count(); ++l) {
    v1::LayerPlacement layer;
    for (int e = 0; e < kExperts; ++e) {
      std::vector<int> ranks;
      for (int rank = 0; rank < size; ++rank)
        if (random.Below(3) == 0) ranks.push_back(rank);
      if (ranks.empty()) ranks.push_back(random.Below(size));
      layer.add_replicas(ranks.size());
      for (const int rank : ranks) layer.add_ranks(rank);
    }
    placement.push_back(*ExpertRanks::Parse(layer, kExperts, size));
  }
  return placement;
}

// What a rank has to do in a step: its rows in each MoE layer, padded to `padded`.
struct Rows {
  Rows(int T, int padded, uint32_t seed) {
    RandomNumbers random(seed);
    x = random.Floats(size_t(padded) * kDim);
    weights = random.Floats(size_t(padded) * kChosen);
    for (int t = 0; t < padded; ++t) {
      std::vector<int32_t> all(kExperts);
      std::iota(all.begin(), all.end(), 0);
      for (int k = 0; k < kChosen; ++k) {
        std::swap(all[k], all[k + random.Below(kExperts - k)]);
        experts.push_back(t < T ? all[k] : -1);
      }
    }
  }
  std::vector<float> x, weights;
  std::vector<int32_t> experts;
};

constexpr ExpertParallel::Options kSmall = {.pass_rows = 8, .slot_rows_max = 8};

// A rank with all that it needs, on the calling thread's device.
template <typename T>
class Rank {
 public:
  Rank(DeviceExchange* exchange, int rank, std::vector<ExpertRanks> placement, int size,
       ExpertParallel::Options options)
      : ffn(placement, rank, WithType(options).pass_rows * kChosen * size),
        scratch(ExpertParallel::ScratchBytes(kConfig, WithType(options), kStepTokens, size)),
        stream(*CreateStream()),
        end(*CreateEvent()),
        x(kStepTokens * kDim),
        experts(kStepTokens * kChosen),
        weights(kStepTokens * kChosen) {
    auto made = ExpertParallel::Make(
        &kConfig, &ffn, exchange,
        {.rank = rank, .size = size, .step_tokens_max = kStepTokens, .placement = std::move(placement)},
        WithType(options),
        {scratch.data(), ExpertParallel::ScratchBytes(kConfig, WithType(options), kStepTokens, size)});
    EXPECT_TRUE(made.ok()) << made.status();
    parallel = *std::move(made);
    for (int layer = kDenseLayers; layer < kLayers; ++layer) y.emplace_back(kStepTokens * kDim);
  }
  static ExpertParallel::Options WithType(ExpertParallel::Options options) {
    options.type = kTypeOf<T>;
    return options;
  }

  void Set(const Rows& rows) {
    padded = static_cast<int>(rows.experts.size()) / kChosen;
    std::vector<T> typed = Rounded<T>(rows.x);
    std::vector<int32_t> chosen = rows.experts;
    std::vector<float> weighed = rows.weights;
    typed.resize(kStepTokens * kDim);
    chosen.resize(kStepTokens * kChosen);
    weighed.resize(kStepTokens * kChosen);
    x.Set(typed);
    experts.Set(chosen);
    weights.Set(weighed);
  }
  absl::Status Enqueue() {
    for (int layer = kDenseLayers; layer < kLayers; ++layer) {
      RETURN_IF_ERROR(parallel->Enqueue({layer, padded, kDim, kChosen, kTypeOf<T>, x.data(), experts.data(),
                                         weights.data(), y[layer - kDenseLayers].data()},
                                        stream.get()));
    }
    return parallel->EnqueueEnd(stream.get());
  }
  absl::Status Wait() {
    EXPECT_EQ(cudaEventRecord(end.get(), stream.get()), cudaSuccess);
    return parallel->Wait(end.get());
  }
  absl::Status RunStep(uint64_t step, int rows_max) {
    parallel->BeginStep(step, rows_max);
    RETURN_IF_ERROR(Enqueue());
    return Wait();
  }
  std::vector<float> Sums() {
    std::vector<float> sums;
    for (auto& layer : y) {
      const std::vector<float> all = layer.Get();
      sums.insert(sums.end(), all.begin(), all.begin() + padded * kDim);
    }
    return sums;
  }

  TestFfn<T> ffn;
  OnDevice<std::byte> scratch;
  Stream stream;
  Event end;
  OnDevice<T> x;
  OnDevice<int32_t> experts;
  OnDevice<float> weights;
  std::vector<OnDevice<float>> y;
  std::unique_ptr<ExpertParallel> parallel;
  int padded = 0;
};

class DeviceExpertParallel : public testing::Test {
 protected:
  DeviceExpertParallel() {
    fake::Reset();
    fake::SetDevices(4);
  }
  ~DeviceExpertParallel() override { fake::Reset(); }

  // body(rank) on a thread for each rank, which has a device to itself.
  static void OnEachRank(int size, const std::function<void(int rank)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        EXPECT_TRUE(UseDevice(rank).ok());
        body(rank);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  // The sums of these rows on one device that has all experts.
  template <typename T>
  static std::vector<float> Alone(const std::vector<Rows>& all) {
    std::vector<float> sums;
    OnEachRank(1, [&](int) {
      Rank<T> rank(nullptr, 0, RandomPlacement(1, 1), 1, kSmall);
      for (const Rows& rows : all) {
        rank.Set(rows);
        EXPECT_EQ(rank.RunStep(1, rank.padded), absl::OkStatus());
        const std::vector<float> step = rank.Sums();
        sums.insert(sums.end(), step.begin(), step.end());
      }
    });
    return sums;
  }
};

// Rows of a step of at most `rows_max`: some ranks have none.
int RowsOf(int rank, int step, int rows_max) { return (step + rank) % 3 == 2 ? 0 : (rank * 5 + step) % rows_max + 1; }

template <typename T>
class OnRanks : public DeviceExpertParallel {};
using Types = testing::Types<float, __nv_bfloat16>;
TYPED_TEST_SUITE(OnRanks, Types);

TYPED_TEST(OnRanks, GivesTheBitsOfOneInSlotsAndExactly) {
  for (int size = 1; size <= 4; ++size) {
    std::vector<std::vector<Rows>> rows(size);
    std::vector<std::vector<float>> expected;
    const std::vector<int> rows_max = {1, 5, 8, 20, 3, 24};  // beyond 8 exactly, beyond 8 in passes
    for (int rank = 0; rank < size; ++rank) {
      for (int step = 0; step < static_cast<int>(rows_max.size()); ++step) {
        const int T = RowsOf(rank, step, rows_max[step]);
        rows[rank].emplace_back(T, rows_max[step] <= 8 ? 8 : T, 100 * rank + step);
      }
      expected.push_back(this->template Alone<TypeParam>(rows[rank]));
    }
    TestNetwork network(size);
    std::vector<std::vector<uint64_t>> expert_rows(size);
    simt::SetSeed(size);
    this->OnEachRank(size, [&](int at) {
      TestExchange exchange(&network, at);
      Rank<TypeParam> rank(size == 1 ? nullptr : &exchange, at, RandomPlacement(size, size), size, kSmall);
      std::vector<float> sums;
      for (size_t step = 0; step < rows_max.size(); ++step) {
        rank.Set(rows[at][step]);
        ASSERT_EQ(rank.RunStep(step + 1, rows_max[step]), absl::OkStatus());
        const std::vector<float> one = rank.Sums();
        sums.insert(sums.end(), one.begin(), one.end());
        EXPECT_EQ(rank.parallel->capturable(), size == 1 || rows_max[step] <= 8);
      }
      EXPECT_TRUE(SameBits(sums, expected[at])) << at << " of " << size;
      // Two phases for a pass of a layer: three passes for each step of more than sixteen.
      EXPECT_EQ(exchange.exact_phases(), size == 1 ? 0 : 2 * 2 * (3 + 3));
      expert_rows[at] = rank.parallel->TakeExpertRows();
      EXPECT_THAT(rank.parallel->TakeExpertRows(), testing::Each(0));
    });
    for (int layer = 0; layer < kConfig.moe_layer_count(); ++layer) {
      for (int e = 0; e < kExperts; ++e) {
        uint64_t asked = 0, computed = 0;
        for (int rank = 0; rank < size; ++rank) {
          for (const Rows& step : rows[rank]) asked += std::count(step.experts.begin(), step.experts.end(), e);
          computed += expert_rows[rank][layer * kExperts + e];
        }
        EXPECT_EQ(computed, asked);
      }
    }
  }
}

TYPED_TEST(OnRanks, GivesTheBitsOfOneFromAGraph) {
  for (const int size : {1, 2, 4}) {
    TestNetwork network(size);
    std::vector<std::vector<Rows>> rows(size);
    std::vector<std::vector<float>> expected;
    for (int rank = 0; rank < size; ++rank) {
      for (int step = 0; step < 4; ++step) rows[rank].emplace_back(RowsOf(rank, step, 4), 4, 7 + 100 * rank + step);
      expected.push_back(this->template Alone<TypeParam>(rows[rank]));
    }
    simt::SetSeed(size);
    this->OnEachRank(size, [&](int at) {
      TestExchange exchange(&network, at);
      Rank<TypeParam> rank(size == 1 ? nullptr : &exchange, at, RandomPlacement(size, 3), size, kSmall);
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t exec = nullptr;
      rank.Set(rows[at][0]);
      rank.parallel->BeginStep(1, 4);
      const uint64_t shape = rank.parallel->capture_shape();
      ASSERT_EQ(cudaStreamBeginCapture(rank.stream.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
      ASSERT_EQ(rank.Enqueue(), absl::OkStatus());
      ASSERT_EQ(cudaStreamEndCapture(rank.stream.get(), &graph), cudaSuccess);
      ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
      const GraphExec destroyed(exec);
      std::vector<float> sums;
      for (int step = 0; step < 4; ++step) {
        rank.Set(rows[at][step]);
        rank.parallel->BeginStep(10 + step, 3 + step % 2);
        EXPECT_EQ(rank.parallel->capture_shape(), shape);
        ASSERT_EQ(cudaGraphLaunch(exec, rank.stream.get()), cudaSuccess);
        ASSERT_EQ(rank.Wait(), absl::OkStatus());
        const std::vector<float> one = rank.Sums();
        sums.insert(sums.end(), one.begin(), one.end());
      }
      EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
      EXPECT_TRUE(SameBits(sums, expected[at])) << at << " of " << size;
      rank.parallel->BeginStep(20, 5);
      EXPECT_EQ(rank.parallel->capture_shape() != shape, size > 1);
    });
  }
}

TEST_F(DeviceExpertParallel, RunsAStepAgainThatDidNotFitItsSlots) {
  const int size = 3;
  TestNetwork network(size);
  ExpertParallel::Options tight = kSmall;
  tight.results_share = 0.05;
  std::vector<Rows> rows;
  std::vector<std::vector<float>> expected;
  for (int rank = 0; rank < size; ++rank) {
    rows.emplace_back(rank == 1 ? 8 : 1, 8, rank);
    expected.push_back(Alone<float>({rows[rank]}));
  }
  std::vector<uint64_t> computed(size);
  OnEachRank(size, [&](int at) {
    TestExchange exchange(&network, at);
    Rank<float> rank(&exchange, at, RandomPlacement(size, 1), size, tight);
    rank.Set(rows[at]);
    EXPECT_EQ(rank.RunStep(1, 8).code(), absl::StatusCode::kResourceExhausted) << "on every rank";
    EXPECT_FALSE(rank.parallel->capturable());
    EXPECT_THAT(rank.parallel->suspects(), ElementsAre());
    ASSERT_EQ(rank.Enqueue(), absl::OkStatus());
    EXPECT_EQ(rank.Wait(), absl::OkStatus());
    EXPECT_TRUE(SameBits(rank.Sums(), expected[at]));
    const std::vector<uint64_t> expert_rows = rank.parallel->TakeExpertRows();
    computed[at] = std::accumulate(expert_rows.begin(), expert_rows.end(), uint64_t{0});
    rank.parallel->BeginStep(2, 8);
    EXPECT_TRUE(rank.parallel->capturable());
  });
  EXPECT_EQ(std::accumulate(computed.begin(), computed.end(), uint64_t{0}), 2u * kChosen * 10);
}

// A step of `rows_max` on three ranks, of which rank 2 sends what spoil() makes of its messages.
// If `all_know`, all ranks find the step void, and only rank 0 blames somebody.
void ExpectBlamed(int rows_max, bool all_know, const std::function<void(std::string*)>& spoil, const std::string& why) {
  const int size = 3;
  TestNetwork network(size);
  network.spoil = [&](int from, int to, std::string* message) {
    if (from == 2 && to == 0) spoil(message);
  };
  std::vector<std::thread> threads;
  for (int at = 0; at < size; ++at) {
    threads.emplace_back([&, at] {
      EXPECT_TRUE(UseDevice(at).ok());
      TestExchange exchange(&network, at);
      Rank<float> rank(&exchange, at, RandomPlacement(size, 1), size, kSmall);
      rank.Set(Rows(rows_max, rows_max, at));
      const absl::Status status = rank.RunStep(1, rows_max);
      if (at != 0) {
        EXPECT_EQ(status.code(), all_know ? absl::StatusCode::kDataLoss : absl::StatusCode::kOk) << status;
        EXPECT_THAT(rank.parallel->suspects(), ElementsAre());
      } else {
        EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
        EXPECT_THAT(std::string(status.message()), HasSubstr(why));
        EXPECT_THAT(rank.parallel->suspects(), ElementsAre(2));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(DeviceExpertParallel, BlamesWhoSendsNonsense) {
  const auto spoil_head = [](const std::function<void(DispatchHead*)>& spoil) {
    return [spoil](std::string* message) {
      if (message->size() >= sizeof(DispatchHead)) spoil(reinterpret_cast<DispatchHead*>(message->data()));
    };
  };
  for (const int rows_max : {4, 12}) {  // in slots, exactly
    ExpectBlamed(rows_max, true, spoil_head([](DispatchHead* head) { ++head->step; }),
                 "rank 2: a message of another step in layer 1");
    const auto last_results = [&](DispatchHead* head) {
      const bool last = head->layer == kLayers - 1 && head->part == (rows_max - 1) / kSmall.pass_rows;
      if (last && head->kind == DispatchHead::kResults) head->rows = 1 << 20;
    };
    ExpectBlamed(rows_max, false, spoil_head(last_results), "rank 2: counts that cannot be in layer 2");
  }
  ExpectBlamed(
      4, true, [](std::string* message) { message->assign(message->size(), '\0'); },
      "rank 2: no message of ours in layer 1");
}

TEST_F(DeviceExpertParallel, RefusesWhatItHasNoRoomFor) {
  OnEachRank(1, [](int) {
    TestFfn<float> ffn(RandomPlacement(1, 1), 0, 8 * kChosen);
    ExpertParallel::Options options = Rank<float>::WithType(kSmall);
    const EpochPlace place = {.rank = 0, .size = 1, .step_tokens_max = kStepTokens, .placement = RandomPlacement(1, 1)};
    OnDevice<std::byte> scratch(100);
    EXPECT_THAT(
        std::string(
            ExpertParallel::Make(&kConfig, &ffn, nullptr, place, options, {scratch.data(), 100}).status().message()),
        HasSubstr("100 are set aside"));
    options.results_share = 0;
    EXPECT_EQ(ExpertParallel::Make(&kConfig, &ffn, nullptr, place, options, {}).status().code(),
              absl::StatusCode::kInvalidArgument);
    Rank<float> rank(nullptr, 0, RandomPlacement(1, 1), 1, kSmall);
    EXPECT_EQ(rank.parallel->Enqueue({1, kStepTokens + 1, kDim, kChosen, DType::kF32}, rank.stream.get()).code(),
              absl::StatusCode::kInvalidArgument);
  });
}

}  // namespace
}  // namespace braid::gpu
