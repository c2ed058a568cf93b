#include "model/safetensors_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "base/checked.h"
#include "base/status.h"
#include "model/json_reader.h"

// Layout: a 64-bit length, a JSON header of that length, the data. The header maps each tensor's name to its dtype,
// shape and [begin, end) in the data; "__metadata__" maps strings to strings.

namespace braid {
namespace {

using nlohmann::json;

constexpr uint64_t kHeaderBytesMax = 100'000'000;
constexpr size_t kDimensionsMax = 8;

struct SafetensorsType {
  std::string_view name;
  uint64_t bytes;
};
constexpr std::array<SafetensorsType, 15> kTypes = {{{"F64", 8},
                                                     {"F32", 4},
                                                     {"F16", 2},
                                                     {"BF16", 2},
                                                     {"I64", 8},
                                                     {"I32", 4},
                                                     {"I16", 2},
                                                     {"I8", 1},
                                                     {"U64", 8},
                                                     {"U32", 4},
                                                     {"U16", 2},
                                                     {"U8", 1},
                                                     {"BOOL", 1},
                                                     {"F8_E4M3", 1},
                                                     {"F8_E5M2", 1}}};

absl::StatusOr<uint64_t> ElementBytes(const std::string& type) {
  for (const SafetensorsType& known : kTypes)
    if (known.name == type) return known.bytes;
  return InvalidArgument("has the unknown dtype '" + type + "'");
}

absl::StatusOr<uint64_t> Unsigned(const json& value, const char* what) {
  if (!value.is_number_unsigned()) return InvalidArgument(std::string("has a ") + what + " that is no whole number");
  return value.get<uint64_t>();
}

absl::Status ReadShape(const json& entry, StoredTensor* tensor, CheckedSize* bytes) {
  const json* shape = JsonMember(entry, "shape");
  if (shape == nullptr || !shape->is_array()) return InvalidArgument("has no shape");
  if (shape->size() > kDimensionsMax)
    return InvalidArgument("has " + std::to_string(shape->size()) + " dimensions, at most " +
                           std::to_string(kDimensionsMax) + " are supported");
  for (const json& dimension : *shape) {
    ASSIGN_OR_RETURN(const uint64_t length, Unsigned(dimension, "dimension"));
    if (length == 0 || !std::in_range<int64_t>(length))
      return InvalidArgument("has a dimension of length " + std::to_string(length));
    tensor->shape.push_back(static_cast<int64_t>(length));
    *bytes = *bytes * length;
  }
  return bytes->value() ? absl::OkStatus() : InvalidArgument("has a shape whose size overflows");
}

absl::StatusOr<std::pair<uint64_t, uint64_t>> ReadOffsets(const json& entry, uint64_t data_bytes) {
  const json* offsets = JsonMember(entry, "data_offsets");
  if (offsets == nullptr || !offsets->is_array() || offsets->size() != 2)
    return InvalidArgument("has no data_offsets of two entries");
  ASSIGN_OR_RETURN(const uint64_t begin, Unsigned((*offsets)[0], "data offset"));
  ASSIGN_OR_RETURN(const uint64_t end, Unsigned((*offsets)[1], "data offset"));
  if (begin > end || end > data_bytes)
    return InvalidArgument("has data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) +
                           "] in a file with " + std::to_string(data_bytes) + " bytes of data");
  return std::pair(begin, end);
}

absl::StatusOr<StoredTensor> ReadTensor(const std::string& name, const json& entry, std::span<const std::byte> data) {
  if (!entry.is_object() || entry.size() != 3)
    return InvalidArgument("must have dtype, shape and data_offsets, no more");
  StoredTensor tensor;
  tensor.name = name;
  ASSIGN_OR_RETURN(std::optional<std::string> type, JsonString(entry, "dtype"));
  if (!type) return InvalidArgument("has no dtype");
  ASSIGN_OR_RETURN(const uint64_t element_bytes, ElementBytes(*type));
  CheckedSize bytes(element_bytes);
  RETURN_IF_ERROR(ReadShape(entry, &tensor, &bytes));
  ASSIGN_OR_RETURN(const auto offsets, ReadOffsets(entry, data.size()));
  if (offsets.second - offsets.first != *bytes.value())
    return InvalidArgument("has " + std::to_string(offsets.second - offsets.first) +
                           " bytes of data, its shape needs " + std::to_string(*bytes.value()));
  tensor.dtype = DTypeFromName(*type);  // the float types have the same names there
  tensor.type = *std::move(type);
  tensor.data = data.subspan(offsets.first, *bytes.value());
  return tensor;
}

absl::Status CheckMetadata(const json& metadata) {
  if (!metadata.is_object()) return InvalidArgument("__metadata__ is not an object");
  for (const auto& [key, value] : metadata.items())
    if (!value.is_string()) return InvalidArgument("__metadata__ has '" + key + "', which is not a string");
  return absl::OkStatus();
}

// Sorts by position and demands that each tensor begins where the one before ends.
absl::Status CheckCover(std::span<const std::byte> data, std::vector<StoredTensor>* tensors) {
  std::sort(tensors->begin(), tensors->end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.data.data() < b.data.data(); });
  const std::byte* covered = data.data();
  for (const StoredTensor& tensor : *tensors) {
    if (tensor.data.data() != covered)
      return InvalidArgument("tensor '" + tensor.name + "' " +
                             (tensor.data.data() < covered ? "overlaps the one before" : "leaves a hole before it"));
    covered += tensor.data.size();
  }
  const ptrdiff_t left = data.data() + data.size() - covered;
  if (left == 0) return absl::OkStatus();
  return InvalidArgument("the last " + std::to_string(left) + " bytes belong to no tensor");
}

}  // namespace

absl::StatusOr<std::vector<StoredTensor>> ParseSafetensors(std::span<const std::byte> bytes) {
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes) return InvalidArgument("truncated: no header length");
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  const std::span<const std::byte> rest = bytes.subspan(sizeof header_bytes);
  if (header_bytes > kHeaderBytesMax || header_bytes > rest.size())
    return InvalidArgument("claims a header of " + std::to_string(header_bytes) + " bytes in a file of " +
                           std::to_string(bytes.size()));
  const std::string_view header(reinterpret_cast<const char*>(rest.data()), header_bytes);
  if (header.empty() || header.front() != '{') return InvalidArgument("the header does not begin with '{'");
  absl::StatusOr<json> entries = ParseJson(header);
  if (!entries.ok()) return Annotate(entries.status(), "header");
  const std::span<const std::byte> data = rest.subspan(header_bytes);
  std::vector<StoredTensor> tensors;
  for (const auto& [name, entry] : entries->items()) {
    if (name == "__metadata__") {
      RETURN_IF_ERROR(CheckMetadata(entry));
      continue;
    }
    absl::StatusOr<StoredTensor> tensor = ReadTensor(name, entry, data);
    if (!tensor.ok()) return Annotate(tensor.status(), "tensor '" + name + "'");
    tensors.push_back(*std::move(tensor));
  }
  RETURN_IF_ERROR(CheckCover(data, &tensors));
  return tensors;
}

}  // namespace braid
