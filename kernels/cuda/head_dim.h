#pragma once

#include <cuda_runtime_api.h>

#include <type_traits>

namespace braid::gpu {

// run(head_dim) with head_dim as a constant, for kernels that are made for one. REQUIRES: it is 32, 64 or 128.
template <typename F>
cudaError_t WithHeadDim(int head_dim, const F& run) {
  switch (head_dim) {
    case 32:
      return run(std::integral_constant<int, 32>());
    case 64:
      return run(std::integral_constant<int, 64>());
    default:
      return run(std::integral_constant<int, 128>());
  }
}

}  // namespace braid::gpu
