#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "gateway/core/json_members.h"

namespace braid {

// Reads the literals a model writes: Python's and JSON's mixed. Each Read* begins at at(), leaves at() behind what it
// read, and turns values into JSON text; false means that no such thing stands there, and at() is then anywhere.
//
// The models are taught (by their own chat template) to put strings between single quotes as they are, so 'it's' and
// 'C:\dir\' are to be expected. A string is therefore first read as Python would, with its escapes; if what follows its
// end cannot follow a value there, it ends at the first quote after which something can, and everything inside stands
// for itself.
class LiteralReader {
 public:
  static constexpr int kDepthMax = 64;

  explicit LiteralReader(std::string_view text, size_t at = 0) : text_(text), at_(at) {}

  // Where a value stands, hence what may follow it.
  enum class Place {
    kArgument,      // of a call: , name=   , **   , )   or the ) that ends the call
    kElement,       // of a list, tuple or set: , value   or a closing bracket
    kKey,           // of a dict: :
    kKeyOrElement,  // the first thing after {
    kMember,        // value in a dict: , "key"   or }
  };
  bool ReadValue(Place place, std::string* json) { return Value(place, 0, json); }
  bool ReadDict(JsonMembers* members);
  // A name as tools and arguments have them: letters, digits and _-.:$@/ and anything beyond ASCII.
  std::string_view ReadName();

  void SkipSpace();
  bool Take(char c);  // skips white space, then c if it is there
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool AtEnd() const { return at_ == text_.size(); }
  size_t at() const { return at_; }
  std::string_view text() const { return text_; }

 private:
  bool Value(Place place, int depth, std::string* json);
  bool Word(Place place, std::string* json);
  bool Number(std::string* json);
  bool RadixNumber(bool negative, std::string* json);
  bool Elements(char close, int depth, std::string* json);
  bool Tuple(int depth, std::string* json);
  bool Braces(int depth, std::string* json);
  bool Members(int depth, std::string key, JsonMembers* members);
  bool String(Place place, std::string* json);
  bool PythonStrings(Place place, std::string* value);
  bool PythonString(std::string* value);
  bool RawString(Place place, std::string* value);
  bool Escape(char quote, std::string* value);
  bool CanFollow(Place place, size_t at) const;

  std::string_view text_;
  size_t at_;
};

}  // namespace braid
