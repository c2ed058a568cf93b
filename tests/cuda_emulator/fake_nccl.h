#pragma once

#include <cstdint>

// What tests say to the fake NCCL beside its API (nccl.h): what goes wrong. A program that has no test of ours in it is
// told by its environment: FAKE_NCCL_KILL_AT_GROUP=12 kills the process when its 13th group begins.
//
// Ranks are threads of this process, each with a device of its own, or processes, over sockets in the abstract
// namespace. See README.md for what it models.

namespace fake {

// Of the communicators that the calling thread makes from now on. Groups count from 0, over one communicator, in the
// order in which they begin.
struct NcclFaults {
  int64_t delay = 0;             // how often each group is asked in vain before it begins
  int64_t dies_at_group = -1;    // its sockets close, as if its process were dead, and it stays where it is
  int64_t halves_at_group = -1;  // what it receives in this group is cut in half, silently
};
void SetNcclFaults(const NcclFaults& faults);

// Communicators of this process that are neither destroyed nor aborted.
int NcclCommunicators();
// How often ncclCommAbort was called so far, in this process.
int NcclAborts();

}  // namespace fake
