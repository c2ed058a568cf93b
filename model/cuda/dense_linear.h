#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/grouped_linear.h"

namespace braid::gpu {

// Dense products by cuBLASLt: faster for many rows than our kernels, but which algorithm runs, and so a row's bits,
// depends on how many rows there are. For --fast.
class DenseLinear {
 public:
  // Of the calling thread's device. kUnimplemented if this program was built without cuBLASLt.
  static absl::StatusOr<std::unique_ptr<DenseLinear>> Create();
  virtual ~DenseLinear() = default;

  static constexpr uint64_t kWorkspaceBytes = uint64_t{32} << 20;  // what NVIDIA recommends for Hopper

  // Device memory of kWorkspaceBytes, for one product at a time.
  virtual void Bind(void* workspace) = 0;
  // Enqueues what GroupedLinear would, of a plain matrix and all of rows_max rows. False: cuBLASLt has nothing for such
  // a product, and nothing was done. What was found out about a shape is kept: do it before it is captured.
  virtual absl::StatusOr<bool> Enqueue(const GroupedLinear& op, cudaStream_t stream) = 0;
};

}  // namespace braid::gpu
