#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace braid {

// Cuts a body of server-sent events into the data of each, however the bytes arrive. Lines end with LF, CRLF or CR;
// the data lines of an event are joined by LF; comments, other fields and events without data are skipped. An event
// counts when its empty line has come. Thread-compatible.
class SseParser {
 public:
  static constexpr size_t kEventBytesMax = 16 << 20;

  // Calls on_data(std::string_view) for each event that `bytes` completes; the view lives as long as the call. False,
  // now and for ever, if an event is longer than kEventBytesMax.
  template <typename F>
  bool Feed(std::string_view bytes, F&& on_data) {
    while (!bytes.empty() && !broken_) {
      if (after_cr_ && bytes[0] == '\n') bytes.remove_prefix(1);
      after_cr_ = false;
      const size_t end = bytes.find_first_of("\r\n");
      line_.append(bytes.substr(0, end));
      broken_ = line_.size() + data_.size() > kEventBytesMax;
      if (end == bytes.npos) break;
      after_cr_ = bytes[end] == '\r';
      bytes.remove_prefix(end + 1);
      if (EndLine()) {
        on_data(std::string_view(data_));
        data_.clear();
      }
    }
    return !broken_;
  }

 private:
  bool EndLine();  // true if it ended an event that has data

  std::string line_, data_;
  bool has_data_ = false;
  bool after_cr_ = false;  // the LF of a CRLF may come with the next bytes
  bool broken_ = false;
};

}  // namespace braid
