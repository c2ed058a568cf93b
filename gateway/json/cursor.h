#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/api_error.h"
#include "gateway/json/reader.h"

namespace braid {

// A value inside a request and the way to it, so that an error can name "messages[2].content[0].text". Every reading
// function returns false after it has set the error; the first error ends the reading. Cursors live on the stack: a
// child must not outlive its parent.
class JsonCursor {
 public:
  JsonCursor(const Json& root, std::optional<ApiError>* error) : value_(root), error_(error) {}
  JsonCursor Member(std::string_view key, const Json& value) const { return {value, this, key, 0}; }
  JsonCursor Element(size_t index) const { return {value_[index], this, {}, index}; }

  const Json& value() const { return value_; }
  std::string Path() const;

  bool Read(std::string* out) const;
  bool Read(bool* out) const;
  bool Read(double* out) const;
  bool Read(int64_t* out) const;  // also takes 3.0, as JSON Schema does
  template <typename T>
  bool Read(std::optional<T>* out) const {
    return Read(&out->emplace());
  }
  template <typename T>
  bool Read(std::vector<T>* out) const {
    return EachElement([out](const JsonCursor& element) { return element.Read(&out->emplace_back()); });
  }

  // A field whose other values would ask for something this server does not do.
  bool Only(std::initializer_list<Json> allowed) const;
  bool IsObject() const { return value_.is_object() || WrongType("an object"); }
  bool IsArray() const { return value_.is_array() || WrongType("an array"); }

  template <typename F>  // bool(const JsonCursor&)
  bool EachElement(F&& read) const {
    if (!IsArray()) return false;
    for (size_t i = 0; i < value_.size(); ++i) {
      if (!read(Element(i))) return false;
    }
    return true;
  }

  bool WrongType(std::string_view wanted) const;
  // `what` follows the path: "must be positive". Always false.
  bool Fail(std::string code, std::string_view what) const;
  bool FailMember(std::string_view key, std::string code, std::string_view what) const;  // of this object, or not there
  bool Missing(std::string_view key) const { return FailMember(key, "missing_field", "is required"); }
  bool Unknown() const;

 private:
  JsonCursor(const Json& value, const JsonCursor* parent, std::string_view key, size_t index)
      : value_(value), parent_(parent), key_(key), index_(index), error_(parent->error_) {}

  const Json& value_;
  const JsonCursor* parent_ = nullptr;
  std::string_view key_;  // empty: an element, at index_
  size_t index_ = 0;
  std::optional<ApiError>* error_;
};

// What may stand in an object, as a table: a name and how to read it into T.
template <typename T>
struct JsonField {
  std::string_view name;
  bool (*read)(const JsonCursor& value, T* out);
};
enum class FieldResult { kRead, kFailed, kNotHere };

template <typename T>
FieldResult ReadField(std::span<const JsonField<T>> fields, std::string_view name, const JsonCursor& value, T* out) {
  for (const JsonField<T>& field : fields) {
    // A null is a field left out: SDKs send their unset options so.
    if (field.name == name)
      return value.value().is_null() || field.read(value, out) ? FieldResult::kRead : FieldResult::kFailed;
  }
  return FieldResult::kNotHere;
}

// Calls `read(name, value)` -> FieldResult for every member; kNotHere refuses the member by name.
template <typename F>
bool ReadMembers(const JsonCursor& object, F&& read) {
  if (!object.IsObject()) return false;
  for (const auto& [name, json] : object.value().get_ref<const Json::object_t&>()) {
    const JsonCursor value = object.Member(name, json);
    const FieldResult result = read(std::string_view(name), value);
    if (result == FieldResult::kNotHere) return value.Unknown();
    if (result == FieldResult::kFailed) return false;
  }
  return true;
}

template <typename T>
bool ReadObject(const JsonCursor& object, std::span<const JsonField<T>> fields, T* out) {
  return ReadMembers(
      object, [&](std::string_view name, const JsonCursor& value) { return ReadField(fields, name, value, out); });
}

}  // namespace braid
