#include "kernels/cuda/dispatch.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "base/status.h"

namespace braid::gpu {
namespace {

// A step checks every op: only a refusal makes a string.
absl::Status Require(bool condition, std::string_view requirement) {
  return condition ? absl::OkStatus() : InvalidArgument(std::string(requirement));
}

// Rows are copied 16 bytes at a time.
bool Given(const void* p) { return p != nullptr && reinterpret_cast<uintptr_t>(p) % 16 == 0; }

int RowsFor(size_t bytes, int row_bytes) { return static_cast<int>((bytes + row_bytes - 1) / row_bytes); }

absl::Status CheckShape(const DispatchShape& shape, const DispatchName& name) {
  RETURN_IF_ERROR(Require(shape.ranks > 0 && shape.ranks <= DispatchShape::kRanksMax, "ranks must be in [1, 1024]"));
  RETURN_IF_ERROR(Require(shape.rank >= 0 && shape.rank < shape.ranks, "rank must be in [0, ranks)"));
  RETURN_IF_ERROR(Require(shape.D > 0 && shape.D % 8 == 0, "D must be a multiple of 8"));
  RETURN_IF_ERROR(Require(shape.K > 0 && shape.K <= 32, "K must be in [1, 32]"));
  RETURN_IF_ERROR(Require(shape.type == DType::kF32 || shape.type == DType::kBF16, "type must be F32 or BF16"));
  RETURN_IF_ERROR(Require(shape.rows > 0 && shape.results > 0, "slots must have room for a row"));
  RETURN_IF_ERROR(Require(int64_t{shape.ranks} * shape.slot_rows * shape.K <= INT32_MAX &&
                              int64_t{shape.ranks} * shape.result_slot_rows <= INT32_MAX,
                          "rows of all slots must fit 32 bits"));
  return Require(name.step != nullptr, "step must be set");
}

absl::Status CheckExperts(int E, const int32_t* first_replica, const int32_t* replicas) {
  RETURN_IF_ERROR(Require(E > 0 && E <= DispatchShape::kExpertsMax, "E must be in [1, 1024]"));
  return Require(first_replica != nullptr && replicas != nullptr, "first_replica and replicas must be set");
}

}  // namespace

DispatchShape MakeDispatchShape(int ranks, int rank, int D, int K, DType type, int rows, int results) {
  DispatchShape shape{ranks, rank, D, K, type, rows, results};
  shape.row_bytes = D * (type == DType::kF32 ? 4 : 2);
  shape.head_rows = RowsFor(sizeof(DispatchHead) + size_t(rows) * K * sizeof(int16_t), shape.row_bytes);
  shape.slot_rows = shape.head_rows + rows;
  shape.result_head_rows = RowsFor(sizeof(DispatchHead), shape.row_bytes);
  shape.result_slot_rows = shape.result_head_rows + results;
  return shape;
}

// A warp has 32 rows at a time. Blocks: enough to fill a GPU, whoever the rows are for.
DispatchConfig Choose(const DispatchShape& shape) {
  constexpr int kBlocks = 2048;
  return {shape.rows <= 32   ? 1
          : shape.rows <= 64 ? 2
                             : 8,
          std::min(std::max(shape.rows, shape.results), std::max(32, kBlocks / shape.ranks))};
}

absl::Status Check(const SendRows& op) {
  RETURN_IF_ERROR(CheckShape(op.shape, op.name));
  RETURN_IF_ERROR(CheckExperts(op.E, op.first_replica, op.replicas));
  RETURN_IF_ERROR(Require(op.T >= 0 && (op.T == 0 || (Given(op.x) && op.experts != nullptr && op.row_of != nullptr)),
                          "x, experts and row_of must be set, x at a multiple of 16 bytes"));
  return Require(
      Given(op.send) && Given(op.received) && op.tokens != nullptr && op.counts != nullptr && op.clock != nullptr,
      "send, received, tokens, counts and clock must be set, send and received at multiples of 16 bytes");
}

absl::Status Check(const ReceiveRows& op) {
  RETURN_IF_ERROR(CheckShape(op.shape, op.name));
  RETURN_IF_ERROR(CheckExperts(op.E, op.first_replica, op.replicas));
  return Require(Given(op.received) && op.experts != nullptr && op.asked != nullptr && op.counts != nullptr &&
                     op.faults != nullptr && op.clock != nullptr,
                 "received, experts, asked, counts, faults and clock must be set, received at a multiple of 16 bytes");
}

absl::Status Check(const SendResults& op) {
  RETURN_IF_ERROR(CheckShape(op.shape, op.name));
  RETURN_IF_ERROR(Require(op.asked != nullptr && op.counts != nullptr && op.row_of != nullptr && op.faults != nullptr &&
                              op.clock != nullptr,
                          "asked, counts, row_of, faults and clock must be set"));
  return Require(Given(op.y) && Given(op.send) && Given(op.received),
                 "y, send and received must be set, at multiples of 16 bytes");
}

absl::Status Check(const ReceiveResults& op) {
  RETURN_IF_ERROR(Require(op.E > 0 && op.offsets != nullptr && op.expert_rows != nullptr,
                          "E must be positive, offsets and expert_rows set"));
  if (op.received == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(CheckShape(op.shape, op.name));
  return Require(Given(op.received) && op.counts != nullptr && op.faults != nullptr && op.clock != nullptr,
                 "received, counts, faults and clock must be set, received at a multiple of 16 bytes");
}

}  // namespace braid::gpu
