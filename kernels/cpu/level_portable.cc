#include "kernels/cpu/levels.h"
#include "kernels/cpu/vec16_portable.h"
#include "kernels/cpu/vec_portable.h"

#define BRAID_LEVEL portable
#define BRAID_UNROLL  // left to the compiler
//
#include "kernels/cpu/level-inl.h"

namespace braid {

constinit const CpuLevel kPortableLevel = portable::Level("portable", [] { return true; });

}  // namespace braid
