#include "model/gguf_file.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/checked.h"
#include "base/status.h"
#include "model/gguf_cursor.h"

// Layout: magic, version, tensor count, key count; keys with their values; tensor infos (name, dimensions with the
// contiguous one first, type, offset); padding; the data section that the offsets count from. A string is a 64-bit
// length and its bytes; an array is an element type, a 64-bit count and the elements.

namespace braid {
namespace {

constexpr uint64_t kKeysMax = 1 << 16;
constexpr uint64_t kTensorsMax = 1 << 20;
constexpr uint64_t kNameBytesMax = 65535;
constexpr uint64_t kAlignmentMax = 1 << 20;
constexpr int64_t kVersionMax = 1 << 30;
constexpr uint32_t kDimensionsMax = 4;
// The least a key and a tensor info take: counts above remaining bytes / this are lies, found before any allocation.
constexpr uint64_t kKeyBytesMin = 8 + 1 + 4 + 1;
constexpr uint64_t kTensorBytesMin = 8 + 1 + 4 + 8 + 4 + 8;

std::string Quoted(std::string_view name) { return "'" + std::string(name) + "'"; }

// Zero for strings and arrays, whose size varies.
constexpr uint64_t ScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

absl::StatusOr<GgufType> ReadType(GgufCursor& cursor) {
  ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>());
  if (type >= kGgufTypes) return InvalidArgument("unknown value type " + std::to_string(type));
  return static_cast<GgufType>(type);
}

template <typename T>
absl::StatusOr<GgufValue> ReadInteger(GgufCursor& cursor) {
  ASSIGN_OR_RETURN(const T value, cursor.Read<T>());
  if (std::in_range<int64_t>(value)) return GgufValue(static_cast<int64_t>(value));
  return GgufValue(static_cast<uint64_t>(value));
}

absl::StatusOr<GgufValue> ReadBool(GgufCursor& cursor) {
  ASSIGN_OR_RETURN(const uint8_t value, cursor.Read<uint8_t>());
  if (value > 1) return InvalidArgument("a bool of value " + std::to_string(value));
  return GgufValue(value == 1);
}

absl::StatusOr<GgufValue> ReadArray(GgufCursor& cursor) {
  ASSIGN_OR_RETURN(const GgufType type, ReadType(cursor));
  if (type == GgufType::kArray) return InvalidArgument("arrays of arrays are not supported");
  ASSIGN_OR_RETURN(const uint64_t count, cursor.Read<uint64_t>());
  GgufArray array{type, count, {}};
  if (type != GgufType::kString) {
    const CheckedSize bytes = CheckedSize(count) * ScalarBytes(type);
    if (!bytes.AtMost(cursor.remaining()))
      return InvalidArgument("truncated: an array of " + std::to_string(count) + " elements in the last " +
                             std::to_string(cursor.remaining()) + " bytes of the file");
    ASSIGN_OR_RETURN(array.bytes, cursor.Take(*bytes.value()));
    return GgufValue(array);
  }
  GgufCursor strings = cursor;  // walks ahead to find the end; a wrong count runs into the end of the file
  for (uint64_t i = 0; i < count; ++i) RETURN_IF_ERROR(strings.ReadString().status());
  ASSIGN_OR_RETURN(array.bytes, cursor.Take(strings.position() - cursor.position()));
  return GgufValue(array);
}

absl::StatusOr<GgufValue> ReadValue(GgufCursor& cursor, GgufType type) {
  switch (type) {
    case GgufType::kUint8:
      return ReadInteger<uint8_t>(cursor);
    case GgufType::kInt8:
      return ReadInteger<int8_t>(cursor);
    case GgufType::kUint16:
      return ReadInteger<uint16_t>(cursor);
    case GgufType::kInt16:
      return ReadInteger<int16_t>(cursor);
    case GgufType::kUint32:
      return ReadInteger<uint32_t>(cursor);
    case GgufType::kInt32:
      return ReadInteger<int32_t>(cursor);
    case GgufType::kUint64:
      return ReadInteger<uint64_t>(cursor);
    case GgufType::kInt64:
      return ReadInteger<int64_t>(cursor);
    case GgufType::kBool:
      return ReadBool(cursor);
    case GgufType::kArray:
      return ReadArray(cursor);
    case GgufType::kFloat32: {
      ASSIGN_OR_RETURN(const float value, cursor.Read<float>());
      return GgufValue(static_cast<double>(value));
    }
    case GgufType::kFloat64: {
      ASSIGN_OR_RETURN(const double value, cursor.Read<double>());
      return GgufValue(value);
    }
    case GgufType::kString: {
      ASSIGN_OR_RETURN(const std::string_view value, cursor.ReadString());
      return GgufValue(value);
    }
  }
  return InvalidArgument("unknown value type");
}

absl::StatusOr<std::string> ReadName(GgufCursor& cursor) {
  ASSIGN_OR_RETURN(const std::string_view name, cursor.ReadString());
  if (name.empty()) return InvalidArgument("an empty name at byte " + std::to_string(cursor.position()));
  if (name.size() > kNameBytesMax) return InvalidArgument("a name of " + std::to_string(name.size()) + " bytes");
  return std::string(name);
}

absl::StatusOr<std::map<std::string, GgufValue, std::less<>>> ReadMetadata(GgufCursor& cursor, uint64_t count) {
  std::map<std::string, GgufValue, std::less<>> metadata;
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(std::string key, ReadName(cursor));
    absl::StatusOr<GgufType> type = ReadType(cursor);
    if (!type.ok()) return Annotate(type.status(), "key " + Quoted(key));
    absl::StatusOr<GgufValue> value = ReadValue(cursor, *type);
    if (!value.ok()) return Annotate(value.status(), "key " + Quoted(key));
    if (!metadata.emplace(key, *value).second) return InvalidArgument("key " + Quoted(key) + " appears twice");
  }
  return metadata;
}

// Where a tensor lies in the data section; its span is set once that section is known.
struct Extent {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

absl::StatusOr<std::vector<int64_t>> ReadShape(GgufCursor& cursor) {
  ASSIGN_OR_RETURN(const uint32_t dimensions, cursor.Read<uint32_t>());
  if (dimensions < 1 || dimensions > kDimensionsMax)
    return InvalidArgument("has " + std::to_string(dimensions) + " dimensions, must have 1 to " +
                           std::to_string(kDimensionsMax));
  std::vector<int64_t> shape(dimensions);
  for (uint32_t i = 0; i < dimensions; ++i) {
    ASSIGN_OR_RETURN(const uint64_t length, cursor.Read<uint64_t>());
    if (length == 0 || !std::in_range<int64_t>(length))
      return InvalidArgument("has a dimension of length " + std::to_string(length));
    shape[dimensions - 1 - i] = static_cast<int64_t>(length);  // the file has the contiguous dimension first
  }
  return shape;
}

absl::StatusOr<uint64_t> TensorBytes(const std::vector<int64_t>& shape, DType type, Layout layout) {
  const DTypeInfo info = Info(type);
  if (shape.back() % info.elements != 0)
    return InvalidArgument("has rows of " + std::to_string(shape.back()) + " values, not a multiple of the " +
                           std::to_string(info.elements) + " of a " + std::string(info.name) + " block");
  CheckedSize bytes(0);
  size_t outer = shape.size() - 1;  // dimensions that repeat what `bytes` has
  const CheckedSize blocks(static_cast<uint64_t>(shape.back() / info.elements));
  if (layout == Layout::kRows) {
    bytes = blocks * static_cast<uint64_t>(info.bytes);
  } else {
    if (outer == 0) return InvalidArgument("is in panels, but no matrix");
    --outer;
    bytes = blocks * PanelGroupOf(type).bytes() * PanelsOf(static_cast<uint64_t>(shape[outer]));
  }
  for (size_t i = 0; i < outer; ++i) bytes = bytes * static_cast<uint64_t>(shape[i]);
  if (!bytes.value()) return InvalidArgument("has a shape whose size overflows");
  return *bytes.value();
}

// Of a file in layout `version`, 0 if it has none.
absl::Status ReadTensorInfo(GgufCursor& cursor, uint64_t alignment, int64_t version, StoredTensor* tensor,
                            Extent* extent) {
  ASSIGN_OR_RETURN(tensor->shape, ReadShape(cursor));
  ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>());
  ASSIGN_OR_RETURN(extent->offset, cursor.Read<uint64_t>());
  tensor->type = GgmlTypeName(type);
  const std::optional<StoredType> stored = TypeFromGgmlNumber(type);
  if (!stored)
    return InvalidArgument("is of type " + tensor->type +
                           ", which is not supported (F32, F16, BF16, Q4_0, Q8_0, Q4_K, Q5_K, Q6_K are)");
  tensor->dtype = stored->dtype;
  tensor->layout = stored->layout;
  if (stored->layout == Layout::kPanels && (version == 0 || alignment % kPanelAlignment != 0))
    return InvalidArgument("is " + tensor->type + " in a file without key '" + std::string(kLayoutVersionKey) +
                           "' or aligned to less than " + std::to_string(kPanelAlignment) + " bytes");
  if (extent->offset % alignment != 0)
    return InvalidArgument("starts at offset " + std::to_string(extent->offset) + ", not a multiple of the alignment " +
                           std::to_string(alignment));
  ASSIGN_OR_RETURN(extent->bytes, TensorBytes(tensor->shape, stored->dtype, stored->layout));
  return absl::OkStatus();
}

absl::Status CheckNoOverlap(const std::vector<StoredTensor>& tensors, const std::vector<Extent>& extents) {
  std::vector<size_t> order(extents.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return extents[a].offset < extents[b].offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    const Extent& before = extents[order[i - 1]];
    if (before.offset + before.bytes > extents[order[i]].offset)
      return InvalidArgument("tensors " + Quoted(tensors[order[i - 1]].name) + " and " +
                             Quoted(tensors[order[i]].name) + " overlap");
  }
  return absl::OkStatus();
}

absl::Status CheckNamesDistinct(const std::vector<StoredTensor>& tensors) {
  std::vector<std::string_view> names;
  for (const StoredTensor& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return absl::OkStatus();
  return InvalidArgument("tensor " + Quoted(*twice) + " appears twice");
}

absl::StatusOr<std::vector<StoredTensor>> ReadTensors(std::span<const std::byte> file, GgufCursor cursor,
                                                      uint64_t count, uint64_t alignment, int64_t version) {
  std::vector<StoredTensor> tensors(count);
  std::vector<Extent> extents(count);
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(tensors[i].name, ReadName(cursor));
    const absl::Status status = ReadTensorInfo(cursor, alignment, version, &tensors[i], &extents[i]);
    if (!status.ok()) return Annotate(status, "tensor " + Quoted(tensors[i].name));
  }
  RETURN_IF_ERROR(CheckNamesDistinct(tensors));
  if (count == 0) return tensors;
  const uint64_t data_start = *CheckedSize(cursor.position()).AlignUp(alignment).value();
  for (uint64_t i = 0; i < count; ++i) {
    const CheckedSize end = CheckedSize(data_start) + extents[i].offset + extents[i].bytes;
    if (!end.AtMost(file.size()))
      return InvalidArgument("tensor " + Quoted(tensors[i].name) + " reaches past the end of the file: offset " +
                             std::to_string(extents[i].offset) + ", " + std::to_string(extents[i].bytes) + " bytes");
    tensors[i].data = file.subspan(data_start + extents[i].offset, extents[i].bytes);
  }
  RETURN_IF_ERROR(CheckNoOverlap(tensors, extents));
  return tensors;
}

absl::Status ReadMagic(GgufCursor& cursor) {
  ASSIGN_OR_RETURN(const uint32_t magic, cursor.Read<uint32_t>());
  if (magic != kGgufMagic) return InvalidArgument("not a GGUF file: it does not begin with 'GGUF'");
  ASSIGN_OR_RETURN(const uint32_t version, cursor.Read<uint32_t>());
  if (version == 2 || version == 3) return absl::OkStatus();
  if (version != 0 && (version & 0xffff) == 0)
    return InvalidArgument("a big-endian GGUF file; convert it to little endian");
  return InvalidArgument("GGUF version " + std::to_string(version) + " is not supported (2 and 3 are)");
}

// Another version may draw panels in another way, and even hostile bytes must be read in the way that they are checked.
absl::Status CheckLayoutVersion(int64_t version) {
  if (version == 0 || version == kLayoutVersion) return absl::OkStatus();
  return InvalidArgument("is packed in layout version " + std::to_string(version) + ", this program reads version " +
                         std::to_string(kLayoutVersion) +
                         "; pack the model again: braid convert SRC DST --format packed");
}

absl::StatusOr<uint64_t> ReadCount(GgufCursor& cursor, const char* what, uint64_t max, uint64_t bytes_min) {
  ASSIGN_OR_RETURN(const uint64_t count, cursor.Read<uint64_t>());
  if (count > max || count > cursor.remaining() / bytes_min)
    return InvalidArgument("claims " + std::to_string(count) + " " + what + ", more than the file can hold");
  return count;
}

}  // namespace

absl::StatusOr<GgufFile> GgufFile::Parse(std::span<const std::byte> bytes) {
  GgufCursor cursor(bytes);
  RETURN_IF_ERROR(ReadMagic(cursor));
  ASSIGN_OR_RETURN(const uint64_t tensors, ReadCount(cursor, "tensors", kTensorsMax, kTensorBytesMin));
  ASSIGN_OR_RETURN(const uint64_t keys, ReadCount(cursor, "keys", kKeysMax, kKeyBytesMin));
  GgufFile file;
  ASSIGN_OR_RETURN(file.metadata_, ReadMetadata(cursor, keys));
  ASSIGN_OR_RETURN(const std::optional<int64_t> alignment, file.Integer("general.alignment", 1, kAlignmentMax));
  const uint64_t align = alignment ? static_cast<uint64_t>(*alignment) : kGgufAlignment;
  if (!std::has_single_bit(align))
    return InvalidArgument("key 'general.alignment' is " + std::to_string(align) + ", not a power of two");
  ASSIGN_OR_RETURN(const std::optional<int64_t> version, file.Integer(kLayoutVersionKey, 1, kVersionMax));
  RETURN_IF_ERROR(CheckLayoutVersion(version.value_or(0)));
  ASSIGN_OR_RETURN(file.tensors_, ReadTensors(bytes, cursor, tensors, align, version.value_or(0)));
  return file;
}

}  // namespace braid
