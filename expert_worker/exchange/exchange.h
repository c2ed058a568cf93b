#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

// The seam between a worker's step and whatever moves bytes between the workers of a group: an Exchange is what an
// epoch needs to know of it, whatever it moves. What it moves is for those who compute: HostExchange, here, has
// messages in host memory, DeviceExchange (device_exchange.h) what lies on a GPU.

namespace braid {

struct ExchangeOptions {
  uint64_t epoch = 0;
  int rank = 0;  // of this worker, in [0, size)
  int size = 1;
  size_t message_bytes_max = 0;  // longest message; equal on all ranks. Memory for it is touched only when used.
  absl::Duration timeout = absl::Seconds(30);          // for each AllToAll, the peers' computing included
  absl::Duration connect_timeout = absl::Seconds(30);  // for Connect, the peers' way to theirs included
};

// How far an exchange has come.
struct ExchangeProgress {
  uint64_t phase = 0;            // the last that was entered, by its sequence; 0: none
  absl::Duration waited;         // in it, if it is not over
  std::vector<int> waiting_for;  // ranks whose message of that phase has not come, if it is not over and they are known
};

// One rank's end of one epoch. Used by one thread at a time, except where it says thread-safe. Once a call has failed,
// all later ones fail with the same status; the only way on is a new epoch.
//
// Errors: kAborted      Abort was called
//         kUnavailable  a peer is gone
//         kDeadlineExceeded  a peer was silent for too long
//         kDataLoss     a peer broke the protocol (other epoch, other sequence, malformed)
class Exchange {
 public:
  virtual ~Exchange() = default;

  // What peers need in order to connect, opaque.
  virtual const std::string& address() const = 0;
  // `addresses` by rank, the own one included. Returns when every peer has been reached. kInvalidArgument naming the
  // rank if an address is not one of this epoch or was made with another message_bytes_max.
  virtual absl::Status Connect(std::span<const std::string> addresses) = 0;

  // Wakes whoever waits for a peer and makes every later call fail. Thread-safe, returns at once.
  virtual void Abort(const std::string& reason) = 0;

  // After a failure: the ranks that it may be the fault of, in ascending order. Empty after Abort.
  virtual std::vector<int> suspects() const = 0;
  // Thread-safe.
  virtual ExchangeProgress progress() const = 0;
};

// An all-to-all of messages in host memory. Counts need no round of their own: in every phase each rank sends exactly
// one message to each other rank, also an empty one.
class HostExchange : public Exchange {
 public:
  // Where the next message to `peer` (not the own rank) is written: message_bytes_max bytes, aligned to 64. Valid until
  // the next AllToAll.
  virtual std::span<std::byte> Outgoing(int peer) = 0;
  // Sends the first bytes[p] of Outgoing(p) to each peer p and waits for one message from each. `sequence` names the
  // phase, only rises from 1, and must be what every peer calls this phase. REQUIRES: bytes has `size` entries, the own
  // is 0.
  virtual absl::Status AllToAll(uint64_t sequence, std::span<const size_t> bytes) = 0;
  // The message from `peer` in the last AllToAll, aligned to 64. Valid until the next AllToAll.
  virtual std::span<const std::byte> Incoming(int peer) const = 0;
  // Time spent in AllToAll so far.
  virtual absl::Duration waited() const = 0;
};

// Makes one Exchange per epoch. Used by one thread at a time; its exchanges by others, if they like.
class ExchangeFactory {
 public:
  virtual ~ExchangeFactory() = default;
  // Opens the local end. kUnavailable if the transport cannot be opened.
  virtual absl::StatusOr<std::unique_ptr<Exchange>> Prepare(const ExchangeOptions& options) = 0;
};

class HostExchangeFactory : public ExchangeFactory {
 public:
  virtual absl::StatusOr<std::unique_ptr<HostExchange>> PrepareHost(const ExchangeOptions& options) = 0;
  absl::StatusOr<std::unique_ptr<Exchange>> Prepare(const ExchangeOptions& options) final {
    return PrepareHost(options);
  }
};

}  // namespace braid
