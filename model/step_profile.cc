#include "model/step_profile.h"

namespace braid {

std::string_view Name(StepOp op) {
  switch (op) {
    case StepOp::kEmbed:
      return "embed";
    case StepOp::kNorm:
      return "norm";
    case StepOp::kConvIn:
      return "conv_in";
    case StepOp::kConv:
      return "conv";
    case StepOp::kConvOut:
      return "conv_out";
    case StepOp::kQkv:
      return "qkv";
    case StepOp::kRope:
      return "rope";
    case StepOp::kAttention:
      return "attention";
    case StepOp::kAttnOut:
      return "attn_out";
    case StepOp::kFfn:
      return "ffn";
    case StepOp::kFfnIn:
      return "ffn_in";
    case StepOp::kSwiGlu:
      return "swiglu";
    case StepOp::kFfnOut:
      return "ffn_out";
    case StepOp::kRouter:
      return "router";
    case StepOp::kChoose:
      return "choose";
    case StepOp::kGroup:
      return "group";
    case StepOp::kExperts:
      return "experts";
    case StepOp::kExpertsIn:
      return "experts_in";
    case StepOp::kExpertsOut:
      return "experts_out";
    case StepOp::kExchange:
      return "exchange";
    case StepOp::kCombine:
      return "combine";
    case StepOp::kHead:
      return "head";
    case StepOp::kDraw:
      return "draw";
  }
  return "?";
}

}  // namespace braid
