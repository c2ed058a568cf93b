#include "kernels/kv_arena.h"

#include "kernels/half.h"

namespace braid {
namespace {

double Number(KvType type, const std::byte* numbers, int i) {
  if (type == KvType::kInt8) return reinterpret_cast<const int8_t*>(numbers)[i];
  return FloatFromBFloat16(reinterpret_cast<const uint16_t*>(numbers)[i]);
}

}  // namespace

std::string_view Name(KvType type) { return type == KvType::kInt8 ? "int8" : "bf16"; }

std::optional<KvType> KvTypeNamed(std::string_view name) {
  for (const KvType type : {KvType::kBFloat16, KvType::kInt8})
    if (Name(type) == name) return type;
  return std::nullopt;
}

double KvArena::Key(const KvRow& row, int position, int kv_head, int d) const {
  const int32_t block = row.blocks[position / kBlockTokens];
  const int j = position % kBlockTokens, P = kWordBytes / NumberBytes(type);
  const double number = Number(type, keys(block, kv_head), (d / P * kBlockTokens + j) * P + d % P);
  return type == KvType::kInt8 ? number * double{key_scales(block, kv_head)[j]} : number;
}

double KvArena::Value(const KvRow& row, int position, int kv_head, int d) const {
  const int32_t block = row.blocks[position / kBlockTokens];
  const int j = position % kBlockTokens, P = kWordBytes / NumberBytes(type);
  const double number = Number(type, values(block, kv_head), (j / P * RowDim(head_dim) + d) * P + j % P);
  return type == KvType::kInt8 ? number * double{value_scales(block, kv_head)[j]} : number;
}

}  // namespace braid
