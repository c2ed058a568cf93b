#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace braid {

// How keys and values are kept. Attention reads them as what they are; all arithmetic is float32.
//   bfloat16  rounded to 8 bits of mantissa
//   int8      rounded to 127 steps either way of the largest of a position's key (or value) in a head: half the memory
//             and half the reading, at some distance from what the model was trained with
enum class KvType { kBFloat16, kInt8 };
std::string_view Name(KvType type);  // bf16, int8
std::optional<KvType> KvTypeNamed(std::string_view name);

// Where a sequence's keys and values lie and which row is its what: `blocks` are indices into the arena.
struct KvRow {
  const int32_t* blocks = nullptr;  // block i holds positions [i * kBlockTokens, (i + 1) * kBlockTokens)
  int position = 0;
};

// One layer of a KV arena, laid out as attention reads it, 64 bytes at a time: words of four bytes, which are two
// numbers of bfloat16 or four of int8 (P). A block has its key heads one behind the other, each of them
//
//   keys          (row_dim / P, kBlockTokens, P)  a word has P dimensions of one position
//   values        (kBlockTokens / P, row_dim, P)  a word has one dimension of P positions
//   key scales    (kBlockTokens) float32          of int8: a number of a key is its int8 times the key's scale
//   value scales  (kBlockTokens) float32
//
// What is stored for a position depends on its key and value alone.
struct KvArena {
  std::byte* blocks = nullptr;  // block 0, at a multiple of 64 bytes
  int64_t block_bytes = 0;      // from a block to the next, a multiple of 64
  int kv_heads = 0, head_dim = 0;
  KvType type = KvType::kBFloat16;

  // Also the least piece of context that attention looks at.
  static constexpr int kBlockTokens = 32;

  // head_dim, rounded up to what is read at once. The rest is never written and its results are never used.
  static constexpr int RowDim(int head_dim) { return (head_dim + 15) / 16 * 16; }
  // Keys, or values, of a head of a block.
  static constexpr int64_t HeadNumbers(int head_dim) { return int64_t{kBlockTokens} * RowDim(head_dim); }
  static constexpr int kWordBytes = 4;
  static constexpr int NumberBytes(KvType type) { return type == KvType::kInt8 ? 1 : 2; }
  static constexpr int64_t HeadBytes(KvType type, int head_dim) {
    const int64_t scales = type == KvType::kInt8 ? 2 * kBlockTokens * int64_t{sizeof(float)} : 0;
    return 2 * HeadNumbers(head_dim) * NumberBytes(type) + scales;
  }
  static constexpr int64_t BlockBytes(KvType type, int kv_heads, int head_dim) {
    return kv_heads * HeadBytes(type, head_dim);
  }

  // Of a head of a block.
  std::byte* keys(int32_t block, int kv_head) const {
    return blocks + block * block_bytes + kv_head * HeadBytes(type, head_dim);
  }
  std::byte* values(int32_t block, int kv_head) const {
    return keys(block, kv_head) + HeadNumbers(head_dim) * NumberBytes(type);
  }
  float* key_scales(int32_t block, int kv_head) const {  // of int8
    return reinterpret_cast<float*>(keys(block, kv_head) + 2 * HeadNumbers(head_dim));
  }
  float* value_scales(int32_t block, int kv_head) const { return key_scales(block, kv_head) + kBlockTokens; }

  // One number of what is stored, exact, however long it takes.
  double Key(const KvRow& row, int position, int kv_head, int d) const;
  double Value(const KvRow& row, int position, int kv_head, int d) const;
};

}  // namespace braid
