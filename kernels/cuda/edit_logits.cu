#include "kernels/cuda/device.h"
#include "kernels/cuda/edit_logits.h"

namespace braid::gpu {
namespace {

constexpr int kThreads = 256;
constexpr float kLogitMax = 1e30f;  // as on the CPU: a tiny penalty makes no infinity

__device__ inline float Edited(const EditLogits& op, const LogitEdit& edit, float logit) {
  logit += edit.bias;
  if (edit.all == 0) return logit;
  logit = logit > 0 ? logit / op.repetition[edit.row] : logit * op.repetition[edit.row];
  if (edit.answer > 0) logit -= op.presence[edit.row] + op.frequency[edit.row] * static_cast<float>(edit.answer);
  return logit < -kLogitMax ? -kLogitMax : logit > kLogitMax ? kLogitMax : logit;
}

// A thread has an edit, or a masked token of a row.
__global__ void __launch_bounds__(kThreads) EditLogitsKernel(EditLogits op) {
  LAUNCH_BOUNDS(kThreads);
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, masked = at - op.edit_count;
  if (masked < 0) {
    const LogitEdit edit = op.edits[at];
    float* logit = op.logits + static_cast<int64_t>(edit.row) * op.V + edit.token;
    *logit = Edited(op, edit, *logit);
  } else if (masked < static_cast<int64_t>(op.T) * op.masked_count) {
    op.logits[masked / op.masked_count * op.V + op.masked[masked % op.masked_count]] = -INFINITY;
  }
}

}  // namespace

cudaError_t Run(const EditLogits& op, cudaStream_t stream) {
  const int64_t work = op.edit_count + int64_t{op.T} * op.masked_count;
  if (op.T == 0 || work == 0) return cudaSuccess;
  return Launch(EditLogitsKernel, dim3(static_cast<unsigned>((work + kThreads - 1) / kThreads)), dim3(kThreads), 0,
                stream, op);
}

}  // namespace braid::gpu
