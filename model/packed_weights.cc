#include "model/packed_weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/panels.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

constexpr uintptr_t kHugePage = 2 << 20;  // of x86-64; where they are larger, fewer are used

bool MustBePacked(const TensorView& tensor) { return HasPanels(tensor.dtype) && tensor.layout == Layout::kRows; }

// madvise for the whole pages of `size` in [begin, end), if there are any.
void AdvisePagesWithin(const std::byte* begin, const std::byte* end, uintptr_t size, int advice) {
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + size - 1) / size * size;
  const uintptr_t last = reinterpret_cast<uintptr_t>(end) / size * size;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, advice);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedWeights>> PackedWeights::Create(const ModelTensors* file) {
  std::unique_ptr<PackedWeights> weights(new PackedWeights());
  uint64_t bytes = 0;
  VisitMatrices(*file, [&](const TensorView& tensor) {
    if (!MustBePacked(tensor)) return;
    bytes += PackedBytes(tensor.dtype, static_cast<uint64_t>(tensor.rows), static_cast<uint64_t>(tensor.columns));
  });
  weights->tensors_ = *file;
  if (bytes == 0) return weights;
  void* const memory =
      mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    return absl::ResourceExhaustedError("no addresses for " + std::to_string(bytes) +
                                        " bytes of packed weights: " + std::strerror(errno));
  weights->memory_ = static_cast<std::byte*>(memory);
  weights->bytes_ = bytes;
  const uintptr_t before = (kHugePage - reinterpret_cast<uintptr_t>(memory) % kHugePage) % kHugePage;
  CHECK_EQ(weights->Place(*file, weights->memory_ + before), bytes);
  return weights;
}

PackedWeights::~PackedWeights() {
  if (memory_ != nullptr) munmap(memory_, bytes_ + kHugePage);
}

uint64_t PackedWeights::Place(const ModelTensors& file, std::byte* base) {
  uint64_t offset = 0;
  VisitMatrices(tensors_, [&](TensorView& tensor) {
    if (!MustBePacked(tensor)) return;
    const TensorView source = tensor;
    tensor.layout = Layout::kPanels;
    tensor.data = base + offset;
    sources_.emplace(tensor.data, source);
    offset += tensor.bytes();
  });
  if (file.head.data == file.embedding.data) tensors_.head = tensors_.embedding;
  return offset;
}

const TensorView* PackedWeights::SourceOf(const TensorView& tensor) const {
  const auto found = sources_.find(tensor.data);
  return found == sources_.end() ? nullptr : &found->second;
}

void PackedWeights::PreferHugePages(std::span<const TensorView> tensors) {
  for (size_t i = 0; i < tensors.size();) {
    const std::byte* const begin = tensors[i].data;
    const std::byte* end = begin;
    for (; i < tensors.size() && tensors[i].data == end; ++i) end += tensors[i].bytes();
    AdvisePagesWithin(begin, end, kHugePage, MADV_HUGEPAGE);
  }
}

void PackedWeights::Pack(const TensorView& tensor, int begin, int end) {
  const TensorView* const source = SourceOf(tensor);
  CHECK(source != nullptr);
  const auto columns = static_cast<uint64_t>(source->columns);
  const uint64_t panel_bytes = PanelBytes(source->dtype, columns), row_bytes = RowBytes(source->dtype, columns);
  for (int panel = begin; panel < end; ++panel) {
    const int64_t first = int64_t{panel} * kPanelOutputs;
    const auto outputs = static_cast<int>(std::min<int64_t>(kPanelOutputs, source->rows - first));
    PackPanel(source->dtype, columns, source->data + static_cast<uint64_t>(first) * row_bytes, outputs,
              const_cast<std::byte*>(tensor.data) + static_cast<uint64_t>(panel) * panel_bytes);
  }
}

void PackedWeights::Drop(const TensorView& tensor) {
  CHECK(SourceOf(tensor) != nullptr);
  AdvisePagesWithin(tensor.data, tensor.data + tensor.bytes(), static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)),
                    MADV_DONTNEED);
}

}  // namespace braid
