#include "kernels/cuda/rms_norm.h"

#include "base/status.h"

namespace braid::gpu {
namespace {

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

absl::Status Check(const RmsNorm& op) {
  if (op.T < 0 || op.D <= 0) return InvalidArgument("D must be positive");
  if ((op.add == nullptr) != (op.sum == nullptr)) return InvalidArgument("add and sum go together");
  if (op.sum != nullptr && op.sum == op.y) return InvalidArgument("sum and y must not be the same");
  if (op.weight == nullptr ||
      (op.T > 0 && (op.x == nullptr || (op.y == nullptr && op.y_bf16 == nullptr && op.y_fp8 == nullptr))))
    return InvalidArgument("x, weight and y, y_bf16 or y_fp8 must be set");
  if (op.y_fp8 != nullptr && (op.y_scales == nullptr || op.D % 16 != 0 || !Choose(op).vector))
    return InvalidArgument("y_fp8 needs y_scales, D a multiple of 16, and pointers at multiples of 16 bytes");
  return absl::OkStatus();
}

// A thread should have two or more loads of four in flight: a decode step has too few rows to hide them otherwise.
RmsNormConfig Choose(const RmsNorm& op) {
  RmsNormConfig config;
  config.vector = op.D % 4 == 0 && Aligned(op.x) && Aligned(op.weight) && Aligned(op.add) && Aligned(op.sum) &&
                  Aligned(op.y) && Aligned(op.y_bf16) && Aligned(op.y_fp8);
  const int loads = config.vector ? op.D / 4 : op.D;
  config.threads = 32;
  while (config.threads < 256 && loads >= 4 * config.threads) config.threads *= 2;
  return config;
}

}  // namespace braid::gpu
