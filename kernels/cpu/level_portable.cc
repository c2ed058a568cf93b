#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/levels.h"
#include "kernels/cpu/vec16_portable.h"
#include "kernels/cpu/vec_portable.h"
#include "kernels/exp.h"

#define BRAID_LEVEL portable
#define BRAID_UNROLL  // left to the compiler
#include "kernels/cpu/exp16-inl.h"
//
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/linear-inl.h"
#include "kernels/cpu/panels-inl.h"

namespace braid {

constinit const CpuLevel kPortableLevel{"portable",         [] { return true; },      portable::LinearOutputs,
                                        portable::RunPanel, portable::QuantizeBlocks, portable::SwiGluQuantize,
                                        portable::Attend,   portable::AttendSpan,     portable::MergeSpans};

}  // namespace braid
