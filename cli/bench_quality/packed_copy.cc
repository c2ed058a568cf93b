#include "cli/bench_quality/packed_copy.h"

#include "kernels/panels.h"
#include "model/matrix_view.h"

namespace braid {
namespace {

constexpr uintptr_t kAlignment = 64;  // of panels

}  // namespace

PackedCopy::PackedCopy(const ModelTensors& original, ThreadPool* pool) : tensors_(original) {
  Pack(&tensors_.embedding, pool);
  if (original.head.data == original.embedding.data) {
    tensors_.head = tensors_.embedding;
  } else {
    Pack(&tensors_.head, pool);
  }
  const auto pack_ffn = [&](FfnTensors& ffn) {
    for (TensorView* tensor : {&ffn.gate, &ffn.up, &ffn.down}) Pack(tensor, pool);
  };
  for (LayerTensors& layer : tensors_.layers) {
    for (TensorView* tensor : {&layer.conv_in, &layer.conv_out, &layer.q, &layer.k, &layer.v, &layer.attn_out})
      Pack(tensor, pool);
    pack_ffn(layer.dense);
    for (FfnTensors& expert : layer.experts) pack_ffn(expert);
  }
}

void PackedCopy::Pack(TensorView* tensor, ThreadPool* pool) {
  if (tensor->empty() || tensor->layout == Layout::kPanels || !HasPanels(tensor->dtype)) return;
  const Matrix rows = AsMatrix(*tensor);
  tensor->layout = Layout::kPanels;
  std::byte* data = memory_.emplace_back(std::make_unique<std::byte[]>(tensor->bytes() + kAlignment)).get();
  data += (kAlignment - reinterpret_cast<uintptr_t>(data) % kAlignment) % kAlignment;
  tensor->data = data;
  const uint64_t panel_bytes = PanelBytes(rows.type, static_cast<uint64_t>(rows.columns));
  pool->ParallelFor((rows.rows + kPanelOutputs - 1) / kPanelOutputs, 1, [&](int begin, int end) {
    for (int panel = begin; panel < end; ++panel)
      PackPanel(rows, panel, data + static_cast<uint64_t>(panel) * panel_bytes);
  });
}

}  // namespace braid
