#include "cli/bench_serve/sse.h"

#include <utility>

namespace braid {

bool SseParser::EndLine() {
  constexpr std::string_view kField = "data:";
  if (line_.empty()) return std::exchange(has_data_, false);
  if (line_.starts_with(kField)) {
    std::string_view value = std::string_view(line_).substr(kField.size());
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (has_data_) data_ += '\n';
    data_ += value;
    has_data_ = true;
  }
  line_.clear();
  return false;
}

}  // namespace braid
