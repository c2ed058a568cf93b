#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/panels.h"
#include "model/model_file.h"
#include "model/tensors.h"

namespace braid {

// One tensor of the file to be written: its parts one after the other (several for stacked experts), as `dtype`.
struct PlannedTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;     // outermost first
  std::vector<TensorView> parts;  // into the source file
  Layout layout = Layout::kRows;  // of each part

  uint64_t bytes() const;
};

struct ConversionPlan {
  std::vector<PlannedTensor> tensors;
  std::vector<std::string> notes;  // what did not become the type asked for, and why
};

// What goes into a GGUF: matrices as `type` (nullopt: as they are), experts stacked; norms, routers, their biases and
// conv kernels as F32, as llama.cpp wants them. The embedding is Q8_0 where `type` is Q4_0: in a tied model it is the
// head too, whose errors go straight into the logits. Matrices whose rows are no whole blocks become F16. A model
// without expert biases gets zeros, which llama.cpp requires; `zeros` keeps them and must outlive the plan.
ConversionPlan PlanGguf(const ModelFile& model, std::optional<DType> type, std::vector<float>* zeros);

// What goes into a packed file: that, but matrices of block types in panels, and norms and the like as they are: the
// model stays itself to the bit. No zeros.
ConversionPlan PlanPacked(const ModelFile& model, std::optional<DType> type);

// What goes into a safetensors file: matrices as `type`, a float type (nullopt: as they are, BF16 if they are
// quantised), each expert apart; the others as they are, F32 if they are quantised.
ConversionPlan PlanHf(const ModelFile& model, std::optional<DType> type);

}  // namespace braid
