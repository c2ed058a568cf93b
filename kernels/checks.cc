// What every op accepts. Messages name the member; the caller adds which layer or file it was.

#include <string>
#include <string_view>

#include "base/status.h"
#include "kernels/attention.h"
#include "kernels/choose_experts.h"
#include "kernels/gather.h"
#include "kernels/grouped_ffn.h"
#include "kernels/linear.h"
#include "kernels/panels.h"
#include "kernels/pointwise.h"
#include "kernels/quant_rows.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/short_conv.h"
#include "kernels/weighted_sum.h"

namespace braid {
namespace {

// A step checks every op: only a refusal makes a string.
absl::Status Require(bool condition, std::string_view requirement) {
  return condition ? absl::OkStatus() : InvalidArgument(std::string(requirement));
}
absl::Status Require(bool condition, std::string_view who, std::string_view requirement) {
  return condition ? absl::OkStatus() : InvalidArgument(std::string(who) + std::string(requirement));
}

absl::Status CheckMatrix(const Matrix& m, std::string_view name) {
  RETURN_IF_ERROR(Require(m.data != nullptr, name, " must be set"));
  RETURN_IF_ERROR(Require(m.rows > 0 && m.columns > 0, name, " must have rows and columns"));
  RETURN_IF_ERROR(Require(m.columns % Info(m.type).elements == 0, name, "'s columns must be whole blocks of its type"));
  if (m.layout == Layout::kRows) return absl::OkStatus();
  RETURN_IF_ERROR(Require(HasPanels(m.type), name, "'s type has no panels"));
  return Require(reinterpret_cast<uintptr_t>(m.data) % 64 == 0, name, " in panels must lie at a multiple of 64 bytes");
}

absl::Status CheckShape(const Matrix& m, int rows, int columns, std::string_view name) {
  RETURN_IF_ERROR(CheckMatrix(m, name));
  if (m.rows == rows && m.columns == columns) return absl::OkStatus();
  return InvalidArgument(std::string(name) + " must be (" + std::to_string(rows) + ", " + std::to_string(columns) +
                         "), is (" + std::to_string(m.rows) + ", " + std::to_string(m.columns) + ")");
}

absl::Status CheckArena(const KvArena& arena) {
  RETURN_IF_ERROR(Require(arena.blocks != nullptr, "blocks must be set"));
  RETURN_IF_ERROR(Require(arena.kv_heads > 0, "kv_heads must be positive"));
  RETURN_IF_ERROR(Require(arena.head_dim > 0 && arena.head_dim % 8 == 0 && arena.head_dim <= Attention::kHeadDimMax,
                          "head_dim must be a multiple of 8, at most 1024"));
  RETURN_IF_ERROR(Require(arena.block_bytes % 64 == 0, "block_bytes must be a multiple of 64"));
  return Require(arena.block_bytes >= KvArena::BlockBytes(arena.type, arena.kv_heads, arena.head_dim),
                 "block_bytes must fit a block");
}

}  // namespace

absl::Status Check(const Linear& op) {
  RETURN_IF_ERROR(CheckMatrix(op.w, "w"));
  const bool given = op.w.layout == Layout::kRows ? op.x != nullptr : op.q != nullptr;
  return Require(op.T >= 0 && (op.T == 0 || (given && op.y != nullptr)), "y must be set, and x, or q for panels");
}

absl::Status Check(const QuantizeRows& op) {
  RETURN_IF_ERROR(Require(op.T >= 0 && op.K > 0 && op.K % 32 == 0, "K must be a multiple of 32"));
  return Require(op.T == 0 || (op.x != nullptr && op.q != nullptr), "x and q must be set");
}

absl::Status Check(const Gather& op) {
  RETURN_IF_ERROR(CheckMatrix(op.table, "table"));
  RETURN_IF_ERROR(Require(op.T >= 0 && (op.T == 0 || (op.ids != nullptr && op.y != nullptr)), "ids, y must be set"));
  for (int t = 0; t < op.T; ++t) {
    if (op.ids[t] < 0 || op.ids[t] >= op.table.rows)
      return InvalidArgument("id " + std::to_string(op.ids[t]) + " of row " + std::to_string(t) + " must be in [0, " +
                             std::to_string(op.table.rows) + ")");
  }
  return absl::OkStatus();
}

absl::Status Check(const RmsNorm& op) {
  RETURN_IF_ERROR(Require(op.T >= 0 && op.D > 0, "D must be positive"));
  RETURN_IF_ERROR(Require(op.q == nullptr || op.D % 32 == 0, "D must be a multiple of 32 to be quantised"));
  RETURN_IF_ERROR(Require((op.add == nullptr) == (op.sum == nullptr), "add and sum go together"));
  return Require(op.weight != nullptr && (op.T == 0 || (op.x != nullptr && op.y != nullptr)),
                 "x, weight and y must be set");
}

absl::Status Check(const RopeTable& op) {
  RETURN_IF_ERROR(Require(op.head_dim > 0 && op.head_dim % 2 == 0, "head_dim must be even"));
  RETURN_IF_ERROR(Require(op.theta > 0, "theta must be positive"));
  return Require(op.T == 0 || (op.positions != nullptr && op.cos != nullptr && op.sin != nullptr),
                 "positions, cos and sin must be set");
}

absl::Status Check(const HeadNormRope& op) {
  RETURN_IF_ERROR(Require(op.heads > 0 && op.head_dim > 0 && op.head_dim % 2 == 0, "head_dim must be even"));
  return Require(op.weight != nullptr && (op.T == 0 || (op.cos != nullptr && op.sin != nullptr && op.x != nullptr)),
                 "weight, cos, sin and x must be set");
}

absl::Status Check(const ShortConv& op) {
  RETURN_IF_ERROR(Require(op.D > 0 && op.taps > 0, "D and taps must be positive"));
  RETURN_IF_ERROR(Require(op.taps <= ShortConv::kTapsMax, "taps must be at most 16"));
  RETURN_IF_ERROR(Require(op.ring >= op.taps, "ring must hold the taps"));
  RETURN_IF_ERROR(Require(op.kernel != nullptr, "kernel must be set"));
  int row = 0;
  for (const ConvPiece& piece : op.pieces) {
    RETURN_IF_ERROR(Require(piece.row == row && piece.tokens > 0, "pieces must cover the rows in order"));
    RETURN_IF_ERROR(Require(piece.position >= 0 && piece.columns != nullptr, "a piece must have a place and columns"));
    for (const ConvSave& save : piece.saves) {
      RETURN_IF_ERROR(Require(
          save.columns != nullptr && save.position > piece.position && save.position <= piece.position + piece.tokens,
          "a save must have columns and a place in its piece"));
    }
    row += piece.tokens;
  }
  RETURN_IF_ERROR(Require(row == op.T, "pieces must cover all rows"));
  return Require(op.T == 0 || (op.bcx != nullptr && op.y != nullptr), "bcx and y must be set");
}

absl::Status Check(const KvStore& op) {
  RETURN_IF_ERROR(CheckArena(op.arena));
  return Require(op.T == 0 || (op.k != nullptr && op.v != nullptr && op.rows != nullptr), "k, v, rows must be set");
}

absl::Status Check(const Attention& op) {
  RETURN_IF_ERROR(CheckArena(op.arena));
  RETURN_IF_ERROR(
      Require(op.kv_heads > 0 && op.heads > 0 && op.heads % op.kv_heads == 0, "heads must be a multiple of kv_heads"));
  RETURN_IF_ERROR(Require(op.kv_heads == op.arena.kv_heads && op.head_dim == op.arena.head_dim,
                          "kv_heads and head_dim must be the arena's"));
  return Require(op.T == 0 || (op.q != nullptr && op.rows != nullptr && op.y != nullptr), "q, rows, y must be set");
}

absl::Status Check(const SwiGlu& op) {
  return Require(op.n == 0 || (op.gate != nullptr && op.up != nullptr && op.y != nullptr), "gate, up, y must be set");
}

absl::Status Check(const ChooseExperts& op) {
  RETURN_IF_ERROR(Require(op.E > 0 && op.E <= ChooseExperts::kExpertsMax, "E must be in [1, 1024]"));
  RETURN_IF_ERROR(Require(op.K > 0 && op.K <= op.E, "K must be in [1, E]"));
  return Require(op.T == 0 || (op.logits != nullptr && op.experts != nullptr && op.weights != nullptr),
                 "logits, experts and weights must be set");
}

absl::Status Check(const WeightedSum& op) {
  RETURN_IF_ERROR(Require(op.D > 0 && op.K > 0, "D and K must be positive"));
  return Require(op.T == 0 || (op.rows != nullptr && op.row_of != nullptr && op.weights != nullptr && op.y != nullptr),
                 "rows, row_of, weights and y must be set");
}

absl::Status Check(const GroupedFfn& op) {
  int row = 0;
  for (const FfnGroup& group : op.groups) {
    RETURN_IF_ERROR(Require(group.begin == row && group.end > row, "groups must cover the rows in order"));
    RETURN_IF_ERROR(CheckShape(group.gate, op.F, op.D, "gate"));
    RETURN_IF_ERROR(CheckShape(group.up, op.F, op.D, "up"));
    RETURN_IF_ERROR(CheckShape(group.down, op.D, op.F, "down"));
    for (const Matrix* in : {&group.gate, &group.up}) {
      const bool given = in->layout == Layout::kRows ? op.x != nullptr : op.q != nullptr;
      RETURN_IF_ERROR(Require(given && op.y != nullptr, "y must be set, and x, or q for panels"));
    }
    row = group.end;
  }
  return Require(row == op.R, "groups must cover all rows");
}

}  // namespace braid
