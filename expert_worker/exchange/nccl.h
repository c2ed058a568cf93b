#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "expert_worker/exchange/device_exchange.h"

namespace braid::gpu {

struct NcclOptions {
  int device = 0;  // as cudaSetDevice has it; no other rank may have the same GPU
  // host:port of the router, see OwnAddress; empty: all peers are on this machine, unless NCCL_SOCKET_IFNAME is set.
  std::string router;
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
// A thread watches each communicator: over what NCCL says of itself, a TCP connection to each peer (peer_links.h, at
// the address that own_address.h says, on a port of the kernel's choice), and the deadline of connect and step.
// Whichever is the first to fail, or Abort, the thread aborts the communicator, once, and with it whatever of it hangs
// on any stream. NCCL itself names nobody. Suspects are the peers whose connections have broken; after a deadline or an
// error of NCCL, those that are not heard, or else those that do not hear somebody. Where only NCCL's own network fails
// (InfiniBand, say), nobody is named.
//
// A peer that is not heard is what progress() waits for; the step goes on until its deadline, or until the router has
// had enough of it.
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
