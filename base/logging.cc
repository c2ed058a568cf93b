#include "base/logging.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/ansicolor_sink.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace braid {
namespace {

// %* in a pattern: the message as a JSON string, so that no input can forge a line or a field.
class JsonMessage : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    const nlohmann::json text(std::string(message.payload.data(), message.payload.size()));
    const std::string escaped = text.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    out.append(escaped.data(), escaped.data() + escaped.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<JsonMessage>(); }
};

std::string Env(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

void InitLogging(std::string_view role) {
  auto logger =
      std::make_shared<spdlog::logger>(std::string(role), std::make_shared<spdlog::sinks::ansicolor_stderr_sink_mt>());
  const std::string format = Env("BRAID_LOG_FORMAT");
  if (format == "json" || (format != "text" && !isatty(STDERR_FILENO))) {
    auto formatter = std::make_unique<spdlog::pattern_formatter>(spdlog::pattern_time_type::utc);
    formatter->add_flag<JsonMessage>('*').set_pattern(
        R"({"time":"%Y-%m-%dT%H:%M:%S.%fZ","level":"%l","role":"%n","pid":%P,"message":%*})");
    logger->set_formatter(std::move(formatter));
  } else {
    logger->set_pattern("%H:%M:%S.%e %^%L%$ %n: %v");
  }
  const std::string level = Env("BRAID_LOG_LEVEL");
  logger->set_level(level.empty() ? spdlog::level::info : spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace braid
