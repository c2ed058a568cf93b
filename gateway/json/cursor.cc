#include "gateway/json/cursor.h"

#include <cmath>
#include <limits>
#include <utility>

namespace braid {
namespace {

constexpr size_t kQuotedBytesMax = 64;  // of a name we repeat to whoever sent it

// Cut at a character, so that the error stays valid UTF-8.
std::string_view Shortened(std::string_view name) {
  if (name.size() <= kQuotedBytesMax) return name;
  size_t end = kQuotedBytesMax;
  while (end > 0 && (name[end] & 0xC0) == 0x80) --end;
  return name.substr(0, end);
}

std::string_view TypeName(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    default:
      return "a number";
  }
}

}  // namespace

std::string JsonCursor::Path() const {
  if (parent_ == nullptr) return "";
  std::string path = parent_->Path();
  if (key_.empty() && parent_->value_.is_array()) return path + "[" + std::to_string(index_) + "]";
  if (!path.empty()) path += ".";
  return path + std::string(Shortened(key_));
}

bool JsonCursor::Read(std::string* out) const {
  if (!value_.is_string()) return WrongType("a string");
  *out = value_.get_ref<const std::string&>();
  return true;
}

bool JsonCursor::Read(bool* out) const {
  if (!value_.is_boolean()) return WrongType("a boolean");
  *out = value_.get<bool>();
  return true;
}

bool JsonCursor::Read(double* out) const {
  if (!value_.is_number()) return WrongType("a number");
  *out = value_.get<double>();
  return true;
}

bool JsonCursor::Read(int64_t* out) const {
  if (!value_.is_number()) return WrongType("an integer");
  if (value_.is_number_unsigned()) {
    if (value_.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return Fail("invalid_value", "is out of range");
  } else if (value_.is_number_float()) {
    constexpr double kExactMax = 9007199254740992.0;  // 2^53: beyond it a double no longer says which integer was meant
    const double v = value_.get<double>();
    if (v != std::floor(v)) return WrongType("an integer");
    if (std::abs(v) > kExactMax) return Fail("invalid_value", "is out of range");
  }
  *out = value_.get<int64_t>();
  return true;
}

bool JsonCursor::Only(std::initializer_list<Json> allowed) const {
  std::string list;
  for (const Json& one : allowed) {
    if (value_ == one) return true;
    list += (list.empty() ? "" : " or ") + one.dump();
  }
  return Fail("unsupported_value", "can only be " + list + " here; leave it out for the default");
}

bool JsonCursor::WrongType(std::string_view wanted) const {
  return Fail("invalid_type", "must be " + std::string(wanted) + ", not " + std::string(TypeName(value_)));
}

bool JsonCursor::Fail(std::string code, std::string_view what) const {
  const std::string path = Path();
  *error_ = ApiError{.code = std::move(code),
                     .param = path,
                     .message = (path.empty() ? "The request body" : "'" + path + "'") + " " + std::string(what) + "."};
  return false;
}

bool JsonCursor::FailMember(std::string_view key, std::string code, std::string_view what) const {
  return Member(key, value_).Fail(std::move(code), what);
}

bool JsonCursor::Unknown() const {
  return Fail("unknown_field", "is not a field this server knows, so it would have no effect");
}

}  // namespace braid
