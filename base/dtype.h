#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/checked.h"

// Element types of tensors, as stored in GGUF (ggml block formats, little endian) and safetensors files.

namespace braid {

enum class DType : uint8_t { kF32, kF16, kBF16, kQ4_0, kQ8_0, kQ4_K, kQ5_K, kQ6_K };

inline constexpr DType kAllDTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0,
                                       DType::kQ8_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// A block is the smallest addressable run of values: `elements` values in `bytes` bytes. Rows are whole blocks.
struct DTypeInfo {
  std::string_view name;
  int elements;
  int bytes;
};

constexpr DTypeInfo Info(DType type) {
  switch (type) {
    case DType::kF32:
      return {"F32", 1, 4};
    case DType::kF16:
      return {"F16", 1, 2};
    case DType::kBF16:
      return {"BF16", 1, 2};
    case DType::kQ4_0:
      return {"Q4_0", 32, 18};
    case DType::kQ8_0:
      return {"Q8_0", 32, 34};
    case DType::kQ4_K:
      return {"Q4_K", 256, 144};
    case DType::kQ5_K:
      return {"Q5_K", 256, 176};
    case DType::kQ6_K:
      return {"Q6_K", 256, 210};
  }
  return {"?", 1, 0};
}

constexpr std::string_view Name(DType type) { return Info(type).name; }

constexpr std::optional<DType> DTypeFromName(std::string_view name) {
  for (DType type : kAllDTypes)
    if (Name(type) == name) return type;
  return std::nullopt;
}

// Bytes of a row of `columns` values. REQUIRES: columns is a multiple of the type's block.
constexpr uint64_t RowBytes(DType type, uint64_t columns) {
  return columns / static_cast<uint64_t>(Info(type).elements) * static_cast<uint64_t>(Info(type).bytes);
}

}  // namespace braid
