#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "expert_worker/exchange/exchange.h"

// What every transport puts around a message and an address, so that a message of another epoch or phase, or an address
// of another cluster, is refused and never computed with. Native byte order: a group is one kind of machine, and the
// magic differs on the other kind.

namespace braid {

// In front of every message. 64 bytes, so that an aligned buffer has an aligned payload.
struct FrameHeader {
  uint32_t magic = 0;
  uint16_t version = 0;
  uint16_t source = 0;  // rank
  uint64_t epoch = 0;
  uint64_t sequence = 0;
  uint64_t payload_bytes = 0;
  uint64_t reserved[4] = {};
};
static_assert(sizeof(FrameHeader) == 64);

FrameHeader MakeFrameHeader(const ExchangeOptions& options, uint64_t sequence, size_t payload_bytes);

// kDataLoss saying what is wrong with `frame` as the message of `source` in phase `sequence`.
absl::Status CheckFrame(std::span<const std::byte> frame, const ExchangeOptions& options, int source,
                        uint64_t sequence);

// An address: who made it, then what the transport needs.
std::string EncodeAddress(const ExchangeOptions& options, std::string_view transport_address);
// The transport's part, or kInvalidArgument saying why `address` is not that of `rank` in this epoch. Points into
// `address`.
absl::StatusOr<std::string_view> DecodeAddress(std::string_view address, const ExchangeOptions& options, int rank);

}  // namespace braid
