#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace braid {

// A program started beside this one; the destructor ends it (SIGTERM, then SIGKILL after two seconds).
class ChildProcess {
 public:
  // `program` is a path. Standard streams are inherited. Uses posix_spawn: this process has gRPC threads and must not
  // fork.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Spawn(const std::string& program,
                                                             const std::vector<std::string>& arguments);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  bool Running();                  // false once it has ended; collects its status
  std::string HowItEnded() const;  // "exited with 1", "killed by signal 9"
  void Terminate(absl::Duration grace);

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_;
  bool ended_ = false;
  int wait_status_ = 0;
};

// The folder of the running binary.
std::string ExecutableDirectory();

}  // namespace braid
