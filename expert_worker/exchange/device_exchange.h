#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "expert_worker/exchange/exchange.h"

namespace braid::gpu {

// One device's end of the all-to-all of one epoch (see exchange.h), for what lies in device memory. All calls but Abort
// and progress by one thread at a time. What is enqueued is checked when it is waited for: a broken exchange lets all
// streams run dry, over whatever bytes happened to arrive, and Wait then says so.
//
// Calls may be captured into graphs, with cudaStreamCaptureModeThreadLocal: in the global mode the set-up of the next
// epoch, on another thread, would break the capture. Such a graph is part of the epoch: it must be destroyed before the
// exchange is, and must not be launched after it has failed.
class DeviceExchange : public Exchange {
 public:
  // Slot p of `send` goes to rank p, slot r of `received` comes from rank r; a slot is `slot_bytes` long, equal on all
  // ranks, and slots lie one behind the other. The own slots are not touched. No host waits for another: capturable.
  // REQUIRES: slot_bytes <= message_bytes_max, here and below.
  virtual absl::Status AllToAll(const void* send, void* received, size_t slot_bytes, cudaStream_t stream) = 0;
  // The same, of which only the first send_bytes[p] and received_bytes[r] bytes of each slot travel. What a rank sends
  // must be what its peer expects. The own counts do not matter.
  virtual absl::Status AllToAllExact(const void* send, std::span<const size_t> send_bytes, void* received,
                                     std::span<const size_t> received_bytes, size_t slot_bytes,
                                     cudaStream_t stream) = 0;
  // `bytes` of each rank to all, by rank, the own ones included.
  virtual absl::Status AllGather(const void* mine, void* all, size_t bytes, cudaStream_t stream) = 0;

  // A step begins: the deadline for what is enqueued from now on counts from here, or from the end of the step before
  // if that is not over. `step` is what peers call it.
  virtual void BeginStep(uint64_t step) = 0;
  // Returns once everything that was enqueued before `event` is done, and nothing was wrong with it. If two steps have
  // begun, `event` is the end of the first. On an error nothing that any stream did since that step's BeginStep may be
  // used. Waits without blocking the watch over the exchange.
  virtual absl::Status Wait(cudaEvent_t event) = 0;
};

class DeviceExchangeFactory : public ExchangeFactory {
 public:
  virtual absl::StatusOr<std::unique_ptr<DeviceExchange>> PrepareDevice(const ExchangeOptions& options) = 0;
  absl::StatusOr<std::unique_ptr<Exchange>> Prepare(const ExchangeOptions& options) final {
    return PrepareDevice(options);
  }
};

}  // namespace braid::gpu
