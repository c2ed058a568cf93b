#include "expert_worker/load_weights.h"

#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/human.h"
#include "base/progress_bar.h"
#include "base/status.h"
#include "expert_worker/memory.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

constexpr uint64_t kPieceBytes = 16 << 20;  // a fraction of a second on a slow disk: how long a stop may wait

// Zero, or the errno of reading the pages that hold these bytes. Kernels before 5.14 do not know the call: there the
// pages are only asked for, and come when they are ready.
int PageIn(const std::byte* data, uint64_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / page * page;
  void* const address = reinterpret_cast<void*>(begin);
  const size_t length = reinterpret_cast<uintptr_t>(data) + bytes - begin;
  madvise(address, length, MADV_WILLNEED);  // the whole piece in flight before the first page is waited for
  if (madvise(address, length, MADV_POPULATE_READ) == 0 || errno == EINVAL) return 0;
  return errno;
}

// kUnavailable naming the tensor. `shown` hears of every piece: bytes so far.
absl::Status PageIn(const std::vector<TensorView>& tensors, const std::function<bool()>& stop,
                    const std::function<void(uint64_t bytes)>& shown) {
  uint64_t done = 0;
  for (const TensorView& tensor : tensors) {
    for (uint64_t at = 0; at < tensor.bytes(); at += kPieceBytes) {
      if (stop()) return absl::OkStatus();
      const uint64_t bytes = std::min(kPieceBytes, tensor.bytes() - at);
      if (const int error = PageIn(tensor.data + at, bytes); error != 0)
        return absl::UnavailableError("tensor '" + tensor.name + "' cannot be read: " + std::strerror(error));
      shown(done += bytes);
    }
  }
  return absl::OkStatus();
}

uint64_t TotalBytes(const std::vector<TensorView>& tensors) {
  uint64_t total = 0;
  for (const TensorView& tensor : tensors) total += tensor.bytes();
  return total;
}

bool Fit(const ModelFile& model, uint64_t bytes) {
  const uint64_t available = AvailableMemoryBytes();
  if (bytes <= available) return true;
  spdlog::warn("{}: {} of weights, but {} of free memory: they stay on disk until they are used", model.path(),
               HumanBytes(bytes), HumanBytes(available));
  return false;
}

absl::Status WithPath(const ModelFile& model, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::UnavailableError(model.path() + ": " + std::string(StdView(status.message())));
}

// The tensors of a model, in its order, without those of experts.
std::vector<TensorView> AllButExperts(const ModelTensors& all) {
  ModelTensors model = all;  // views: nothing is copied but where they point
  for (LayerTensors& layer : model.layers) layer.experts.clear();
  std::vector<TensorView> tensors;
  VisitTensors(model, [&](const TensorView& tensor) { tensors.push_back(tensor); });
  return tensors;
}

}  // namespace

absl::Status LoadWeights(const ModelFile& model, const std::function<bool()>& stop, WeightsToLoad what) {
  std::vector<TensorView> tensors;
  if (what == WeightsToLoad::kAllButExperts) {
    tensors = AllButExperts(model.tensors());
  } else {
    VisitTensors(model.tensors(), [&](const TensorView& tensor) { tensors.push_back(tensor); });
  }
  const uint64_t total = TotalBytes(tensors);
  if (!Fit(model, total)) return absl::OkStatus();
  const absl::Time start = absl::Now();
  ProgressBar bar("loading");
  RETURN_IF_ERROR(WithPath(model, PageIn(tensors, stop, [&](uint64_t done) { bar.Show(done, total); })));
  spdlog::info("{} of weights in memory after {} ms", HumanBytes(total),
               absl::ToInt64Milliseconds(absl::Now() - start));
  return absl::OkStatus();
}

absl::Status ExpertLoader::Load(std::span<const ExpertRanks> placement, int rank, const std::function<bool()>& stop) {
  const std::vector<LayerTensors>& layers = model_->tensors().layers;
  if (layers.empty()) return absl::OkStatus();  // a checksum model: it has no weights
  const std::vector<bool> before = std::exchange(here_, {});
  std::vector<bool> placed;
  std::vector<TensorView> tensors;
  for (size_t layer = 0; layer < placement.size(); ++layer) {
    const std::vector<FfnTensors>& experts = layers.at(model_->config().dense_layers + layer).experts;
    for (int expert = 0; expert < placement[layer].experts(); ++expert) {
      placed.push_back(placement[layer].IsAt(expert, rank));
      if (!placed.back() || (!before.empty() && before[placed.size() - 1])) continue;
      const FfnTensors& ffn = experts.at(expert);
      tensors.insert(tensors.end(), {ffn.gate, ffn.up, ffn.down});
    }
  }
  if (!Fit(*model_, TotalBytes(tensors))) return absl::OkStatus();
  RETURN_IF_ERROR(WithPath(*model_, PageIn(tensors, stop, [](uint64_t) {})));
  if (!stop()) here_ = std::move(placed);
  return absl::OkStatus();
}

}  // namespace braid
