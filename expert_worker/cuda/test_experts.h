#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "base/status.h"
#include "expert_worker/cuda/device_expert_parallel.h"
#include "kernels/cuda/grouped_linear.h"
#include "kernels/cuda/test_tensors.h"
#include "kernels/random_weights.h"

// What tests of experts on several devices of the fake runtime share: a model of nothing but experts, and ranks.

namespace braid::gpu {

inline constexpr int kDim = 32, kFfn = 16, kExperts = 6, kChosen = 3, kLayers = 3, kDenseLayers = 1;
inline constexpr int kStepTokens = 24;

inline ModelConfig Config() {
  ModelConfig config;
  config.model_dim = kDim;
  config.layers.assign(kLayers, ModelConfig::LayerKind::kConv);
  config.dense_layers = kDenseLayers;
  config.experts = kExperts;
  config.experts_per_token = kChosen;
  config.expert_ffn_dim = kFfn;
  return config;
}
inline const ModelConfig kConfig = Config();

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

class TestEpochMemory {
 public:
  explicit TestEpochMemory(const EpochMemory::Sizes& sizes)
      : device_(sizes.all_device_bytes()), memory_(*EpochMemory::Create(device_.data(), sizes)) {}
  EpochMemory* get() { return memory_.get(); }

 private:
  OnDevice<std::byte> device_;
  const std::unique_ptr<EpochMemory> memory_;
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
inline std::vector<ExpertRanks> RandomPlacement(int size, uint32_t seed, const ModelConfig& config = kConfig) {
  RandomNumbers random(seed);
  std::vector<ExpertRanks> placement;
  for (int l = 0; l < config.moe_layer_count(); ++l) {
    v1::LayerPlacement layer;
    for (int e = 0; e < config.experts; ++e) {
      std::vector<int> ranks;
      for (int rank = 0; rank < size; ++rank)
        if (random.Below(3) == 0) ranks.push_back(rank);
      if (ranks.empty()) ranks.push_back(random.Below(size));
      layer.add_replicas(ranks.size());
      for (const int rank : ranks) layer.add_ranks(rank);
    }
    placement.push_back(*ExpertRanks::Parse(layer, config.experts, size));
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

inline constexpr ExpertParallel::Options kSmall = {.pass_rows = 8, .slot_rows_max = 8};

// A rank with all that it needs, on the calling thread's device.
template <typename T>
class Rank {
 public:
  Rank(DeviceExchange* exchange, int rank, std::vector<ExpertRanks> placement, int size,
       ExpertParallel::Options options)
      : ffn(placement, rank, WithType(options).pass_rows * kChosen * size),
        memory(ExpertParallel::MemorySizes(kConfig, WithType(options), kStepTokens, size)),
        stream(*CreateStream()),
        end(*CreateEvent()),
        x(kStepTokens * kDim),
        experts(kStepTokens * kChosen),
        weights(kStepTokens * kChosen) {
    auto made = ExpertParallel::Make(
        &kConfig, &ffn, exchange,
        {.rank = rank, .size = size, .step_tokens_max = kStepTokens, .placement = std::move(placement)},
        WithType(options), memory.get());
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
    return Enqueue([this] { return EnqueueLayers(); });
  }
  absl::Status Launch(const GraphExec& graph) {
    return Enqueue([&] { return CudaError(cudaGraphLaunch(graph.get(), stream.get()), "launching a graph"); });
  }
  absl::Status Enqueue(const std::function<absl::Status()>& layers) {
    absl::Status status = parallel->EnqueueBegin(stream.get());
    if (status.ok()) status = layers();
    if (status.ok()) status = parallel->EnqueueEnd(stream.get());
    if (!status.ok()) parallel->Drop(stream.get());
    return status;
  }
  absl::Status EnqueueLayers() {
    for (int layer = kDenseLayers; layer < kLayers; ++layer) {
      const auto rows = [&](int begin, int end) {
        return RoutedRows{layer,
                          end - begin,
                          kDim,
                          kChosen,
                          kTypeOf<T>,
                          x.data() + begin * kDim,
                          experts.data() + begin * kChosen,
                          weights.data() + begin * kChosen,
                          y[layer - kDenseLayers].data() + begin * kDim};
      };
      if (parallel->half_rows() == 0) {
        RETURN_IF_ERROR(parallel->Enqueue(rows(0, padded), stream.get()));
        continue;
      }
      const int first = std::min(padded, parallel->half_rows());
      RETURN_IF_ERROR(parallel->Begin(0, rows(0, first), stream.get()));
      RETURN_IF_ERROR(parallel->Begin(1, rows(first, padded), stream.get()));
      RETURN_IF_ERROR(parallel->Compute(stream.get()));
      for (const int half : {0, 1}) RETURN_IF_ERROR(parallel->Finish(half, stream.get()));
    }
    return absl::OkStatus();
  }
  // One step, of as many rows as were set last. REQUIRES: the step that has begun is capturable.
  GraphExec Capture() {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_EQ(EnqueueLayers(), absl::OkStatus());
    EXPECT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    return GraphExec(executable);
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
  TestEpochMemory memory;
  Stream stream;
  Event end;
  OnDevice<T> x;
  OnDevice<int32_t> experts;
  OnDevice<float> weights;
  std::vector<OnDevice<float>> y;
  std::unique_ptr<ExpertParallel> parallel;
  int padded = 0;
};

// body(rank) on a thread for each rank, which has a device to itself.
inline void OnEachRank(int size, const std::function<void(int rank)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      EXPECT_TRUE(UseDevice(rank).ok());
      body(rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The sums of each rank's rows, one step after the other, on one device that has all experts.
template <typename T>
std::vector<std::vector<float>> Alone(const std::vector<std::vector<Rows>>& rows) {
  std::vector<std::vector<float>> sums(rows.size());
  OnEachRank(1, [&](int) {
    Rank<T> rank(nullptr, 0, RandomPlacement(1, 1), 1, kSmall);
    for (size_t at = 0; at < rows.size(); ++at) {
      for (const Rows& step : rows[at]) {
        rank.Set(step);
        EXPECT_EQ(rank.RunStep(1, rank.padded), absl::OkStatus());
        const std::vector<float> one = rank.Sums();
        sums[at].insert(sums[at].end(), one.begin(), one.end());
      }
    }
  });
  return sums;
}

// Rows of a step of at most `rows_max`: some ranks have none.
inline int RowsOf(int rank, int step, int rows_max) {
  return (step + rank) % 3 == 2 ? 0 : (rank * 5 + step) % rows_max + 1;
}

}  // namespace braid::gpu
