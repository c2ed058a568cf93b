#include "tests/simulation/sim_exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/status.h"
#include "expert_worker/exchange/frame.h"
#include "tests/simulation/toy_model.h"

namespace braid::simulation {
namespace {

// Phases of Connect, below those of any step.
constexpr uint64_t kConnecting = 1, kConnected = 2;

}  // namespace

uint64_t DataPlane::Open(Process* process, SimExchange* exchange) {
  ends_[++last_id_] = {process, exchange, {}, {}};
  return last_id_;
}

void DataPlane::Close(uint64_t id) {
  End& end = ends_.at(id);
  end.exchange = nullptr;
  for (const uint64_t peer : end.peers) TellGone(id, peer);
}

void DataPlane::Join(uint64_t id, uint64_t peer) {
  ends_.at(id).peers.push_back(peer);
  const auto found = ends_.find(peer);
  if (found == ends_.end() || found->second.exchange == nullptr) TellGone(peer, id);
}

void DataPlane::Send(uint64_t from, uint64_t to, int source, uint64_t phase, Frame frame) {
  End& sender = ends_.at(from);
  std::unique_ptr<Network::Pipe>& pipe = sender.out[to];
  if (pipe == nullptr) pipe = std::make_unique<Network::Pipe>(network_, sender.process, ends_.at(to).process);
  if (network_->stale_chance() > 0) {
    Frame& old = sent_[{sender.process, ends_.at(to).process, phase}];  // of an older epoch
    const double chance = network_->stale_chance() * (ToyModel::EndsStep(phase) ? 5 : 1);
    if (old != nullptr && network_->world()->random().Chance(chance)) {
      network_->world()->Count("stale frames");
      pipe->Send([this, from, to, source, old] { Deliver(from, to, source, old); });
    }
    old = frame;
  }
  pipe->Send([this, from, to, source, frame = std::move(frame)] { Deliver(from, to, source, frame); });
}

void DataPlane::Deliver(uint64_t from, uint64_t to, int source, const Frame& frame) {
  const End& receiver = ends_.at(to);
  if (receiver.exchange == nullptr) return TellGone(to, from);
  receiver.process->Run([this, to, source, frame] {
    if (SimExchange* const exchange = ends_.at(to).exchange) exchange->OnFrame(source, frame);
  });
}

void DataPlane::TellGone(uint64_t gone, uint64_t to) {
  const Process* const from = ends_.at(gone).process;
  Process* const process = ends_.at(to).process;
  network_->Carry(from, process, network_->Arrival(from, process), [this, gone, to, process] {
    if (ends_.at(to).exchange == nullptr) return;
    process->Run([this, gone, to] {
      if (SimExchange* const exchange = ends_.at(to).exchange) exchange->OnGone(gone);
    });
  });
}

SimExchange::SimExchange(DataPlane* plane, Process* process, const ExchangeOptions& options)
    : plane_(plane), options_(options), peers_(options.size) {
  id_ = plane->Open(process, this);
  address_ = EncodeAddress(options, std::string_view(reinterpret_cast<const char*>(&id_), sizeof(id_)));
}

SimExchange::~SimExchange() { plane_->Close(id_); }

absl::Status SimExchange::Connect(std::span<const std::string> addresses) {
  if (static_cast<int>(addresses.size()) != options_.size) return Fail(InvalidArgument("the number of addresses"));
  for (int rank = 0; rank < options_.size; ++rank) {
    if (rank == options_.rank) continue;
    absl::StatusOr<std::string_view> id = DecodeAddress(addresses[rank], options_, rank);
    if (!id.ok()) return Fail(id.status());
    std::memcpy(&peers_[rank].id, id->data(), sizeof(peers_[rank].id));
    plane_->Join(id_, peers_[rank].id);
  }
  const std::vector<size_t> nothing(options_.size);
  RETURN_IF_ERROR(SwapAll(kConnecting, nothing, options_.connect_timeout));
  return SwapAll(kConnected, nothing, options_.connect_timeout);
}

std::span<std::byte> SimExchange::Outgoing(int peer) {
  std::vector<std::byte>& out = peers_[peer].out;
  if (out.empty()) out.resize(sizeof(FrameHeader) + options_.message_bytes_max);
  return std::span(out).subspan(sizeof(FrameHeader));
}

absl::Status SimExchange::AllToAll(uint64_t sequence, std::span<const size_t> bytes) {
  return SwapAll(sequence, bytes, options_.timeout);
}

absl::Status SimExchange::SwapAll(uint64_t sequence, std::span<const size_t> bytes, absl::Duration timeout) {
  RETURN_IF_ERROR(failure_);
  if (Task::Current()->cut()) return Fail(absl::AbortedError("the process is dead"));
  const absl::Time start = plane_->network()->world()->now();
  phase_ = sequence;
  waits_since_ = start;
  for (int rank = 0; rank < options_.size; ++rank) {
    if (rank == options_.rank) continue;
    Outgoing(rank);
    const FrameHeader header = MakeFrameHeader(options_, sequence, bytes[rank]);
    std::memcpy(peers_[rank].out.data(), &header, sizeof(header));
    plane_->Send(id_, peers_[rank].id, options_.rank, sequence,
                 std::make_shared<const std::vector<std::byte>>(
                     peers_[rank].out.begin(), peers_[rank].out.begin() + sizeof(header) + bytes[rank]));
  }
  absl::Status status = Wait(start + timeout);
  waited_ += plane_->network()->world()->now() - start;
  waits_since_.reset();
  if (!status.ok()) return Fail(status);
  for (int rank = 0; rank < options_.size; ++rank) {
    if (rank == options_.rank) continue;
    peers_[rank].taken = std::move(peers_[rank].in.front());
    peers_[rank].in.pop_front();
    status = CheckFrame(*peers_[rank].taken, options_, rank, sequence);
    if (status.ok()) continue;
    suspects_.push_back(rank);
    return Fail(status);
  }
  return absl::OkStatus();
}

std::span<const std::byte> SimExchange::Incoming(int peer) const {
  return std::span(*peers_[peer].taken).subspan(sizeof(FrameHeader));
}

void SimExchange::Abort(const std::string& reason) {
  if (!abort_) abort_ = reason;
  Wake();
}

ExchangeProgress SimExchange::progress() const {
  ExchangeProgress progress = {.phase = phase_, .waited = {}, .waiting_for = {}};
  if (!waits_since_) return progress;
  progress.waited = plane_->network()->world()->now() - *waits_since_;
  for (int rank = 0; rank < options_.size; ++rank) {
    if (Missing(rank)) progress.waiting_for.push_back(rank);
  }
  return progress;
}

void SimExchange::Wake() {
  if (waiter_ != nullptr) waiter_->Wake();
}

void SimExchange::OnFrame(int source, DataPlane::Frame frame) {
  peers_[source].in.push_back(std::move(frame));
  Wake();
}

void SimExchange::OnGone(uint64_t id) {
  for (Peer& peer : peers_) {
    if (peer.id == id) peer.gone = true;
  }
  Wake();
}

bool SimExchange::Missing(int rank) const { return rank != options_.rank && peers_[rank].in.empty(); }

absl::Status SimExchange::Wait(absl::Time deadline) {
  for (;;) {
    if (Task::Current()->cut()) return absl::AbortedError("the process is dead");
    if (abort_) return absl::AbortedError(*abort_);
    bool missing = false;
    for (int rank = 0; rank < options_.size; ++rank) {
      if (!Missing(rank)) continue;
      missing = true;
      if (peers_[rank].gone) suspects_.push_back(rank);
    }
    if (!missing) return absl::OkStatus();
    if (!suspects_.empty()) return absl::UnavailableError(fmt::format("rank {} is gone", fmt::join(suspects_, ", ")));
    if (plane_->network()->world()->now() >= deadline) {
      for (int rank = 0; rank < options_.size; ++rank) {
        if (Missing(rank)) suspects_.push_back(rank);
      }
      return absl::DeadlineExceededError(fmt::format("rank {} sent nothing in time", fmt::join(suspects_, ", ")));
    }
    waiter_ = Task::Current();
    waiter_->Wait(deadline);
    waiter_ = nullptr;
  }
}

absl::Status SimExchange::Fail(absl::Status status) {
  failure_ = status;
  return status;
}

}  // namespace braid::simulation
