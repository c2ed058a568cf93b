#include <cstring>
#include <utility>

#include "base/status.h"
#include "model/gguf_cursor.h"
#include "model/gguf_file.h"

// The half of GgufFile that answers questions about what Parse() found.

namespace braid {
namespace {

std::string Quoted(std::string_view name) { return "'" + std::string(name) + "'"; }

// The element at `index` of an array of integers of type T.
template <typename T>
bool DecodeInteger(const GgufArray& array, uint64_t index, int64_t* out) {
  T value;
  std::memcpy(&value, array.bytes.data() + index * sizeof(T), sizeof(T));
  *out = static_cast<int64_t>(value);
  return std::in_range<int64_t>(value);
}

bool DecodeInteger(const GgufArray& array, uint64_t index, int64_t* out) {
  switch (array.type) {
    case GgufType::kUint8:
      return DecodeInteger<uint8_t>(array, index, out);
    case GgufType::kInt8:
      return DecodeInteger<int8_t>(array, index, out);
    case GgufType::kUint16:
      return DecodeInteger<uint16_t>(array, index, out);
    case GgufType::kInt16:
      return DecodeInteger<int16_t>(array, index, out);
    case GgufType::kUint32:
      return DecodeInteger<uint32_t>(array, index, out);
    case GgufType::kInt32:
      return DecodeInteger<int32_t>(array, index, out);
    case GgufType::kUint64:
      return DecodeInteger<uint64_t>(array, index, out);
    case GgufType::kInt64:
      return DecodeInteger<int64_t>(array, index, out);
    default:
      return false;
  }
}

absl::Status WrongKind(std::string_view key, const char* wanted) {
  return InvalidArgument("key " + Quoted(key) + " is not " + wanted);
}

}  // namespace

const GgufValue* GgufFile::Find(std::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

absl::StatusOr<std::optional<int64_t>> GgufFile::Integer(std::string_view key, int64_t min, int64_t max) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  const int64_t* integer = std::get_if<int64_t>(value);
  if (integer == nullptr && !std::holds_alternative<uint64_t>(*value)) return WrongKind(key, "an integer");
  if (integer == nullptr || *integer < min || *integer > max)
    return InvalidArgument("key " + Quoted(key) + " is " + (integer ? std::to_string(*integer) : "above 2^63") +
                           ", must be in [" + std::to_string(min) + ", " + std::to_string(max) + "]");
  return *integer;
}

absl::StatusOr<std::optional<double>> GgufFile::Number(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (const double* number = std::get_if<double>(value)) return *number;
  if (const int64_t* integer = std::get_if<int64_t>(value)) return static_cast<double>(*integer);
  return WrongKind(key, "a number");
}

absl::StatusOr<std::optional<bool>> GgufFile::Bool(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (const bool* flag = std::get_if<bool>(value)) return *flag;
  return WrongKind(key, "a bool");
}

absl::StatusOr<std::optional<std::string_view>> GgufFile::String(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (const std::string_view* text = std::get_if<std::string_view>(value)) return *text;
  return WrongKind(key, "a string");
}

absl::StatusOr<const GgufArray*> GgufFile::FindArray(std::string_view key, uint64_t count_max) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return nullptr;
  const GgufArray* array = std::get_if<GgufArray>(value);
  if (array == nullptr) return WrongKind(key, "an array");
  if (array->count > count_max)
    return InvalidArgument("key " + Quoted(key) + " has " + std::to_string(array->count) + " elements, at most " +
                           std::to_string(count_max) + " make sense");
  return array;
}

absl::StatusOr<std::optional<std::vector<int64_t>>> GgufFile::Integers(std::string_view key, uint64_t count_max) const {
  ASSIGN_OR_RETURN(const GgufArray* array, FindArray(key, count_max));
  if (array == nullptr) return std::nullopt;
  std::vector<int64_t> integers(array->count);
  for (uint64_t i = 0; i < array->count; ++i)
    if (!DecodeInteger(*array, i, &integers[i])) return WrongKind(key, "an array of integers");
  return integers;
}

absl::StatusOr<std::optional<std::vector<std::string_view>>> GgufFile::Strings(std::string_view key,
                                                                               uint64_t count_max) const {
  ASSIGN_OR_RETURN(const GgufArray* array, FindArray(key, count_max));
  if (array == nullptr) return std::nullopt;
  if (array->type != GgufType::kString) return WrongKind(key, "an array of strings");
  std::vector<std::string_view> strings(array->count);
  GgufCursor cursor(array->bytes);
  for (std::string_view& string : strings) {
    ASSIGN_OR_RETURN(string, cursor.ReadString());
  }
  return strings;
}

}  // namespace braid
