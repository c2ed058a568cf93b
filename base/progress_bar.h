#pragma once

#include <cstdint>
#include <string>

namespace braid {

// How far work over many bytes has come: a line on standard error that is drawn over. Nothing if that is no terminal,
// and nothing for work that is done before somebody could look. Thread-compatible.
class ProgressBar {
 public:
  explicit ProgressBar(std::string what);  // "loading", "writing"
  ~ProgressBar();                          // leaves the line as it is and ends it
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Show(uint64_t done_bytes, uint64_t total_bytes);

 private:
  const std::string what_;
  const bool terminal_;
  const int64_t start_ms_;
  int shown_percent_ = -1;
};

}  // namespace braid
