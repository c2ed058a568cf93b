#include "expert_worker/dispatch.h"

#include <fmt/format.h>

#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "base/status.h"

namespace braid {
namespace {

constexpr size_t kAlignment = 64;

struct Header {
  uint32_t kind = 0;
  int32_t layer = 0;
  int32_t rows = 0;
  int32_t pairs = 0;
  int32_t columns = 0;
  int32_t reserved[11] = {};
};
static_assert(sizeof(Header) == kAlignment);

constexpr uint32_t kDispatch = 1, kCombine = 2;

constexpr size_t AlignUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

size_t PairBytes(size_t pairs) { return AlignUp(pairs * sizeof(Pair)); }
size_t RowBytes(size_t rows, size_t D) { return rows * D * sizeof(float); }

absl::Status CheckHeader(const Header& header, uint32_t kind, int layer, int D) {
  if (header.kind != kind) return absl::DataLossError(fmt::format("message kind {}, not {}", header.kind, kind));
  if (header.layer != layer) return absl::DataLossError(fmt::format("layer {}, not {}", header.layer, layer));
  if (header.columns != D) return absl::DataLossError(fmt::format("rows of {}, not {}", header.columns, D));
  return absl::OkStatus();
}

absl::StatusOr<Header> ReadHeader(std::span<const std::byte> message) {
  Header header;
  if (message.size() < sizeof(header)) return absl::DataLossError("message is too short");
  std::memcpy(&header, message.data(), sizeof(header));
  return header;
}

}  // namespace

size_t MoeMessageBytesMax(int rows_max, int K, int D) {
  const size_t pairs = static_cast<size_t>(rows_max) * K;
  return sizeof(Header) + PairBytes(pairs) + RowBytes(pairs, D);
}

DispatchLayout LayOutDispatch(int layer, int rows, int D, std::span<const Pair> pairs, std::span<std::byte> message) {
  const size_t rows_at = sizeof(Header) + PairBytes(pairs.size());
  const DispatchLayout layout = {reinterpret_cast<float*>(message.data() + rows_at), rows_at + RowBytes(rows, D)};
  CHECK_LE(layout.bytes, message.size());
  const Header header = {kDispatch, layer, rows, static_cast<int32_t>(pairs.size()), D};
  std::memcpy(message.data(), &header, sizeof(header));
  if (!pairs.empty()) std::memcpy(message.data() + sizeof(header), pairs.data(), pairs.size_bytes());
  return layout;
}

absl::StatusOr<DispatchView> ParseDispatch(std::span<const std::byte> message, const DispatchLimits& limits) {
  ASSIGN_OR_RETURN(const Header header, ReadHeader(message));
  RETURN_IF_ERROR(CheckHeader(header, kDispatch, limits.layer, limits.D));
  if (header.rows < 0 || header.rows > limits.rows_max) {
    return absl::DataLossError(fmt::format("{} rows, at most {}", header.rows, limits.rows_max));
  }
  if (header.pairs < 0 || int64_t{header.pairs} > int64_t{header.rows} * limits.pairs_per_row_max) {
    return absl::DataLossError(fmt::format("{} pairs for {} rows", header.pairs, header.rows));
  }
  const size_t rows_at = sizeof(Header) + PairBytes(header.pairs);
  if (message.size() != rows_at + RowBytes(header.rows, limits.D)) {
    return absl::DataLossError(fmt::format("{} bytes for {} rows", message.size(), header.rows));
  }
  const DispatchView view = {
      .pairs = {reinterpret_cast<const Pair*>(message.data() + sizeof(Header)), static_cast<size_t>(header.pairs)},
      .rows = header.rows,
      .x = reinterpret_cast<const float*>(message.data() + rows_at)};
  for (const Pair& pair : view.pairs) {
    if (pair.row < 0 || pair.row >= view.rows)
      return absl::DataLossError(fmt::format("row {} of {}", pair.row, view.rows));
    if (pair.expert < 0 || pair.expert >= limits.placed->experts() || !limits.placed->IsAt(pair.expert, limits.rank)) {
      return absl::DataLossError(fmt::format("expert {} is not here", pair.expert));
    }
  }
  return view;
}

DispatchLayout LayOutCombine(int layer, int pairs, int D, std::span<std::byte> message) {
  const DispatchLayout layout = {reinterpret_cast<float*>(message.data() + sizeof(Header)),
                                 sizeof(Header) + RowBytes(pairs, D)};
  CHECK_LE(layout.bytes, message.size());
  const Header header = {kCombine, layer, pairs, pairs, D};
  std::memcpy(message.data(), &header, sizeof(header));
  return layout;
}

absl::StatusOr<const float*> ParseCombine(std::span<const std::byte> message, int layer, int pairs, int D) {
  ASSIGN_OR_RETURN(const Header header, ReadHeader(message));
  RETURN_IF_ERROR(CheckHeader(header, kCombine, layer, D));
  if (header.pairs != pairs || header.rows != pairs || message.size() != sizeof(Header) + RowBytes(pairs, D)) {
    return absl::DataLossError(
        fmt::format("{} results in {} bytes, {} were asked for", header.rows, message.size(), pairs));
  }
  return reinterpret_cast<const float*>(message.data() + sizeof(Header));
}

}  // namespace braid
