#include "model/json_reader.h"

#include <utility>

#include "base/status.h"

namespace braid {
namespace {

using nlohmann::json;

// Builds the document from the parser's events. The stack points at the open containers; a parent does not change while
// a child is open, so the pointers stay valid.
class StrictBuilder : public nlohmann::json_sax<json> {
 public:
  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Refuse("holds binary data"); }
  bool start_object(size_t) override { return Open(json::object()); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& value) override {
    key_ = std::move(value);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Refuse("is not valid JSON at byte " + std::to_string(position));
  }

  absl::Status status() const { return status_; }
  json Take() { return std::move(root_); }

 private:
  bool Refuse(const std::string& why) {
    if (status_.ok()) status_ = InvalidArgument(why);
    return false;
  }

  json* Place(json&& value) {
    if (++values_ > kJsonValuesMax) {
      Refuse("holds more than " + std::to_string(kJsonValuesMax) + " values");
      return nullptr;
    }
    if (stack_.empty()) return &(root_ = std::move(value));
    if (stack_.back()->is_array()) return &stack_.back()->emplace_back(std::move(value));
    const auto [member, fresh] = stack_.back()->emplace(key_, std::move(value));
    if (!fresh) Refuse("has the key '" + key_ + "' twice");
    return fresh ? &*member : nullptr;
  }

  bool Add(json value) { return Place(std::move(value)) != nullptr; }

  bool Open(json container) {
    if (stack_.size() >= kJsonDepthMax) return Refuse("is nested deeper than " + std::to_string(kJsonDepthMax));
    json* placed = Place(std::move(container));
    if (placed != nullptr) stack_.push_back(placed);
    return placed != nullptr;
  }

  bool Close() {
    stack_.pop_back();
    return true;
  }

  json root_;
  std::vector<json*> stack_;
  std::string key_;
  int64_t values_ = 0;
  absl::Status status_;
};

absl::Status WrongKind(const char* key, const char* wanted) {
  return InvalidArgument("'" + std::string(key) + "' is not " + wanted);
}

}  // namespace

absl::StatusOr<json> ParseJson(std::string_view text) {
  StrictBuilder builder;
  const bool parsed = json::sax_parse(text.begin(), text.end(), &builder);
  RETURN_IF_ERROR(builder.status());
  if (!parsed) return InvalidArgument("is not valid JSON");
  return builder.Take();
}

const json* JsonMember(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

absl::StatusOr<const json*> JsonObject(const json& object, const char* key) {
  const json* member = JsonMember(object, key);
  if (member != nullptr && !member->is_object()) return WrongKind(key, "an object");
  return member;
}

absl::StatusOr<std::optional<int64_t>> JsonInteger(const json& object, const char* key, int64_t min, int64_t max) {
  const json* member = JsonMember(object, key);
  if (member == nullptr) return std::nullopt;
  if (!member->is_number_integer()) return WrongKind(key, "an integer");
  const bool huge = member->is_number_unsigned() && !std::in_range<int64_t>(member->get<uint64_t>());
  const int64_t value = huge ? 0 : member->get<int64_t>();
  if (huge || value < min || value > max)
    return InvalidArgument("'" + std::string(key) + "' is " + member->dump() + ", must be in [" + std::to_string(min) +
                           ", " + std::to_string(max) + "]");
  return value;
}

absl::StatusOr<std::optional<double>> JsonNumber(const json& object, const char* key) {
  const json* member = JsonMember(object, key);
  if (member == nullptr) return std::nullopt;
  if (!member->is_number()) return WrongKind(key, "a number");
  return member->get<double>();
}

absl::StatusOr<std::optional<bool>> JsonBool(const json& object, const char* key) {
  const json* member = JsonMember(object, key);
  if (member == nullptr) return std::nullopt;
  if (!member->is_boolean()) return WrongKind(key, "true or false");
  return member->get<bool>();
}

absl::StatusOr<std::optional<std::string>> JsonString(const json& object, const char* key) {
  const json* member = JsonMember(object, key);
  if (member == nullptr) return std::nullopt;
  if (!member->is_string()) return WrongKind(key, "a string");
  return member->get<std::string>();
}

}  // namespace braid
