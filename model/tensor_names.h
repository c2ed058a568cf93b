#pragma once

#include <string>
#include <string_view>

namespace braid {

// How a file format spells the tensors of the LFM2 family. Names of layer tensors come after LayerPrefix().
// Source: llama.cpp's tensor tables; the state dict of transformers' Lfm2ForCausalLM and Lfm2MoeForCausalLM.
struct TensorNames {
  std::string_view embedding, final_norm, head;
  std::string_view layers;  // "blk." or "model.layers.", before the layer's number
  std::string_view operator_norm, ffn_norm;
  std::string_view conv_in, conv_kernel, conv_out;
  std::string_view q, k, v, attn_out, q_norm, k_norm;
  std::string_view gate, up, down;
  std::string_view router, expert_bias;
  // Experts as one tensor per matrix (gate, up, down apart); empty if the format has no such form.
  std::string_view gate_stack, up_stack, down_stack;
  // Experts as one tensor with the rows of gate, then of up; its down is `fused_down`. Empty likewise.
  std::string_view fused_gate_up, fused_down;
  // Each expert apart: `experts`, its number, then these.
  std::string_view experts, expert_gate, expert_up, expert_down;

  std::string LayerPrefix(int layer) const { return std::string(layers) + std::to_string(layer) + "."; }
  std::string ExpertPrefix(int layer, int expert) const {
    return LayerPrefix(layer) + std::string(experts) + std::to_string(expert) + ".";
  }
};

extern const TensorNames kGgufNames;
extern const TensorNames kHfNames;

}  // namespace braid
