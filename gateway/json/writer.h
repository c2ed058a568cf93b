#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace braid {

// Appends JSON text, compact and in the order of the calls. The caller keeps Begin and End, Key and value in step.
// Any bytes may be given as a string: what is not UTF-8 becomes U+FFFD, so that the text always parses.
class JsonWriter {
 public:
  explicit JsonWriter(std::string* out) : out_(*out) {}

  JsonWriter& BeginObject() { return Open('{'); }
  JsonWriter& EndObject() { return Close('}'); }
  JsonWriter& BeginArray() { return Open('['); }
  JsonWriter& EndArray() { return Close(']'); }
  JsonWriter& Key(std::string_view name);
  JsonWriter& String(std::string_view value);
  JsonWriter& Int(int64_t value);
  JsonWriter& Uint(uint64_t value);
  JsonWriter& Bool(bool value) { return Raw(value ? "true" : "false"); }
  JsonWriter& Null() { return Raw("null"); }
  // The shortest decimal that parses back to the same double, hence to the same float. NaN has no JSON: null. Minus
  // infinity, an impossible token, becomes -9999.0 as other servers have it.
  JsonWriter& Float(float value);
  JsonWriter& Raw(std::string_view json);  // one whole value

 private:
  void Separate();
  JsonWriter& Open(char bracket);
  JsonWriter& Close(char bracket);

  std::string& out_;
  bool comma_ = false;  // a value stands before this place in the same container
};

// Bytes of the UTF-8 character that `bytes` begins with; 0 if it does not begin with a whole valid one.
size_t Utf8CharBytes(std::string_view bytes);
bool IsUtf8(std::string_view bytes);

}  // namespace braid
