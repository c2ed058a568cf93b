#include "expert_worker/load_weights.h"

#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
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

absl::Status PageIn(const std::vector<TensorView>& tensors, uint64_t total_bytes, const std::function<bool()>& stop) {
  ProgressBar bar("loading");
  uint64_t done = 0;
  for (const TensorView& tensor : tensors) {
    for (uint64_t at = 0; at < tensor.bytes(); at += kPieceBytes) {
      if (stop()) return absl::OkStatus();
      const uint64_t bytes = std::min(kPieceBytes, tensor.bytes() - at);
      if (const int error = PageIn(tensor.data + at, bytes); error != 0)
        return absl::UnavailableError("tensor '" + tensor.name + "' cannot be read: " + std::strerror(error));
      bar.Show(done += bytes, total_bytes);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadWeights(const ModelFile& model, const std::function<bool()>& stop) {
  const uint64_t total = model.weight_bytes(), available = AvailableMemoryBytes();
  if (total > available) {
    spdlog::warn("{}: {} of weights, but {} of free memory: they stay on disk until they are used", model.path(),
                 HumanBytes(total), HumanBytes(available));
    return absl::OkStatus();
  }
  std::vector<TensorView> tensors;
  VisitTensors(model.tensors(), [&](const TensorView& tensor) { tensors.push_back(tensor); });
  const absl::Time start = absl::Now();
  const absl::Status status = PageIn(tensors, total, stop);
  if (!status.ok()) return absl::UnavailableError(model.path() + ": " + std::string(StdView(status.message())));
  spdlog::info("{} of weights in memory after {} ms", HumanBytes(total),
               absl::ToInt64Milliseconds(absl::Now() - start));
  return absl::OkStatus();
}

}  // namespace braid
