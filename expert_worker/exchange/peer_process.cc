#include "expert_worker/exchange/peer_process.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/host.h"

namespace braid {
namespace {

struct Ticket {
  char boot_id[40] = {};  // tells machines apart
  uint64_t pid_namespace = 0;
  int64_t pid = 0;
  uint64_t start_time = 0;  // tells apart two processes that had the same number one after the other
};

// Zero if it cannot be read.
uint64_t StartTime(int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');  // the name may hold anything
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(line.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  uint64_t start_time = 0;
  fields >> start_time;
  return start_time;
}

Ticket OwnTicket() {
  Ticket ticket;
  BootId().copy(ticket.boot_id, sizeof(ticket.boot_id) - 1);
  struct stat info = {};
  if (stat("/proc/self/ns/pid", &info) == 0) ticket.pid_namespace = info.st_ino;
  ticket.pid = getpid();
  ticket.start_time = StartTime(ticket.pid);
  return ticket;
}

}  // namespace

size_t ProcessTicketBytes() { return sizeof(Ticket); }

std::string ProcessTicket() {
  const Ticket ticket = OwnTicket();
  return std::string(reinterpret_cast<const char*>(&ticket), sizeof(ticket));
}

ProcessWatch WatchProcess(std::string_view ticket) {
  Ticket peer;
  std::memcpy(&peer, ticket.data(), std::min(ticket.size(), sizeof(peer)));
  const Ticket own = OwnTicket();
  const bool reachable = own.boot_id[0] != 0 && std::memcmp(own.boot_id, peer.boot_id, sizeof(own.boot_id)) == 0 &&
                         own.pid_namespace != 0 && own.pid_namespace == peer.pid_namespace;
  if (!reachable || peer.pid == own.pid) return {};
#ifdef SYS_pidfd_open
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(peer.pid), 0u));
  if (fd < 0) return {.ended = errno == ESRCH};
  // Read behind the opening: what was opened is what is looked at.
  const uint64_t start_time = StartTime(peer.pid);
  if (start_time == 0 || start_time == peer.start_time) return {.fd = fd};
  close(fd);
  return {.ended = true};
#else
  return {};
#endif
}

}  // namespace braid
