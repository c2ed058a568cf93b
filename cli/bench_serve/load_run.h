#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/bench_serve/record.h"
#include "cli/bench_serve/server_address.h"
#include "cli/bench_serve/workload.h"

namespace braid {

struct LoadRunOptions {
  ServerAddress server;
  std::string api_key;  // empty: none
  int threads = 1;
  std::chrono::nanoseconds timeout = std::chrono::minutes(10);  // of one request
  // The body of a request; called on the run's threads, ahead of the time at which it is sent.
  std::function<std::string(size_t request)> body;
};

// Sends a workload to /v1/completions and times what comes back. Each thread has its own sockets and its share of the
// requests; they share nothing that they could wait for. In an open loop nothing that the server does delays the next
// request. In a closed loop a client whose request failed waits a moment before its next, so that a dead server is not
// stormed.
class LoadRun {
 public:
  struct Progress {
    size_t ended = 0, failed = 0, running = 0;
    int64_t output_tokens = 0;
  };

  // Starts at once. kUnavailable if the server's name does not resolve.
  static absl::StatusOr<std::unique_ptr<LoadRun>> Start(LoadRunOptions options, Workload workload);
  virtual ~LoadRun() = default;  // Interrupt() and Wait()

  virtual bool done() const = 0;
  virtual Progress progress() const = 0;
  // Begins no more requests and cuts off those in progress, which then have no record. Returns at once.
  virtual void Interrupt() = 0;
  // Until all have ended. By their number.
  virtual std::vector<RequestRecord> Wait() = 0;
  // How busy the busiest thread was, from 0 to 1. Near 1 it was late in telling the time. After Wait().
  virtual double busy_share() const = 0;
};

// A request outside of any run: for asking the server what it is.
struct HttpAnswer {
  int status = 0;
  std::string body;
};
// `target` is below the server's base. kUnavailable if there was no whole answer within `timeout`.
absl::StatusOr<HttpAnswer> Fetch(const LoadRunOptions& options, const std::string& method, const std::string& target,
                                 const std::string& body, std::chrono::nanoseconds timeout);

}  // namespace braid
