#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/inference.h"
#include "monitoring/metrics.h"

namespace braid {

// What is kept of one request. There is no member for prompts, answers, tool arguments, reasoning or keys, and there
// never will be.
struct AuditRecord {
  absl::Time received;
  absl::Duration latency;
  std::string request_id;  // may be the client's: escaped when written
  std::string door;        // "http" or "grpc"
  std::string route;
  int status = 0;          // HTTP's, for both doors
  std::string error_code;  // of ApiError; empty for a good answer
  std::string model_digest;
  std::vector<std::string> finish_reasons;  // one per choice
  int64_t prompt_tokens = 0, completion_tokens = 0, reasoning_tokens = 0;
  bool has_seed = false;
  uint64_t seed = 0;  // if has_seed

  // Keeps what the end of a choice and of the call say.
  void Note(const CallEvent& event);
};

// One JSON object on one line, with the newline. `sequence` rises by one per record, so that a gap shows a loss.
std::string AuditLine(const AuditRecord& record, uint64_t sequence);

// Appends records to a file from its own thread, so that a slow disk never slows an answer. Thread-safe. When the queue
// is full or the disk fails, records are dropped: counted in braid_audit_dropped_total and logged once.
class Audit {
 public:
  // Creates or appends. kPermissionDenied, kNotFound... if the file cannot be opened. `metrics` must outlive the audit.
  static absl::StatusOr<std::unique_ptr<Audit>> Open(const std::string& path, Metrics* metrics);
  virtual ~Audit() = default;  // writes what is queued
  virtual void Record(AuditRecord record) = 0;
};

}  // namespace braid
