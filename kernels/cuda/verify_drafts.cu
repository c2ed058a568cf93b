#include "kernels/cuda/device.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/verify_drafts.h"

namespace braid::gpu {
namespace {

constexpr int kThreads = 128;

// A thread has a sequence: drafts are few.
__global__ void __launch_bounds__(kThreads) VerifyDraftsKernel(VerifyDrafts op) {
  LAUNCH_BOUNDS(kThreads);
  const int s = blockIdx.x * blockDim.x + threadIdx.x;
  if (s >= op.S) return;
  const int first = op.first_rows[s], end = op.first_rows[s + 1];
  int row = first;
  while (row + 1 < end && op.drawn[row] >= 0 && op.drawn[row] == op.inputs[row + 1] && op.drawn[row + 1] >= 0) ++row;
  op.right[s] = row - first;
  op.last[s] = first < end ? op.drawn[row] : -1;
}

}  // namespace

cudaError_t Run(const VerifyDrafts& op, cudaStream_t stream) {
  if (op.S == 0) return cudaSuccess;
  const int threads = WarpsOf(op.S, kThreads);
  return Launch(VerifyDraftsKernel, dim3((op.S + threads - 1) / threads), dim3(threads), 0, stream, op);
}

}  // namespace braid::gpu
