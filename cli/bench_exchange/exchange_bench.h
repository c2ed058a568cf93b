#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace braid {

// One rank of a group of GPUs that does nothing but exchange.
struct ExchangeBenchOptions {
  int device = 0;  // of this process
  int rank = 0, ranks = 2;
  std::string meeting_place;  // a folder that all ranks see, empty at first
  std::vector<size_t> slot_bytes;
  int rounds = 20;  // all-to-alls behind each other, in one sample
  int repeat = 5;   // samples; medians are kept
};

// Of one all-to-all with a slot for each rank, on this device.
struct ExchangeFigures {
  size_t slot_bytes = 0;
  double plain_seconds = 0;         // enqueued one by one
  double graph_seconds = 0;         // as a graph of all rounds
  uint64_t nccl_bytes = 0;          // of the device, that NCCL has taken by then,
  uint64_t nccl_bytes_planned = 0;  // and that are set aside for one communicator
};

// kDeadlineExceeded if the other ranks do not come; errors of CUDA and of the exchange.
absl::StatusOr<std::vector<ExchangeFigures>> BenchExchange(const ExchangeBenchOptions& options);

}  // namespace braid
