#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "expert_worker/epoch_member.h"
#include "expert_worker/expert_ranks.h"
#include "kernels/thread_pool.h"
#include "model/model_file.h"
#include "model/packed_weights.h"

namespace braid {

// Brings the pages of a mapped model into memory, so that the first request does not wait for the disk page by page.
// Without it everything works, too: pages come when they are touched. A model that is larger than the memory at hand is
// therefore left where it is, and the log says so. Shows a progress bar on a terminal.
//
// `stop` is asked every few megabytes; once it says true the rest is left on disk. kUnavailable, naming the tensor, if
// the disk cannot read it: better now than as a SIGBUS later.
absl::Status LoadWeights(const ModelFile& model, int threads, const std::function<bool()>& stop);

// The weights of a model in the memory of one worker, as the engine computes with them: those of a packed file are
// mapped, matrices of block types from any other file are packed, a copy of this process's own. Load and LoadExperts
// are called by one thread at a time, the engine may run meanwhile.
class WorkerWeights {
 public:
  enum class What { kAll, kAllButExperts };

  // `model` must outlive *this. Loading uses so many threads.
  static absl::StatusOr<std::unique_ptr<WorkerWeights>> Create(const ModelFile* model, int threads);

  const ModelTensors& tensors() const { return packed_->tensors(); }
  // Whether there is anything to pack, and how much it is once all of it is here.
  bool packs() const { return packed_bytes() > 0; }
  uint64_t packed_bytes() const { return packed_->bytes(); }

  // As the function above for what is mapped. What is to be packed must be loaded before the engine uses it:
  // kResourceExhausted, with the remedy, if it does not fit into memory; kCancelled once `stop` says true.
  absl::Status Load(What what, const std::function<bool()>& stop);

  // The same for the experts placed at `rank`, `placement` being by MoE layer, and without a progress bar. They are
  // here as long as somebody holds them, and in fact until others are loaded: what is here already is not loaded again,
  // for to look at every page of a large model takes longer than all the rest of a new epoch.
  absl::StatusOr<ExpertHold> LoadExperts(std::span<const ExpertRanks> placement, int rank,
                                         const std::function<bool()>& stop);

 private:
  // By layer and expert.
  using ExpertSet = std::vector<bool>;

  WorkerWeights(const ModelFile* model, int threads) : model_(*model), threads_(threads) {}
  absl::Status BringIn(const std::vector<TensorView>& tensors, const std::function<bool()>& stop,
                       const std::function<void(uint64_t bytes)>& shown);
  absl::Status Pack(const std::vector<TensorView>& tensors, ThreadPool* pool, const std::function<bool()>& stop,
                    const std::function<void(uint64_t bytes)>& shown);
  void DropIdle(const ExpertSet& wanted);
  const FfnTensors& Expert(size_t index) const;
  ExpertHold Hold(const ExpertSet& experts);

  const ModelFile& model_;
  const int threads_;
  std::unique_ptr<PackedWeights> packed_;
  bool all_ = false;  // of them are here, for good
  ExpertSet here_;

  // Outlives *this where a hold does.
  struct Holders {
    absl::Mutex mutex;
    std::vector<int> count ABSL_GUARDED_BY(mutex);  // by layer and expert
  };
  const std::shared_ptr<Holders> holders_ = std::make_shared<Holders>();
};

}  // namespace braid
