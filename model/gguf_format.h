#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/dtype.h"
#include "base/panels.h"

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

// A packed file is a GGUF whose matrices lie in panels (base/panels.h), so that serving it is a map. Such a tensor has
// a type number of our own, which other readers refuse: "BR" above ggml's number of the type. Its last two dimensions
// are a matrix; each is packed on its own. Tensors lie at multiples of a page.
inline constexpr uint32_t kPanelTypes = 0x42520000;
inline constexpr uint64_t kPackedAlignment = 4096;
// Which drawing of panels the file follows.
inline constexpr std::string_view kLayoutVersionKey = "braid.layout.version";
inline constexpr uint32_t kLayoutVersion = 1;
// What the file must come to, in hex digits: ModelFile::digest(), and SHA-256 of each tensor's data in the file's
// order.
inline constexpr std::string_view kDigestKey = "braid.digest";
inline constexpr std::string_view kTensorHashesKey = "braid.tensors.sha256";
inline constexpr size_t kHashDigits = 64;

// The number of a tensor type in the file.
struct StoredType {
  DType dtype;
  Layout layout;
};
uint32_t GgmlTypeNumber(DType type, Layout layout = Layout::kRows);
std::optional<StoredType> TypeFromGgmlNumber(uint32_t number);
// "IQ4_XS", "Q4_0 in panels" or "unknown (77)"; knows ggml's types beyond those we compute with, for messages.
std::string GgmlTypeName(uint32_t number);

}  // namespace braid
