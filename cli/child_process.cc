#include "cli/child_process.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>

#include "absl/time/clock.h"
#include "base/status.h"

extern char** environ;

namespace braid {

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Spawn(const std::string& program,
                                                                  const std::vector<std::string>& arguments) {
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  // This process blocks its stop signals to wait for them; the child must not inherit that.
  posix_spawnattr_t attributes;
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, program.c_str(), nullptr, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return absl::UnavailableError("cannot start " + program + ": " + std::strerror(error));
  return std::unique_ptr<ChildProcess>(new ChildProcess(pid));
}

ChildProcess::~ChildProcess() { Terminate(absl::Seconds(2)); }

bool ChildProcess::Running() {
  if (!ended_ && waitpid(pid_, &wait_status_, WNOHANG) == pid_) ended_ = true;
  return !ended_;
}

std::string ChildProcess::HowItEnded() const {
  if (WIFSIGNALED(wait_status_)) return "was killed by signal " + std::to_string(WTERMSIG(wait_status_));
  return "exited with " + std::to_string(WEXITSTATUS(wait_status_));
}

void ChildProcess::Terminate(absl::Duration grace) {
  if (!Running()) return;
  kill(pid_, SIGTERM);
  for (const absl::Time end = absl::Now() + grace; absl::Now() < end;) {
    if (!Running()) return;
    absl::SleepFor(absl::Milliseconds(10));
  }
  kill(pid_, SIGKILL);
  waitpid(pid_, &wait_status_, 0);
  ended_ = true;
}

std::string ExecutableDirectory() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
}

}  // namespace braid
