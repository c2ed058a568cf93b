#pragma once

#include <string>

namespace braid {

// What tells machines apart. Thread-safe.

// As the kernel has it; in a container its own, in a pod that of all its containers. Never empty.
std::string HostName();
// The kernel's, the same in all containers of a machine and another one after every boot; empty if it cannot be read.
std::string BootId();

}  // namespace braid
