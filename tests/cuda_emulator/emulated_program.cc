// A program that knows of no emulator: norms a row on every device there is, as the environment says.

#include <cuda_runtime_api.h>

#include <cstdio>

#include "kernels/cuda/rms_norm.h"

namespace {

bool Succeeds(cudaError_t error) {
  if (error == cudaSuccess) return true;
  std::printf("%s\n", cudaGetErrorString(error));
  return false;
}

bool NormARow(int device) {
  constexpr int D = 128;
  constexpr size_t kBytes = D * sizeof(float);
  cudaStream_t stream = nullptr;
  float *x = nullptr, *host = nullptr;
  size_t free = 0, total = 0;
  if (!Succeeds(cudaSetDevice(device)) || !Succeeds(cudaMemGetInfo(&free, &total)) ||
      !Succeeds(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)) ||
      !Succeeds(cudaMalloc(reinterpret_cast<void**>(&x), kBytes)) ||
      !Succeeds(cudaMallocHost(reinterpret_cast<void**>(&host), kBytes)))
    return false;
  for (int i = 0; i < D; ++i) host[i] = 2;
  braid::gpu::RmsNorm op;
  op.T = 1;
  op.D = D;
  op.x = op.weight = x;
  op.y = x;
  if (!Succeeds(cudaMemcpyAsync(x, host, kBytes, cudaMemcpyHostToDevice, stream)) ||
      !Succeeds(braid::gpu::Run(op, braid::gpu::Choose(op), stream)) ||
      !Succeeds(cudaMemcpyAsync(host, x, kBytes, cudaMemcpyDeviceToHost, stream)))
    return false;
  while (cudaStreamQuery(stream) == cudaErrorNotReady) continue;
  std::printf("device %d of %zu bytes: %g\n", device, total, host[D - 1]);
  return true;
}

}  // namespace

int main() {
  int devices = 0;
  if (!Succeeds(cudaGetDeviceCount(&devices))) return 1;
  for (int device = 0; device < devices; ++device)
    if (!NormARow(device)) return 1;
  return 0;
}
