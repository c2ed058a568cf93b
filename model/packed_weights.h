#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tensors.h"

namespace braid {

// The tensors of a model as the engine computes with them. Matrices that could be in panels and that the file has in
// rows get a place in memory, for somebody to pack them into before the engine does; all others stay in the file. Of a
// packed file that is everything. Different tensors may be packed and dropped by different threads.
class PackedWeights {
 public:
  // Takes addresses, but no memory yet. kResourceExhausted if not even those are to be had. `file`, and where it
  // points, must outlive *this.
  static absl::StatusOr<std::unique_ptr<PackedWeights>> Create(const ModelTensors* file);
  ~PackedWeights();
  PackedWeights(const PackedWeights&) = delete;

  const ModelTensors& tensors() const { return tensors_; }
  // Of those to be packed; 0: there are none.
  uint64_t bytes() const { return bytes_; }

  // What `tensor`, one of tensors(), is to be packed from; nullptr if it is in the file.
  const TensorView* SourceOf(const TensorView& tensor) const;

  // REQUIRES, here and below: the tensors are of tensors(), and have a source.

  // Asks for huge pages for tensors that will be packed soon. Those that lie one after the other share some.
  void PreferHugePages(std::span<const TensorView> tensors);
  // Packs the panels [begin, end) of `tensor`.
  void Pack(const TensorView& tensor, int begin, int end);
  // Gives the memory of `tensor` back; it reads as zeros until it is packed again.
  void Drop(const TensorView& tensor);

 private:
  PackedWeights() = default;
  // Gives every tensor to be packed its place, counted from `base`; returns the end of the last.
  uint64_t Place(const ModelTensors& file, std::byte* base);

  ModelTensors tensors_;
  std::unordered_map<const std::byte*, TensorView> sources_;  // by where they are packed to
  std::byte* memory_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace braid
