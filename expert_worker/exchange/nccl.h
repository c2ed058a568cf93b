#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "expert_worker/exchange/device_exchange.h"

namespace braid::gpu {

struct NcclOptions {
  int device = 0;  // as cudaSetDevice has it; no other rank may have the same GPU
  // How long Wait polls before it sleeps between two looks. A step of decoding is a few milliseconds, the sleeps are
  // of about a tenth of one.
  absl::Duration spin = absl::Microseconds(200);
  // Connect may take at least so long, whatever ExchangeOptions has: a router thinks of sockets, while NCCL also finds
  // out what the machine is like and loads its kernels. Peers that die meanwhile are noticed as they always are.
  absl::Duration connect_timeout_min;
};

// Peers are processes anywhere with a GPU each, over NCCL: one communicator per epoch, whose unique id is part of rank
// 0's address. Connections are neither encrypted nor authenticated: NCCL_SOCKET_IFNAME binds them to a private network.
//
// A thread watches each communicator: over what NCCL says of itself, the processes of peers on this machine, and the
// deadline of connect and step. Whichever is the first to fail, or Abort, the thread aborts the communicator, once, and
// with it whatever of it hangs on any stream. Suspects are the peers whose processes have ended. NCCL itself names
// nobody: after a deadline, or when a peer on another machine is gone, there are none, and the router goes by the
// heartbeats.
//
// A phase of progress() is a step, from BeginStep, or the end of the step before, to the Wait that ends it.
//
// kUnavailable if NCCL is not one that this can use.
absl::StatusOr<std::unique_ptr<DeviceExchangeFactory>> MakeNcclExchangeFactory(const NcclOptions& options);

// What NCCL takes of a GPU's memory for so many communicators at a time, most of it when ranks send for the first time.
// It asks nobody, and no call says how much: this is what its source, and what others have measured, come to for ranks
// that are all on one machine, joined by `nvlink` or not. Ranks on other machines share one buffer.
uint64_t NcclMemoryBytes(int ranks, int communicators, bool nvlink);

}  // namespace braid::gpu
