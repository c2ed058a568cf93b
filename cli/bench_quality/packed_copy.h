#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/thread_pool.h"
#include "model/tensors.h"

namespace braid {

// The tensors of a model with every matrix in panels whose type has them, packed into memory: what the engine serves.
// All others are those of the original, which must outlive *this.
class PackedCopy {
 public:
  PackedCopy(const ModelTensors& original, ThreadPool* pool);
  PackedCopy(const PackedCopy&) = delete;

  const ModelTensors& tensors() const { return tensors_; }
  int matrices() const { return static_cast<int>(memory_.size()); }  // in panels

 private:
  void Pack(TensorView* tensor, ThreadPool* pool);

  ModelTensors tensors_;
  std::vector<std::unique_ptr<std::byte[]>> memory_;
};

}  // namespace braid
