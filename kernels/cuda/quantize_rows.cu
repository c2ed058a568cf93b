#include "kernels/cuda/device.h"
#include "kernels/cuda/fp8_block.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/quantize_rows.h"

namespace braid::gpu {
namespace {

constexpr int kWarps = 4;

// A warp has a block.
template <typename T>
__global__ void __launch_bounds__(32 * kWarps) QuantizeRowsKernel(QuantizeRows op) {
  LAUNCH_BOUNDS(32 * kWarps);
  const int lane = threadIdx.x % 32, blocks = (op.D + kFp8Block - 1) / kFp8Block;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (at >= static_cast<int64_t>(op.T) * blocks) return;  // all of the warp
  const int row = static_cast<int>(at / blocks);
  if (op.rows != nullptr && row >= *op.rows) return;
  const int column = static_cast<int>(at % blocks) * kFp8Block, columns = min(kFp8Block, op.D - column);
  const int64_t from = op.source == nullptr ? row : op.source[row], to = row;
  Floats<4> values = {};
  if (lane * 4 < columns) values = LoadFloats<4>(static_cast<const T*>(op.x) + from * op.D + column + lane * 4);
  StoreFp8Block(values, columns, op.y + to * op.D + column, op.scales + at, lane);
}

}  // namespace

cudaError_t Run(const QuantizeRows& op, cudaStream_t stream) {
  if (op.T == 0) return cudaSuccess;
  const int64_t blocks = int64_t{op.T} * Fp8Blocks(op.D);
  const dim3 grid(static_cast<unsigned>((blocks + kWarps - 1) / kWarps));
  const auto kernel = op.type == DType::kBF16 ? QuantizeRowsKernel<__nv_bfloat16> : QuantizeRowsKernel<float>;
  return Launch(kernel, grid, dim3(32 * kWarps), 0, stream, op);
}

}  // namespace braid::gpu
