#include "base/progress_bar.h"

#include <unistd.h>

#include <chrono>
#include <iostream>

#include "base/human.h"

namespace braid {
namespace {

constexpr int kWidth = 40;
constexpr int64_t kSilenceMs = 300;

int64_t NowMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

ProgressBar::ProgressBar(std::string what)
    : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) == 1), start_ms_(NowMs()) {}

ProgressBar::~ProgressBar() {
  if (shown_percent_ >= 0) std::cerr << "\n";
}

void ProgressBar::Show(uint64_t done_bytes, uint64_t total_bytes) {
  if (!terminal_ || (shown_percent_ < 0 && NowMs() - start_ms_ < kSilenceMs)) return;
  const double share = total_bytes == 0 ? 1.0 : static_cast<double>(done_bytes) / static_cast<double>(total_bytes);
  const int percent = static_cast<int>(100 * share);
  if (percent == shown_percent_) return;
  shown_percent_ = percent;
  const auto filled = static_cast<size_t>(percent * kWidth / 100);
  std::cerr << "\r" << what_ << " [" << std::string(filled, '#') << std::string(kWidth - filled, ' ') << "] " << percent
            << "% of " << HumanBytes(total_bytes) << std::flush;
}

}  // namespace braid
