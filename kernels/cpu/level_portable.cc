#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/level.h"
#include "kernels/cpu/vec_portable.h"
#include "kernels/exp.h"

#define BRAID_LEVEL portable
#define BRAID_UNROLL  // left to the compiler
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/linear-inl.h"

namespace braid {

constinit const CpuLevel kPortableLevel{"portable", portable::LinearOutputs, portable::Attend};

}  // namespace braid
