#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/thread_pool.h"
#include "model/tensors.h"

namespace braid {

// A model's weights as `--weights fp8` keeps them on a GPU: the matrices of layers that are in floats in its file,
// routers aside, rounded. What a matrix in FP8 holds, bfloat16 holds as well, so that any engine can run them.
class Fp8Weights {
 public:
  // `tensors` must outlive it. kInvalidArgument if no matrix is in floats, or a weight is beyond FP8's range.
  static absl::StatusOr<Fp8Weights> Round(const ModelTensors& tensors, ThreadPool* pool);

  const ModelTensors& tensors() const { return tensors_; }

 private:
  explicit Fp8Weights(const ModelTensors& tensors) : tensors_(tensors) {}
  absl::Status Round(TensorView* matrix, ThreadPool* pool);

  ModelTensors tensors_;
  std::deque<std::vector<uint16_t>> rounded_;  // bfloat16
};

}  // namespace braid
