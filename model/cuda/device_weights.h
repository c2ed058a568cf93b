#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/matrix.h"
#include "model/config.h"
#include "model/cuda/memory_plan.h"
#include "model/cuda/upload.h"
#include "model/tensors.h"

namespace braid::gpu {

// As LayerTensors, in device memory. Only the members that the layer's kind has are set.
struct DeviceLayer {
  const float *operator_norm = nullptr, *ffn_norm = nullptr;  // (D)
  Matrix conv_in, conv_out;                                   // (3D, D), (D, D)
  const float* conv_kernel = nullptr;                         // (C, D)
  Matrix qkv, attn_out;                                       // (H*hd + 2 kv, D), (D, H*hd)
  const float *q_norm = nullptr, *k_norm = nullptr;           // (hd)
  Matrix gate_up, down;                                       // (2F, D), (D, F)
  bool in_turns = true;  // gate_up: of eight, as GroupedLinear's swiglu wants it; else the gates before the ups
  Matrix router;         // (E, D), in float32: what it decides leaps
  const float* expert_bias = nullptr;  // (E) or nullptr
  Matrix expert_gate_up, expert_down;  // gate_up and down of all places, one behind the other
};

struct DeviceModel {
  Matrix embedding, head;             // (V, D)
  const float* final_norm = nullptr;  // (D)
  const float* cos = nullptr;         // (positions, hd / 2): the CPU's angles
  const float* sin = nullptr;
  int positions = 0;
  std::vector<DeviceLayer> layers;
};

// The weights of a model on one device: BF16 and Q4_0 as in the file, all others dequantised to `precision`, kBF16 or
// kF32, which is that of activations. A Q4_0 product in float32 is that of the very same numbers. With `fp8`, layers'
// matrices that the file has in floats are FP8, but for routers.
//
// With `gates_apart` the gates of dense layers in BF16 lie before their ups, for whoever multiplies without SwiGLU.
//
// Each MoE layer has `expert_places` places, for as many experts; who is in them is ExpertPlaces' matter.
class DeviceWeights {
 public:
  // Takes its part of the plan. `config` and `tensors` must outlive *this. kInvalidArgument if the kernels do not know
  // such a shape, or if there is nothing that `fp8` could change.
  static absl::StatusOr<std::unique_ptr<DeviceWeights>> Plan(const ModelConfig* config, const ModelTensors* tensors,
                                                             DType precision, bool fp8, bool gates_apart,
                                                             int expert_places, MemoryPlan* plan);
  // What was planned begins at `memory`. Nothing below, nor the model, may be used before.
  void Bind(std::byte* memory);

  const DeviceModel& model() const { return model_; }
  DType precision() const { return precision_; }
  int expert_places() const { return expert_places_; }

  // Of all but the experts, and of one expert.
  uint64_t bytes() const { return bytes_; }
  uint64_t ExpertBytes(int layer) const;
  absl::Status Load(Uploader& uploader) const;
  absl::Status LoadExpert(int layer, int expert, int place, Uploader& uploader) const;

 private:
  struct MatrixItem {
    Matrix* to;
    MatrixSource from;
    uint64_t data = 0, scales = 0;  // where they were planned
    bool load = true;               // with Load
  };
  struct VectorItem {
    const float** to;
    std::vector<float> values;
    uint64_t data = 0;
  };

  DeviceWeights(const ModelConfig* config, const ModelTensors* tensors, DType precision, bool fp8, bool gates_apart,
                int expert_places)
      : config_(*config),
        tensors_(*tensors),
        precision_(precision),
        fp8_(fp8),
        gates_apart_(gates_apart),
        expert_places_(expert_places) {}
  absl::Status PlanAll(MemoryPlan* plan);
  absl::Status PlanLayer(int layer, MemoryPlan* plan);
  absl::Status PlanExperts(int layer, MemoryPlan* plan);
  absl::Status PlanRopeTable(MemoryPlan* plan);
  void PlanMatrix(MatrixSource from, DType type, Matrix* to, MemoryPlan* plan);
  void PlanVector(std::vector<float> values, const float** to, MemoryPlan* plan);
  void LogDequantised() const;

  const ModelConfig& config_;
  const ModelTensors& tensors_;
  const DType precision_;
  const bool fp8_, gates_apart_;
  const int expert_places_;
  DeviceModel model_;
  std::vector<MatrixItem> matrices_;
  std::vector<VectorItem> vectors_;
  uint64_t bytes_ = 0;
};

}  // namespace braid::gpu
