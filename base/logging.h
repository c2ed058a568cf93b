#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

// Logging is spdlog's default logger, used directly: spdlog::info("worker {} joined epoch {}", id, epoch).
// Prompts, answers, tool arguments and keys are never logged.

namespace braid {

// Colours on a terminal, one JSON object per line otherwise (BRAID_LOG_FORMAT=text|json forces one). `role` names the
// process in every line. Level from BRAID_LOG_LEVEL (trace, debug, info, warn, error), default info. Call once in main.
void InitLogging(std::string_view role);

}  // namespace braid
