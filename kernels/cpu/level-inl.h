// All loops of one level. Included once per level, after the level's vectors.

// Before a loop over registers: must be gone before registers are assigned. Where there are none it is the compiler's.
#if !defined(BRAID_UNROLL) && defined(__clang__)
#define BRAID_UNROLL _Pragma("unroll")
#elif !defined(BRAID_UNROLL)
#define BRAID_UNROLL _Pragma("GCC unroll 16")
#endif

#include "kernels/cpu/exp16-inl.h"
//
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/linear-inl.h"
#include "kernels/cpu/panels-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/softmax-inl.h"

namespace braid::BRAID_LEVEL {

constexpr CpuLevel Level(std::string_view name, bool (*supported)()) {
  return {.name = name,
          .supported = supported,
          .linear = LinearOutputs,
          .panel = RunPanel,
          .quantize = QuantizeBlocks,
          .swiglu_quantize = SwiGluQuantize,
          .norm_row = NormRow,
          .head_norm_rope_row = HeadNormRopeRow,
          .convolve_row = ConvolveRow,
          .weighted_sum_row = WeightedSumRow,
          .attend = Attend,
          .attend_span = AttendSpan,
          .merge_spans = MergeSpans,
          .block_maxima = BlockMaxima,
          .weigh = Weigh,
          .add_to_buckets = AddToBuckets,
          .find_in_range = FindInRange};
}

}  // namespace braid::BRAID_LEVEL
