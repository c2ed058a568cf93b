#include "kernels/cuda/device.h"
#include "kernels/cuda/numbers.h"
#include "kernels/cuda/short_conv.h"

// A thread has eight channels. Rows depend on each other through products that are cheap to make again, so that every
// row is computed on its own: only columns of positions before the piece are read from the state.

namespace braid::gpu {
namespace {

constexpr int kThreads = 128, kChannels = 8;

struct Place {  // of a row
  ConvPiece piece;
  int64_t row;
  int channel;

  __device__ int position() const { return piece.position + static_cast<int>(row - piece.row); }
};

template <typename T>
__device__ Floats<kChannels> Product(const ShortConv& op, int64_t row, int channel) {
  const T* bcx = static_cast<const T*>(op.bcx) + row * 3 * op.D + channel;
  Floats<kChannels> u = LoadFloats<kChannels>(bcx);
  const Floats<kChannels> x = LoadFloats<kChannels>(bcx + 2 * op.D);
#pragma unroll
  for (int i = 0; i < kChannels; ++i) u[i] *= x[i];
  return u;
}

__device__ inline float* Column(const ShortConv& op, const ConvPiece& piece, int position, int channel) {
  return op.columns + (static_cast<int64_t>(piece.slot) * op.ring + position % op.ring) * op.D + channel;
}

// u of a position at or before the row's, by `back`.
template <typename T>
__device__ Floats<kChannels> ColumnBefore(const ShortConv& op, const Place& at, int back) {
  const int position = at.position() - back;
  if (position < 0) return {};
  if (at.row - back >= at.piece.row) return Product<T>(op, at.row - back, at.channel);
  return LoadFloats<kChannels>(Column(op, at.piece, position, at.channel));
}

template <int kTaps, int kRows, typename T>
__global__ void __launch_bounds__(kThreads) ShortConvKernel(ShortConv op, bool store) {
  LAUNCH_BOUNDS(kThreads);
  const int channel = (blockIdx.y * kThreads + threadIdx.x) * kChannels;
  if (channel >= op.D) return;
  Floats<kChannels> taps[kTaps];
#pragma unroll
  for (int j = 0; j < kTaps; ++j) taps[j] = LoadFloats<kChannels>(op.kernel + j * op.D + channel);
  Floats<kChannels> u[kTaps];  // of the row's position, last, and those before
  int before = -1;             // the piece of the row before
#pragma unroll 1
  for (int i = 0; i < kRows; ++i) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + i;
    const int piece = row < op.T ? op.piece_of[row] : -1;
    if (piece < 0) break;  // padding is at the end
    const Place at{op.pieces[piece], row, channel};
    if (piece == before) {
#pragma unroll
      for (int j = 0; j + 1 < kTaps; ++j) u[j] = u[j + 1];
    } else {
#pragma unroll
      for (int j = 0; j + 1 < kTaps; ++j) u[j] = ColumnBefore<T>(op, at, kTaps - 1 - j);
    }
    before = piece;
    u[kTaps - 1] = Product<T>(op, row, channel);
    const Floats<kChannels> gate =
        LoadFloats<kChannels>(static_cast<const T*>(op.bcx) + (row * 3 + 1) * op.D + channel);
    Floats<kChannels> y;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      float sum = taps[0][c] * u[0][c];
#pragma unroll
      for (int j = 1; j < kTaps; ++j) sum = fmaf(taps[j][c], u[j][c], sum);
      y[c] = gate[c] * sum;
    }
    StoreFloats(static_cast<T*>(op.y) + row * op.D + channel, y);
    if (store) StoreFloats(Column(op, at.piece, at.position(), channel), u[kTaps - 1]);
  }
}

// Copies one column, blockIdx.y, of a save.
template <typename T>
__global__ void __launch_bounds__(kThreads) SaveColumnsKernel(ShortConv op) {
  LAUNCH_BOUNDS(kThreads);
  const ConvSave save = op.saves[blockIdx.x];
  const int column = blockIdx.y, columns = op.taps - 1;
  Place at{op.pieces[save.piece], 0, 0};
  at.row = at.piece.row + save.position - at.piece.position;
  for (at.channel = threadIdx.x * kChannels; at.channel < op.D; at.channel += kThreads * kChannels) {
    float* to = op.saved + (static_cast<int64_t>(save.slot) * columns + column) * op.D + at.channel;
    StoreFloats(to, ColumnBefore<T>(op, at, columns - column));
  }
}

// Stores the column of a piece's last token but blockIdx.y.
template <typename T>
__global__ void __launch_bounds__(kThreads) StoreColumnsKernel(ShortConv op) {
  LAUNCH_BOUNDS(kThreads);
  const ConvPiece piece = op.pieces[blockIdx.x];
  const int token = piece.tokens - 1 - static_cast<int>(blockIdx.y);
  if (token < 0) return;
  for (int channel = threadIdx.x * kChannels; channel < op.D; channel += kThreads * kChannels)
    StoreFloats(Column(op, piece, piece.position + token, channel), Product<T>(op, piece.row + token, channel));
}

template <int kTaps, typename T>
cudaError_t RunTyped(const ShortConv& op, const ShortConvConfig& config, cudaStream_t stream) {
  const int rows = config.rows_per_thread, vectors = op.D / kChannels;
  const dim3 grid((op.T + rows - 1) / rows, (vectors + kThreads - 1) / kThreads), block(kThreads);
  cudaError_t error = rows == 1
                          ? Launch(ShortConvKernel<kTaps, 1, T>, grid, block, 0, stream, op, config.store_at_once)
                          : Launch(ShortConvKernel<kTaps, 8, T>, grid, block, 0, stream, op, config.store_at_once);
  // In this order: a save may need columns that the store overwrites.
  if (error == cudaSuccess && op.save_count > 0)
    error = Launch(SaveColumnsKernel<T>, dim3(op.save_count, op.taps - 1), block, 0, stream, op);
  if (error == cudaSuccess && !config.store_at_once)
    error = Launch(StoreColumnsKernel<T>, dim3(op.piece_count, op.ring), block, 0, stream, op);
  return error;
}

template <typename T>
cudaError_t RunFor(const ShortConv& op, const ShortConvConfig& config, cudaStream_t stream) {
  return op.taps == 3 ? RunTyped<3, T>(op, config, stream) : RunTyped<4, T>(op, config, stream);
}

}  // namespace

cudaError_t Run(const ShortConv& op, const ShortConvConfig& config, cudaStream_t stream) {
  if (op.T == 0) return cudaSuccess;
  return op.type == DType::kBF16 ? RunFor<__nv_bfloat16>(op, config, stream) : RunFor<float>(op, config, stream);
}

}  // namespace braid::gpu
