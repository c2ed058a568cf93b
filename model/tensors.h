#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/panels.h"

namespace braid {

// A matrix or vector inside a mapped model file: `rows` outputs of `columns` inputs: y = W x has W (rows, columns). A
// vector has rows == 1. Points into the file: valid as long as the ModelFile lives. Row-major, and then `data` may be
// unaligned; or in panels, which only the matrices of VisitMatrices (model/visit_tensors.h) can be.
struct TensorView {
  std::string name;  // as the file spells it, for error messages
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  const std::byte* data = nullptr;  // bytes() of them
  Layout layout = Layout::kRows;

  bool empty() const { return data == nullptr; }
  uint64_t bytes() const {
    return MatrixBytes(dtype, layout, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns));
  }
};

struct FfnTensors {
  TensorView gate;  // (F, D): w1
  TensorView up;    // (F, D): w3
  TensorView down;  // (D, F): w2
};

// Only the members that the layer's kind has are set.
struct LayerTensors {
  TensorView operator_norm, ffn_norm;  // (1, D)
  TensorView conv_in, conv_kernel,
      conv_out;  // (3D, D) in the order B, C, X; (D, C), tap C-1 is the current token; (D, D)
  TensorView q, k, v, attn_out, q_norm, k_norm;  // (H*hd, D), (kv, D), (kv, D), (D, H*hd), (1, hd), (1, hd)
  FfnTensors dense;
  TensorView router, expert_bias;   // (E, D); (1, E), may be empty
  std::vector<FfnTensors> experts;  // E of them
};

struct ModelTensors {
  TensorView embedding;   // (V, D)
  TensorView final_norm;  // (1, D)
  TensorView head;        // (V, D); the embedding itself when tied
  std::vector<LayerTensors> layers;
};

}  // namespace braid
