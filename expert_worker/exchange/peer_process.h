#pragma once

#include <optional>
#include <string>
#include <string_view>

// The end of a process, seen by another one of the same machine the moment it happens. UCX's keepalive looks for it
// twice a second at best, and takes a killed process whose parent has not waited for it yet to be alive.

namespace braid {

// What others need in order to watch this process. Always of the same length.
std::string ProcessTicket();
size_t ProcessTicketBytes();

struct ProcessWatch {
  bool ended = false;  // it has ended already
  int fd = -1;         // becomes readable when it ends; the caller closes it. -1: it cannot be watched from here
};
// A process on another machine or in another PID namespace cannot be watched, nor can any on a kernel before 5.3.
// REQUIRES: `ticket` has ProcessTicketBytes.
ProcessWatch WatchProcess(std::string_view ticket);

}  // namespace braid
