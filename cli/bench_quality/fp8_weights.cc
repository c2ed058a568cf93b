#include "cli/bench_quality/fp8_weights.h"

#include <utility>

#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "kernels/cuda/quantize_fp8.h"
#include "kernels/half.h"
#include "kernels/ref/dequant.h"
#include "model/tensor_rows.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

// `floats` and `quants` are a thread's own.
absl::Status RoundRow(std::vector<float>& floats, std::vector<uint8_t>& quants, uint16_t* to) {
  const auto columns = static_cast<int>(floats.size());
  std::vector<uint16_t> scales(static_cast<size_t>(gpu::Fp8Blocks(columns)));
  RETURN_IF_ERROR(gpu::QuantizeFp8(floats.data(), columns, quants.data(), scales.data()));
  for (int k = 0; k < columns; ++k) {
    const float scale = FloatFromBFloat16(scales[static_cast<size_t>(k / gpu::kFp8Block)]);
    to[k] = BFloat16FromFloat(gpu::FloatFromE4M3(quants[static_cast<size_t>(k)]) * scale);  // exact
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Fp8Weights> Fp8Weights::Round(const ModelTensors& tensors, ThreadPool* pool) {
  Fp8Weights weights(tensors);
  std::vector<TensorView*> matrices;
  VisitMatrices(weights.tensors_, [&](TensorView& matrix) {
    const bool in_layer = matrix.data != tensors.embedding.data && matrix.data != tensors.head.data;
    if (in_layer && Info(matrix.dtype).elements == 1 && matrix.columns % 16 == 0) matrices.push_back(&matrix);
  });
  if (matrices.empty()) return InvalidArgument("no matrix of a layer is in floats: there is nothing to keep in FP8");
  for (TensorView* matrix : matrices)
    RETURN_IF_ERROR(Annotate(weights.Round(matrix, pool), "tensor '" + matrix->name + "'"));
  return weights;
}

absl::Status Fp8Weights::Round(TensorView* matrix, ThreadPool* pool) {
  const auto columns = static_cast<size_t>(matrix->columns);
  std::vector<uint16_t>& to = rounded_.emplace_back(static_cast<size_t>(matrix->rows) * columns);
  absl::Mutex mutex;
  absl::Status error;
  pool->ParallelFor(static_cast<int>(matrix->rows), 16, [&](int begin, int end) {
    TensorRows rows(*matrix);
    std::vector<float> floats(columns);
    std::vector<uint8_t> quants(columns);
    for (int row = begin; row < end; ++row) {
      Dequantize(matrix->dtype, rows.Row(row), matrix->columns, floats.data());
      const absl::Status status = RoundRow(floats, quants, &to[static_cast<size_t>(row) * columns]);
      if (status.ok()) continue;
      absl::MutexLock lock(&mutex);
      error.Update(status);
      return;
    }
  });
  matrix->dtype = DType::kBF16;
  matrix->data = reinterpret_cast<const std::byte*>(to.data());
  return error;
}

}  // namespace braid
