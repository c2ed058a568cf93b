#include "expert_worker/load_weights.h"

#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/human.h"
#include "base/panels.h"
#include "base/progress_bar.h"
#include "base/status.h"
#include "expert_worker/memory.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

constexpr uint64_t kPieceBytes = 8 << 20;   // a fraction of a second on a slow disk: how long a stop may wait
constexpr uint64_t kPackBytes = 512 << 10;  // at a time: two calls for pages, and what is read stays in a cache

// The pages that hold these bytes.
struct Pages {
  Pages(const std::byte* data, uint64_t bytes) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / page * page;
    address = reinterpret_cast<void*>(begin);
    length = reinterpret_cast<uintptr_t>(data) + bytes - begin;
  }
  void* address;
  size_t length;
};

// Zero, or the errno of reading the pages that hold these bytes. Kernels before 5.14 do not know the call: there the
// pages are only asked for, and come when they are ready.
int PageIn(const std::byte* data, uint64_t bytes) {
  const Pages pages(data, bytes);
  madvise(pages.address, pages.length, MADV_WILLNEED);  // all in flight before the first page is waited for
  if (madvise(pages.address, pages.length, MADV_POPULATE_READ) == 0 || errno == EINVAL) return 0;
  return errno;
}

// Takes the pages out of this process, lest the weights be in memory twice. They may stay in the page cache.
void LetGo(const TensorView& tensor) {
  const Pages pages(tensor.data, tensor.bytes());
  madvise(pages.address, pages.length, MADV_DONTNEED);
}

absl::Status CannotRead(const TensorView& tensor, int error) {
  return absl::UnavailableError("tensor '" + tensor.name + "' cannot be read: " + std::strerror(error));
}

// kUnavailable naming the tensor. `shown` hears of every few pieces: bytes so far.
absl::Status PageIn(const std::vector<TensorView>& tensors, ThreadPool* pool, const std::function<bool()>& stop,
                    const std::function<void(uint64_t bytes)>& shown) {
  struct Piece {
    const TensorView* tensor;
    uint64_t at, bytes;
    int error = 0;
  };
  std::vector<Piece> pieces;
  for (const TensorView& tensor : tensors) {
    for (uint64_t at = 0; at < tensor.bytes(); at += kPieceBytes)
      pieces.push_back({&tensor, at, std::min(kPieceBytes, tensor.bytes() - at)});
  }
  uint64_t done = 0;
  const size_t together = 2 * static_cast<size_t>(pool->threads());
  for (size_t first = 0; first < pieces.size(); first += together) {
    if (stop()) return absl::OkStatus();
    const std::span<Piece> some = std::span(pieces).subspan(first, std::min(together, pieces.size() - first));
    pool->ParallelFor(static_cast<int>(some.size()), 1, [&](int begin, int end) {
      for (Piece& piece : some.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)))
        piece.error = PageIn(piece.tensor->data + piece.at, piece.bytes);
    });
    for (const Piece& piece : some) {
      if (piece.error != 0) return CannotRead(*piece.tensor, piece.error);
      done += piece.bytes;
    }
    shown(done);
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
  return absl::Status(status.code(), model.path() + ": " + std::string(StdView(status.message())));
}

// The tensors of a model, in its order.
std::vector<TensorView> ListTensors(const ModelTensors& model) {
  std::vector<TensorView> tensors;
  VisitTensors(model, [&](const TensorView& tensor) { tensors.push_back(tensor); });
  return tensors;
}
std::vector<TensorView> ListAllButExperts(const ModelTensors& all) {
  ModelTensors model = all;  // views: nothing is copied but where they point
  for (LayerTensors& layer : model.layers) layer.experts.clear();
  return ListTensors(model);
}

void LogLoaded(uint64_t bytes, absl::Time start) {
  spdlog::info("{} of weights in memory after {} ms", HumanBytes(bytes),
               absl::ToInt64Milliseconds(absl::Now() - start));
}

}  // namespace

absl::Status LoadWeights(const ModelFile& model, int threads, const std::function<bool()>& stop) {
  const std::vector<TensorView> tensors = ListTensors(model.tensors());
  const uint64_t total = TotalBytes(tensors);
  if (!Fit(model, total)) return absl::OkStatus();
  const absl::Time start = absl::Now();
  ThreadPool pool(threads);
  ProgressBar bar("loading");
  RETURN_IF_ERROR(WithPath(model, PageIn(tensors, &pool, stop, [&](uint64_t done) { bar.Show(done, total); })));
  LogLoaded(total, start);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<WorkerWeights>> WorkerWeights::Create(const ModelFile* model, int threads) {
  std::unique_ptr<WorkerWeights> weights(new WorkerWeights(model, threads));
  ASSIGN_OR_RETURN(weights->packed_, PackedWeights::Create(&model->tensors()));
  const auto experts = static_cast<size_t>(model->config().moe_layer_count() * model->config().experts);
  weights->here_.resize(experts);
  absl::MutexLock lock(&weights->holders_->mutex);
  weights->holders_->count.resize(experts);
  return weights;
}

absl::Status WorkerWeights::Load(What what, const std::function<bool()>& stop) {
  const std::vector<TensorView> tensors =
      what == What::kAll ? ListTensors(this->tensors()) : ListAllButExperts(this->tensors());
  const uint64_t total = TotalBytes(tensors);
  const absl::Time start = absl::Now();
  {
    ProgressBar bar(packs() ? "packing" : "loading");
    RETURN_IF_ERROR(WithPath(model_, BringIn(tensors, stop, [&](uint64_t done) { bar.Show(done, total); })));
  }
  all_ = what == What::kAll;
  LogLoaded(total, start);
  if (packs())
    spdlog::info(
        "{} is packed at every start, into memory of its own; braid convert {} DST --format packed, once, and "
        "serving DST instead saves both",
        model_.path(), model_.path());
  return absl::OkStatus();
}

absl::Status WorkerWeights::BringIn(const std::vector<TensorView>& tensors, const std::function<bool()>& stop,
                                    const std::function<void(uint64_t bytes)>& shown) {
  std::vector<TensorView> mapped, to_pack;
  for (const TensorView& tensor : tensors) (packed_->SourceOf(tensor) ? to_pack : mapped).push_back(tensor);
  ThreadPool pool(threads_);
  const uint64_t mapped_bytes = TotalBytes(mapped);
  if (!mapped.empty() && Fit(model_, mapped_bytes)) RETURN_IF_ERROR(PageIn(mapped, &pool, stop, shown));
  return Pack(to_pack, &pool, stop, [&](uint64_t done) { shown(mapped_bytes + done); });
}

absl::Status WorkerWeights::Pack(const std::vector<TensorView>& tensors, ThreadPool* pool,
                                 const std::function<bool()>& stop, const std::function<void(uint64_t bytes)>& shown) {
  const uint64_t total = TotalBytes(tensors), available = MemoryForCopiesBytes();
  if (total > available)
    return absl::ResourceExhaustedError("packing " + HumanBytes(total) + " of weights takes as much memory, " +
                                        HumanBytes(available) + " are free; a packed file is mapped and takes none: " +
                                        "braid convert SRC DST --format packed, once, then serve DST");
  packed_->PreferHugePages(tensors);
  uint64_t done = 0;
  for (const TensorView& tensor : tensors) {
    if (stop()) return absl::CancelledError("stopped while packing");
    const TensorView& source = *packed_->SourceOf(tensor);
    const uint64_t row_bytes = RowBytes(source.dtype, static_cast<uint64_t>(source.columns));
    const int panels = static_cast<int>(PanelsOf(static_cast<uint64_t>(source.rows)));
    const int together = static_cast<int>(std::clamp<uint64_t>(kPackBytes / (row_bytes * kPanelOutputs), 1, 1 << 20));
    std::atomic<int> error = 0;
    pool->ParallelFor((panels + together - 1) / together, 1, [&](int begin, int end) {
      for (int first = begin * together; first < std::min(end * together, panels); first += together) {
        const int last = std::min(first + together, panels);
        const int64_t row = int64_t{first} * kPanelOutputs;
        const int64_t rows = std::min<int64_t>(int64_t{last} * kPanelOutputs, source.rows) - row;
        const int failed =
            PageIn(source.data + static_cast<uint64_t>(row) * row_bytes, static_cast<uint64_t>(rows) * row_bytes);
        if (failed == 0) {
          packed_->Pack(tensor, first, last);
        } else {
          error = failed;
        }
      }
    });
    if (error != 0) return CannotRead(source, error);
    LetGo(source);
    shown(done += tensor.bytes());
  }
  for (const TensorView& tensor : tensors) LetGo(*packed_->SourceOf(tensor));  // pages that came with a neighbour's
  return absl::OkStatus();
}

const FfnTensors& WorkerWeights::Expert(size_t index) const {
  const auto experts = static_cast<size_t>(model_.config().experts);
  const size_t layer = static_cast<size_t>(model_.config().dense_layers) + index / experts;
  return tensors().layers.at(layer).experts.at(index % experts);
}

absl::StatusOr<ExpertHold> WorkerWeights::LoadExperts(std::span<const ExpertRanks> placement, int rank,
                                                      const std::function<bool()>& stop) {
  if (all_ || tensors().layers.empty()) return ExpertHold();  // without layers: a checksum model, it has no weights
  ExpertSet placed;
  for (const ExpertRanks& layer : placement)
    for (int expert = 0; expert < layer.experts(); ++expert) placed.push_back(layer.IsAt(expert, rank));
  DropIdle(placed);
  std::vector<TensorView> missing;
  for (size_t i = 0; i < placed.size(); ++i) {
    if (!placed[i] || here_[i]) continue;
    const FfnTensors& ffn = Expert(i);
    missing.insert(missing.end(), {ffn.gate, ffn.up, ffn.down});
  }
  RETURN_IF_ERROR(WithPath(model_, BringIn(missing, stop, [](uint64_t) {})));
  for (size_t i = 0; i < placed.size() && !stop(); ++i) here_[i] = here_[i] || placed[i];
  return Hold(placed);
}

void WorkerWeights::DropIdle(const ExpertSet& wanted) {
  absl::MutexLock lock(&holders_->mutex);
  for (size_t i = 0; i < here_.size(); ++i) {
    if (!here_[i] || wanted[i] || holders_->count[i] > 0) continue;
    here_[i] = false;
    const FfnTensors& ffn = Expert(i);
    for (const TensorView* tensor : {&ffn.gate, &ffn.up, &ffn.down})
      if (packed_->SourceOf(*tensor) != nullptr) packed_->Drop(*tensor);
  }
}

ExpertHold WorkerWeights::Hold(const ExpertSet& experts) {
  const auto add = [](Holders& holders, const ExpertSet& set, int amount) {
    absl::MutexLock lock(&holders.mutex);
    for (size_t i = 0; i < set.size(); ++i)
      if (set[i]) holders.count[i] += amount;
  };
  add(*holders_, experts, 1);
  return ExpertHold(new ExpertSet(experts), [holders = holders_, add](const ExpertSet* set) {
    add(*holders, *set, -1);
    delete set;
  });
}

}  // namespace braid
