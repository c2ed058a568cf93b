#include "kernels/cuda/device.h"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/quants.h"

namespace braid::gpu {
namespace {

constexpr int kThreads = 256;

// A block copies one row.
template <Stored kStored, typename T>
__global__ void __launch_bounds__(kThreads) GatherKernel(Gather op) {
  LAUNCH_BOUNDS(kThreads);
  const int64_t t = blockIdx.x;
  int row = op.ids[t];
  if (row < 0) row = max(op.drawn[~row], 0);
  T* y = static_cast<T*>(op.y) + t * op.table.columns;
  for (int column = 8 * threadIdx.x; column < op.table.columns; column += 8 * blockDim.x)
    StoreFloats(y + column, LoadEight<kStored>(op.table, row, column));
}

template <Stored kStored>
cudaError_t RunFrom(const Gather& op, cudaStream_t stream) {
  const auto kernel = op.type == DType::kBF16 ? GatherKernel<kStored, __nv_bfloat16> : GatherKernel<kStored, float>;
  return Launch(kernel, dim3(op.T), dim3(WarpsOf(op.table.columns / 8, kThreads)), 0, stream, op);
}

}  // namespace

cudaError_t Run(const Gather& op, cudaStream_t stream) {
  if (op.T == 0) return cudaSuccess;
  return WithStored(op.table.type, [&](auto stored) { return RunFrom<stored>(op, stream); });
}

}  // namespace braid::gpu
