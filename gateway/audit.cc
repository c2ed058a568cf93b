#include "gateway/audit.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

#include "base/bounded_queue.h"
#include "gateway/json/writer.h"

namespace braid {
namespace {

constexpr size_t kQueueMax = 8192;  // some 3 MB of records; a disk this far behind is broken

class FileAudit : public Audit {
 public:
  FileAudit(int fd, Metrics* metrics)
      : fd_(fd),
        dropped_(metrics->AddCounter("braid_audit_dropped_total", "Audit records lost to a full queue or a bad disk.")),
        thread_([this] { WriteAll(); }) {}

  ~FileAudit() override {
    queue_.Close();
    thread_.join();
    close(fd_);
  }

  void Record(AuditRecord record) override {
    if (!queue_.TryPush(std::move(record))) Drop("its queue is full");
  }

 private:
  void WriteAll() {
    uint64_t sequence = 0;
    while (std::optional<AuditRecord> record = queue_.Pop()) Write(AuditLine(*record, sequence++));
  }

  void Write(std::string_view line) {
    while (!line.empty()) {
      const ssize_t n = write(fd_, line.data(), line.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return Drop(std::generic_category().message(errno));
      line.remove_prefix(n);
    }
  }

  void Drop(const std::string& why) {
    dropped_.Add();
    if (!warned_.exchange(true)) spdlog::error("audit records are being lost: {}", why);
  }

  const int fd_;
  Counter dropped_;
  std::atomic<bool> warned_ = false;
  BoundedQueue<AuditRecord> queue_{kQueueMax};
  std::thread thread_;  // last: it uses the rest
};

absl::Status OpenError(const std::string& path, int error) {
  return absl::ErrnoToStatus(error, "cannot open the audit file '" + path + "'; choose another with --audit");
}

}  // namespace

void AuditRecord::Note(const CallEvent& event) {
  if (const auto* finished = std::get_if<Finished>(&event)) {
    const auto choice = static_cast<size_t>(finished->choice);
    if (finish_reasons.size() <= choice) finish_reasons.resize(choice + 1);
    finish_reasons[choice] = FinishReasonName(finished->reason);
  }
  if (const auto* done = std::get_if<Done>(&event)) {
    prompt_tokens = done->prompt_tokens;
    completion_tokens = done->completion_tokens;
    reasoning_tokens = done->reasoning_tokens;
    has_seed = true;
    seed = done->seed;
  }
}

std::string AuditLine(const AuditRecord& record, uint64_t sequence) {
  std::string out;
  JsonWriter json(&out);
  json.BeginObject().Key("sequence").Uint(sequence);
  json.Key("time").String(absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", record.received, absl::UTCTimeZone()));
  json.Key("request_id").String(record.request_id).Key("door").String(record.door).Key("route").String(record.route);
  json.Key("status").Int(record.status);
  if (!record.error_code.empty()) json.Key("error_code").String(record.error_code);
  json.Key("latency_us").Int(absl::ToInt64Microseconds(record.latency));
  json.Key("model_digest").String(record.model_digest);
  json.Key("prompt_tokens").Int(record.prompt_tokens).Key("completion_tokens").Int(record.completion_tokens);
  json.Key("reasoning_tokens").Int(record.reasoning_tokens);
  if (record.has_seed) json.Key("seed").Uint(record.seed);
  json.Key("finish_reasons").BeginArray();
  for (const std::string& reason : record.finish_reasons) json.String(reason);
  json.EndArray().EndObject();
  return out + "\n";
}

absl::StatusOr<std::unique_ptr<Audit>> Audit::Open(const std::string& path, Metrics* metrics) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) return OpenError(path, errno);
  return std::make_unique<FileAudit>(fd, metrics);
}

}  // namespace braid
