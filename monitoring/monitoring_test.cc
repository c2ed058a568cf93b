#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <string>

#include "monitoring/http_endpoint.h"
#include "monitoring/metrics.h"

namespace braid {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Get(int port, const std::string& target, const std::string& method = "GET") {
  boost::asio::io_context io;
  boost::asio::ip::tcp::socket socket(io);
  socket.connect({boost::asio::ip::make_address("127.0.0.1"), static_cast<uint16_t>(port)});
  const std::string request = method + " " + target + " HTTP/1.1\r\nHost: x\r\n\r\n";
  boost::asio::write(socket, boost::asio::buffer(request));
  std::string answer;
  boost::system::error_code error;
  boost::asio::read(socket, boost::asio::dynamic_buffer(answer), error);
  return answer;
}

TEST(Metrics, SerializesWhatWasCounted) {
  Metrics metrics;
  metrics.AddCounter("braid_things_total", "Things.", {{"kind", "a"}}).Add(3);
  metrics.AddCounter("braid_things_total", "Things.", {{"kind", "a"}}).Add(2);  // the same counter again
  metrics.AddGauge("braid_level", "Level.").Set(1.5);
  metrics.AddHistogram("braid_wait_seconds", "Wait.", LatencyBuckets()).Observe(0.3);
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("braid_things_total{kind=\"a\"} 5"));
  EXPECT_THAT(text, HasSubstr("braid_level 1.5"));
  EXPECT_THAT(text, HasSubstr("braid_wait_seconds_bucket{le=\"0.5\"} 1"));
  EXPECT_THAT(text, HasSubstr("# HELP braid_things_total Things."));
}

TEST(Metrics, TellsOfTheProcess) {
  const std::string text = Metrics().Serialize();
  for (const char* name : {"process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds "}) {
    const size_t at = text.find(std::string("\n") + name);
    ASSERT_NE(at, std::string::npos) << name;
    EXPECT_GE(std::stod(text.substr(at + 1 + std::string(name).size())), 0) << name;
  }
}

TEST(MetricsEndpoint, ServesMetricsAndHealth) {
  Metrics metrics;
  std::string reason = "waiting for the router";
  MetricsEndpoint::Options options;
  options.not_ready = [&reason] { return reason; };
  options.warning = [] { return "unprotected: one worker"; };
  auto endpoint = MetricsEndpoint::Start(&metrics, options);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  const int port = (*endpoint)->port();
  EXPECT_THAT(Get(port, "/metrics"), HasSubstr("process_open_fds"));
  EXPECT_THAT(Get(port, "/metrics"), HasSubstr("version=0.0.4"));
  EXPECT_THAT(Get(port, "/livez"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get(port, "/readyz"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(Get(port, "/readyz"), HasSubstr("waiting for the router"));
  reason = "";
  EXPECT_THAT(Get(port, "/readyz"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Get(port, "/readyz"), HasSubstr("ready; unprotected: one worker"));
  EXPECT_THAT(Get(port, "/other"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get(port, "/metrics", "POST"), StartsWith("HTTP/1.1 405"));

  MetricsEndpoint::Options taken;
  taken.port = port;
  EXPECT_EQ(MetricsEndpoint::Start(&metrics, taken).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace braid
