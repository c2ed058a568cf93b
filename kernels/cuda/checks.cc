// What every op accepts. Messages name the member; the caller adds which layer it was.

#include <string>
#include <string_view>

#include "base/status.h"
#include "kernels/cuda/choose_experts.h"
#include "kernels/cuda/combine.h"
#include "kernels/cuda/draw_tokens.h"
#include "kernels/cuda/edit_logits.h"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/group_rows.h"
#include "kernels/cuda/grouped_linear.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/qkv_heads.h"
#include "kernels/cuda/quantize_rows.h"
#include "kernels/cuda/short_conv.h"
#include "kernels/cuda/swiglu.h"
#include "kernels/cuda/verify_drafts.h"

namespace braid::gpu {
namespace {

// A step checks every op: only a refusal makes a string.
absl::Status Require(bool condition, std::string_view requirement) {
  return condition ? absl::OkStatus() : InvalidArgument(std::string(requirement));
}

// Vectors are loaded 16 bytes at a time.
bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
bool Given(const void* p) { return p != nullptr && Aligned(p); }

absl::Status CheckActivations(DType type) {
  return Require(type == DType::kF32 || type == DType::kBF16, "type must be F32 or BF16");
}

absl::Status CheckMatrix(const Matrix& m, std::string_view name) {
  const auto require = [&](bool condition, std::string_view requirement) {
    return condition ? absl::OkStatus() : InvalidArgument(std::string(name) + std::string(requirement));
  };
  RETURN_IF_ERROR(require(Given(m.data), " must be set, at a multiple of 16 bytes"));
  RETURN_IF_ERROR(require(m.rows > 0 && m.columns > 0, " must have rows and columns"));
  if (m.type == kFp8) {
    RETURN_IF_ERROR(require(m.scales != nullptr, "'s scales must be set"));
    return require(m.columns % 16 == 0, "'s columns must be a multiple of 16");
  }
  switch (m.type) {
    case DType::kF32:
    case DType::kBF16:
      return require(m.columns % 8 == 0, "'s columns must be a multiple of 8");
    case DType::kQ4_0:
      RETURN_IF_ERROR(require(m.scales != nullptr, "'s scales must be set"));
      return require(m.columns % 32 == 0, "'s columns must be whole blocks of its type");
    default:
      return require(false, "'s type must be F32, BF16, FP8 or Q4_0");
  }
}

absl::Status CheckKv(const KvArena& arena, const KvRows& rows, int kv_heads, int head_dim) {
  RETURN_IF_ERROR(Require(head_dim == 32 || head_dim == 64 || head_dim == 128, "head_dim must be 32, 64 or 128"));
  RETURN_IF_ERROR(Require(kv_heads > 0, "kv_heads must be positive"));
  RETURN_IF_ERROR(
      Require(kv_heads == arena.kv_heads && head_dim == arena.head_dim, "kv_heads and head_dim must be the arena's"));
  RETURN_IF_ERROR(Require(Given(arena.blocks), "arena.blocks must be set, at a multiple of 16 bytes"));
  RETURN_IF_ERROR(
      Require(arena.block_stride % 8 == 0 && arena.block_stride >= KvArena::BlockNumbers(kv_heads, head_dim),
              "block_stride must fit a block and be a multiple of 8"));
  return Require(
      rows.positions != nullptr && rows.sequences != nullptr && rows.blocks != nullptr && rows.block_table_stride > 0,
      "rows must have positions, sequences and blocks");
}

}  // namespace

absl::Status Check(const Gather& op) {
  RETURN_IF_ERROR(CheckMatrix(op.table, "table"));
  RETURN_IF_ERROR(CheckActivations(op.type));
  return Require(op.T >= 0 && (op.T == 0 || (op.ids != nullptr && Given(op.y))),
                 "ids and y must be set, y at a multiple of 16 bytes");
}

absl::Status Check(const QkvHeads& op) {
  RETURN_IF_ERROR(Require(op.T >= 0 && op.heads > 0, "heads must be positive"));
  RETURN_IF_ERROR(CheckActivations(op.type));
  if (op.T == 0) return absl::OkStatus();
  RETURN_IF_ERROR(CheckKv(op.arena, op.rows, op.kv_heads, op.head_dim));
  RETURN_IF_ERROR(Require(Given(op.q_weight) && Given(op.k_weight) && Given(op.cos) && Given(op.sin),
                          "q_weight, k_weight, cos and sin must be set, at multiples of 16 bytes"));
  RETURN_IF_ERROR(Require(Given(op.qkv) && Given(op.q), "qkv and q must be set, at multiples of 16 bytes"));
  return Require(op.q != op.qkv, "q must not overlap qkv");
}

absl::Status Check(const PagedAttention& op) {
  RETURN_IF_ERROR(CheckActivations(op.type));
  if (op.T == 0) return absl::OkStatus();
  RETURN_IF_ERROR(CheckKv(op.arena, op.rows, op.kv_heads, op.head_dim));
  RETURN_IF_ERROR(
      Require(op.T > 0 && op.heads > 0 && op.heads % op.kv_heads == 0, "heads must be a multiple of kv_heads"));
  RETURN_IF_ERROR(
      Require(op.heads / op.kv_heads <= PagedAttention::kGroupMax, "a key head must have at most 16 query heads"));
  RETURN_IF_ERROR(Require(op.partials == nullptr || (op.spans > 0 && op.spans <= 65535),
                          "spans must be in [1, 65535] with partials"));
  RETURN_IF_ERROR(Require(op.tiles == nullptr || op.tile_count >= 0, "tile_count must not be negative"));
  RETURN_IF_ERROR(
      Require(op.tiles == nullptr ||
                  (op.tile_rows > 0 && op.tile_rows <= PagedAttention::RowsMax(op.type, op.heads / op.kv_heads)),
              "tile_rows must be in [1, RowsMax]"));
  RETURN_IF_ERROR(Require(Aligned(op.partials), "partials must be at a multiple of 16 bytes"));
  return Require(Given(op.q) && Given(op.y) && op.q != op.y, "q and y must be set, apart, at multiples of 16 bytes");
}

absl::Status Check(const ShortConv& op) {
  RETURN_IF_ERROR(CheckActivations(op.type));
  RETURN_IF_ERROR(Require(op.T >= 0 && op.D > 0 && op.D % 8 == 0, "D must be a multiple of 8"));
  RETURN_IF_ERROR(Require(op.taps == 3 || op.taps == 4, "taps must be 3 or 4"));
  RETURN_IF_ERROR(Require(op.ring >= op.taps, "ring must hold the taps"));
  if (op.T == 0) return absl::OkStatus();
  RETURN_IF_ERROR(
      Require(op.pieces != nullptr && op.piece_of != nullptr && op.piece_count > 0, "pieces and piece_of must be set"));
  RETURN_IF_ERROR(Require(op.tokens_max > 0 && op.tokens_max <= op.T, "tokens_max must be in [1, T]"));
  RETURN_IF_ERROR(Require(op.save_count >= 0 && (op.save_count == 0 || (op.saves != nullptr && Given(op.saved))),
                          "saves and saved must be set, saved at a multiple of 16 bytes"));
  return Require(Given(op.bcx) && Given(op.kernel) && Given(op.columns) && Given(op.y),
                 "bcx, kernel, columns and y must be set, at multiples of 16 bytes");
}

// Eight rows to a thread once that leaves enough threads to fill a GPU.
ShortConvConfig Choose(const ShortConv& op) {
  constexpr int64_t kThreadsWanted = int64_t{128} * 1024;
  ShortConvConfig config;
  config.rows_per_thread = int64_t{op.T} * op.D / 64 >= kThreadsWanted ? 8 : 1;
  config.store_at_once = op.tokens_max + op.taps - 1 <= op.ring;
  return config;
}

absl::Status Check(const ChooseExperts& op) {
  RETURN_IF_ERROR(Require(op.T >= 0 && op.E > 0 && op.E <= ChooseExperts::kExpertsMax, "E must be in [1, 1024]"));
  RETURN_IF_ERROR(
      Require(op.K > 0 && op.K <= op.E && op.K <= ChooseExperts::kChosenMax, "K must be in [1, E], at most 32"));
  return Require(op.T == 0 || (op.logits != nullptr && op.experts != nullptr && op.weights != nullptr),
                 "logits, experts and weights must be set");
}

absl::Status Check(const GroupRows& op) {
  RETURN_IF_ERROR(Require(op.T >= 0 && op.K > 0, "K must be positive"));
  RETURN_IF_ERROR(Require(op.E > 0 && op.E <= GroupRows::kExpertsMax, "E must be in [1, 1024]"));
  RETURN_IF_ERROR(Require(int64_t{op.T} * op.K <= INT32_MAX, "T * K must fit 32 bits"));
  RETURN_IF_ERROR(Require(op.offsets != nullptr, "offsets must be set"));
  return Require(op.T == 0 || (op.experts != nullptr && op.source != nullptr && op.row_of != nullptr),
                 "experts, source and row_of must be set");
}

GroupRowsConfig Choose(const GroupRows& op) {
  const int64_t pairs = int64_t{op.T} * op.K;
  GroupRowsConfig config{32};
  while (config.warps > 1 && (config.warps * op.E > GroupRowsConfig::kCountsMax || config.warps / 2 * 32 >= pairs))
    config.warps /= config.warps == 8 ? 2 : 4;
  return config;
}

absl::Status Check(const Combine& op) {
  RETURN_IF_ERROR(CheckActivations(op.type));
  RETURN_IF_ERROR(Require(op.T >= 0 && op.D > 0 && op.D % 8 == 0, "D must be a multiple of 8"));
  RETURN_IF_ERROR(Require(op.K > 0, "K must be positive"));
  return Require(op.T == 0 || (Given(op.rows) && op.row_of != nullptr && op.weights != nullptr && Given(op.y)),
                 "rows, row_of, weights and y must be set, rows and y at multiples of 16 bytes");
}

absl::Status Check(const SwiGlu& op) {
  RETURN_IF_ERROR(CheckActivations(op.type));
  RETURN_IF_ERROR(Require(op.T >= 0 && op.F > 0 && op.F % 8 == 0, "F must be a multiple of 8"));
  return Require(op.T == 0 || (Given(op.gate_up) && Given(op.y) && op.gate_up != op.y),
                 "gate_up and y must be set, apart, at multiples of 16 bytes");
}

absl::Status Check(const GroupedLinear& op) {
  if (op.type == kFp8) {
    RETURN_IF_ERROR(Require(op.w.type == kFp8, "w must be FP8 if x is"));
    RETURN_IF_ERROR(Require(op.rows_max == 0 || op.x_scales != nullptr, "x_scales must be set"));
  } else {
    RETURN_IF_ERROR(CheckActivations(op.type));
  }
  RETURN_IF_ERROR(Require(op.y_type == DType::kF32 || op.y_type == DType::kBF16, "y_type must be F32 or BF16"));
  RETURN_IF_ERROR(Require(op.E > 0 && op.N > 0 && op.K > 0, "E, N and K must be positive"));
  RETURN_IF_ERROR(CheckMatrix(op.w, "w"));
  const bool whole_matrices = op.places == nullptr ? op.w.rows == int64_t{op.E} * op.N : op.w.rows % op.N == 0;
  RETURN_IF_ERROR(Require(whole_matrices && op.K == op.w.columns,
                          op.places == nullptr ? "w must be (E * N, K)" : "w must be some matrices of (N, K)"));
  RETURN_IF_ERROR(Require(op.type == DType::kF32 || op.w.type != DType::kF32, "w must not be F32 if x is BF16"));
  RETURN_IF_ERROR(Require(op.N % (op.swiglu ? 16 : 8) == 0, "N must be a multiple of 8, or of 16 with swiglu"));
  RETURN_IF_ERROR(Require(op.rows_max >= 0 && op.rows_max / 16 + op.E <= 65535, "rows_max must fit a grid"));
  return Require(op.rows_max == 0 || (Given(op.x) && op.offsets != nullptr && Given(op.y)),
                 "x, offsets and y must be set, x and y at multiples of 16 bytes");
}

GroupedLinearConfig Choose(const GroupedLinear& op) {
  constexpr int kWide = GroupedLinearConfig::kWideRows;
  constexpr int64_t kBlocksWanted = 256;  // about two for each SM
  if (op.rows_max <= 16 * op.E) return {16};
  const bool has_wide =
      op.type == kFp8 || (op.type == DType::kBF16 && op.w.type != DType::kQ4_0 &&
                          (op.w.type != kFp8 || Fp8Blocks(op.K) <= GroupedLinearConfig::kWideBlocksMax));
  const bool unfit = op.rows_max < kWide * 3 / 4 * op.E || !has_wide;
  const int64_t blocks = int64_t{(op.rows_max + kWide - 1) / kWide} * ((op.N + 127) / 128);
  return {unfit || blocks < kBlocksWanted ? 64 : kWide};
}

absl::Status Check(const DrawTokens& op) {
  RETURN_IF_ERROR(Require(op.T >= 0 && op.V > 0 && op.V % 8 == 0 && op.V <= DrawTokens::kTokensMax,
                          "V must be a multiple of 8, at most 1048576"));
  return Require(
      op.T == 0 || (Given(op.logits) && op.temperature != nullptr && op.uniform != nullptr && op.tokens != nullptr),
      "logits, temperature, uniform and tokens must be set");
}

absl::Status Check(const EditLogits& op) {
  RETURN_IF_ERROR(Require(op.T >= 0 && op.V > 0, "V must be positive"));
  RETURN_IF_ERROR(Require(op.edit_count >= 0 && (op.edit_count == 0 || op.edits != nullptr), "edits must be set"));
  RETURN_IF_ERROR(
      Require(op.masked_count >= 0 && op.masked_count <= op.V && (op.masked_count == 0 || op.masked != nullptr),
              "masked must be set, and at most V"));
  RETURN_IF_ERROR(Require(
      (op.repetition == nullptr) == (op.presence == nullptr) && (op.repetition == nullptr) == (op.frequency == nullptr),
      "repetition, presence and frequency go together"));
  return Require(op.T == 0 || op.logits != nullptr, "logits must be set");
}

absl::Status Check(const VerifyDrafts& op) {
  RETURN_IF_ERROR(Require(op.S >= 0, "S must not be negative"));
  return Require(op.S == 0 || (op.first_rows != nullptr && op.inputs != nullptr && op.drawn != nullptr &&
                               op.right != nullptr && op.last != nullptr),
                 "first_rows, inputs, drawn, right and last must be set");
}

absl::Status Check(const QuantizeRows& op) {
  RETURN_IF_ERROR(CheckActivations(op.type));
  RETURN_IF_ERROR(Require(op.T >= 0 && op.D > 0 && op.D % 16 == 0, "D must be a multiple of 16"));
  return Require(op.T == 0 || (Given(op.x) && Given(op.y) && op.scales != nullptr),
                 "x, y and scales must be set, x and y at multiples of 16 bytes");
}

}  // namespace braid::gpu
