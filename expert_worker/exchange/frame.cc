#include "expert_worker/exchange/frame.h"

#include <fmt/format.h>

#include <cstring>

#include "base/planted_bug.h"
#include "base/status.h"

namespace braid {
namespace {

constexpr uint32_t kFrameMagic = 0x44524246;    // "FBRD"
constexpr uint32_t kAddressMagic = 0x44524241;  // "ABRD"
constexpr uint16_t kVersion = 1;

struct AddressHeader {
  uint32_t magic = 0;
  uint16_t version = 0;
  uint16_t rank = 0;
  uint64_t epoch = 0;
  uint64_t message_bytes_max = 0;
};

}  // namespace

FrameHeader MakeFrameHeader(const ExchangeOptions& options, uint64_t sequence, size_t payload_bytes) {
  return {.magic = kFrameMagic,
          .version = kVersion,
          .source = static_cast<uint16_t>(options.rank),
          .epoch = options.epoch,
          .sequence = sequence,
          .payload_bytes = payload_bytes};
}

absl::Status CheckFrame(std::span<const std::byte> frame, const ExchangeOptions& options, int source,
                        uint64_t sequence) {
  const auto wrong = [&](const std::string& what) {
    return absl::DataLossError(fmt::format("message from rank {}: {}", source, what));
  };
  FrameHeader header;
  if (frame.size() < sizeof(header)) return wrong(fmt::format("{} bytes are too short", frame.size()));
  std::memcpy(&header, frame.data(), sizeof(header));
  if (header.magic != kFrameMagic || header.version != kVersion) return wrong("not a frame of this version");
  if (header.source != source) return wrong(fmt::format("calls itself rank {}", header.source));
  if (header.epoch != options.epoch && !Planted(Bug::kTakesFramesOfAnyEpoch)) {
    return wrong(fmt::format("epoch {}, not {}", header.epoch, options.epoch));
  }
  if (header.sequence != sequence) return wrong(fmt::format("phase {:#x}, not {:#x}", header.sequence, sequence));
  if (header.payload_bytes != frame.size() - sizeof(header)) {
    return wrong(fmt::format("{} bytes announced, {} came", header.payload_bytes, frame.size() - sizeof(header)));
  }
  return absl::OkStatus();
}

std::string EncodeAddress(const ExchangeOptions& options, std::string_view transport_address) {
  const AddressHeader header = {.magic = kAddressMagic,
                                .version = kVersion,
                                .rank = static_cast<uint16_t>(options.rank),
                                .epoch = options.epoch,
                                .message_bytes_max = options.message_bytes_max};
  std::string address(reinterpret_cast<const char*>(&header), sizeof(header));
  return address.append(transport_address);
}

absl::StatusOr<std::string_view> DecodeAddress(std::string_view address, const ExchangeOptions& options, int rank) {
  const auto wrong = [&](const std::string& what) {
    return InvalidArgument(fmt::format("address of rank {}: {}", rank, what));
  };
  AddressHeader header;
  if (address.size() < sizeof(header)) return wrong("too short");
  std::memcpy(&header, address.data(), sizeof(header));
  if (header.magic != kAddressMagic || header.version != kVersion) return wrong("not an address of this version");
  if (header.rank != rank) return wrong(fmt::format("belongs to rank {}", header.rank));
  if (header.epoch != options.epoch) return wrong(fmt::format("epoch {}, not {}", header.epoch, options.epoch));
  if (header.message_bytes_max != options.message_bytes_max) {
    return wrong(fmt::format("messages of up to {} bytes, here {}: start all workers with the same model and step size",
                             header.message_bytes_max, options.message_bytes_max));
  }
  return address.substr(sizeof(header));
}

}  // namespace braid
