#include "gateway/json/reader.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"

namespace braid {
namespace {

// Builds the value from the parser's events. nlohmann's own builder accepts any depth and lets a later key win over an
// earlier one, and ordered_json's insertion searches linearly: quadratic for an object of a million keys.
class Builder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return Put(nullptr); }
  bool boolean(bool v) override { return Put(v); }
  bool number_integer(number_integer_t v) override { return Put(v); }
  bool number_unsigned(number_unsigned_t v) override { return Put(v); }
  bool number_float(number_float_t v, const string_t&) override { return Put(v); }
  bool string(string_t& v) override { return Put(std::move(v)); }
  bool binary(binary_t&) override { return Fail("holds a binary value"); }  // never in text
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& v) override {
    if (!open_.back().keys.insert(v).second) return Fail("has the same key twice in one object");
    key_ = std::move(v);
    return Count();
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& e) override {
    position_ = position;
    constexpr int kNumberOverflow = 406;
    return Fail(e.id == kNumberOverflow ? "holds a number that is too large" : "is not valid JSON");
  }

  Json TakeRoot() { return std::move(root_); }
  const std::string& problem() const { return problem_; }
  std::optional<size_t> position() const { return position_; }

 private:
  struct Container {
    Json* node;
    absl::flat_hash_set<std::string> keys;  // of an object, so far
  };

  bool Put(Json value) { return Count() && Place(std::move(value)) != nullptr; }

  // Pointers into containers stay valid: only the innermost open one grows.
  Json* Place(Json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    Json& parent = *open_.back().node;
    if (parent.is_array()) return &parent.get_ref<Json::array_t&>().emplace_back(std::move(value));
    auto& members = parent.get_ref<Json::object_t&>();
    return &members.emplace_back(std::move(key_), std::move(value)).second;
  }

  bool Open(Json container) {
    if (open_.size() >= kJsonDepthMax)
      return Fail("is nested deeper than " + std::to_string(kJsonDepthMax) + " levels");
    if (!Count()) return false;
    open_.push_back({Place(std::move(container)), {}});
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  bool Count() {
    return ++values_ <= kJsonValuesMax || Fail("holds more than " + std::to_string(kJsonValuesMax) + " values");
  }

  bool Fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  Json root_;
  std::vector<Container> open_;
  std::string key_;
  size_t values_ = 0;
  std::string problem_;
  std::optional<size_t> position_;  // bytes read when the parser gave up
};

std::string LineAndColumn(std::string_view text, size_t bytes_read) {
  const std::string_view before = text.substr(0, bytes_read == 0 ? 0 : std::min(bytes_read - 1, text.size()));
  const size_t line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t column = before.size() - (before.rfind('\n') + 1) + 1;  // npos + 1 is 0
  return " at line " + std::to_string(line) + ", byte " + std::to_string(column);
}

ApiError NotJson(const std::string& problem) {
  return {.code = "invalid_json", .message = "The request body " + problem + "."};
}

}  // namespace

std::variant<ApiError, Json> ReadJson(std::string_view text) {
  if (text.empty()) return NotJson("is empty; a JSON object was expected");
  if (text.starts_with("\xEF\xBB\xBF")) return NotJson("starts with a byte order mark; send plain UTF-8");
  // The parser takes a raw NUL for the end of the text and would ignore what follows.
  if (const size_t nul = text.find('\0'); nul != text.npos)
    return NotJson("holds a NUL byte" + LineAndColumn(text, nul + 1));

  Builder builder;
  if (Json::sax_parse(text.begin(), text.end(), &builder)) return builder.TakeRoot();
  const auto position = builder.position();
  return NotJson(builder.problem() + (position ? LineAndColumn(text, *position) : ""));
}

}  // namespace braid
