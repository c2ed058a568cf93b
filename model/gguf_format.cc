#include "model/gguf_format.h"

#include <array>
#include <string_view>

namespace braid {
namespace {

// By number; the gaps are types that ggml has removed.
constexpr std::array<std::string_view, 41> kNames = {
    "F32",   "F16",    "Q4_0",  "Q4_1", "",     "",        "Q5_0",   "Q5_1",    "Q8_0",  "Q8_1",   "Q2_K",
    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
    "IQ2_S", "IQ4_XS", "I8",    "I16",  "I32",  "I64",     "F64",    "IQ1_M",   "BF16",  "",       "",
    "",      "TQ1_0",  "TQ2_0", "",     "",     "",        "MXFP4",  "NVFP4"};

uint32_t RowTypeNumber(DType type) {
  switch (type) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ8_0:
      return 8;
    case DType::kQ4_K:
      return 12;
    case DType::kQ5_K:
      return 13;
    case DType::kQ6_K:
      return 14;
    case DType::kBF16:
      return 30;
  }
  return 0;
}

}  // namespace

uint32_t GgmlTypeNumber(DType type, Layout layout) {
  return RowTypeNumber(type) | (layout == Layout::kPanels ? kPanelTypes : 0);
}

std::optional<StoredType> TypeFromGgmlNumber(uint32_t number) {
  for (const DType type : kAllDTypes) {
    if (GgmlTypeNumber(type) == number) return StoredType{type, Layout::kRows};
    if (HasPanels(type) && GgmlTypeNumber(type, Layout::kPanels) == number) return StoredType{type, Layout::kPanels};
  }
  return std::nullopt;
}

std::string GgmlTypeName(uint32_t number) {
  if (number >> 16 == kPanelTypes >> 16) return GgmlTypeName(number ^ kPanelTypes) + " in panels";
  if (number < kNames.size() && !kNames[number].empty()) return std::string(kNames[number]);
  return "unknown (" + std::to_string(number) + ")";
}

}  // namespace braid
