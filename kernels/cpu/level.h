#pragma once

#include <optional>
#include <string_view>

#include "kernels/attention.h"
#include "kernels/linear.h"

// The instruction sets that the heavy loops are compiled for. All give the same bits; they differ in speed only.

namespace braid {

// A linear op whose rows are padded: x has rows of `ldx` floats, ldx a multiple of 8, zeros from K on.
struct LinearTask {
  Linear op;
  const float* x = nullptr;
  int ldx = 0;
};

struct CpuLevel {
  std::string_view name;
  // Outputs [begin, end) of all rows.
  void (*linear)(const LinearTask& task, int begin, int end);
  // One row, the query heads of one key head.
  void (*attend)(const Attention& op, int row, int kv_head);
};

extern const CpuLevel kPortableLevel;
extern const CpuLevel kAvx2Level;  // AVX2, FMA, F16C; empty functions where the compiler's target is not x86-64

// The named level; nullopt if there is none of this name or this machine lacks it.
std::optional<CpuLevel> FindCpuLevel(std::string_view name);

// The fastest level of this machine, or what the environment variable BRAID_CPU_LEVEL names (portable, avx2). An
// unknown or unsupported name ends the process: it is the operator's explicit wish. Decided once.
const CpuLevel& ActiveCpuLevel();

}  // namespace braid
