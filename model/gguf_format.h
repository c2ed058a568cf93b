#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/dtype.h"

// The numbers of the GGUF container, for its reader and its writer. Source: the GGUF specification in ggml's docs.

namespace braid {

inline constexpr uint32_t kGgufMagic = 0x46554747;  // "GGUF" read as a little-endian number
inline constexpr uint32_t kGgufVersion = 3;
inline constexpr uint64_t kGgufAlignment = 32;  // unless general.alignment says otherwise

enum class GgufType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};
inline constexpr uint32_t kGgufTypes = 13;

// Meanings of tokenizer.ggml.token_type.
enum class GgufTokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

// The number of a tensor type in the file.
uint32_t GgmlTypeNumber(DType type);
std::optional<DType> DTypeFromGgmlNumber(uint32_t number);
// "IQ4_XS" or "unknown (77)"; knows ggml's types beyond those we compute with, for messages.
std::string GgmlTypeName(uint32_t number);

}  // namespace braid
