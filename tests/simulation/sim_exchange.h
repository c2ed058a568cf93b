#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "expert_worker/exchange/exchange.h"
#include "tests/simulation/fiber.h"
#include "tests/simulation/network.h"

namespace braid::simulation {

class SimExchange;

// What joins the exchanges of all workers: connections that are reset when one end goes, that say nothing when the way
// is cut, and that may deliver again what was sent under an earlier epoch.
class DataPlane {
 public:
  explicit DataPlane(Network* network) : network_(network) {}

  Network* network() const { return network_; }

 private:
  friend class SimExchange;
  using Frame = std::shared_ptr<const std::vector<std::byte>>;
  struct End {
    Process* process = nullptr;
    SimExchange* exchange = nullptr;  // null when it is closed
    std::vector<uint64_t> peers;      // told when it goes
    std::map<uint64_t, std::unique_ptr<Network::Pipe>> out;
  };

  uint64_t Open(Process* process, SimExchange* exchange);
  void Close(uint64_t id);
  void Join(uint64_t id, uint64_t peer);
  void Send(uint64_t from, uint64_t to, int source, uint64_t phase, Frame frame);
  void Deliver(uint64_t from, uint64_t to, int source, const Frame& frame);
  void TellGone(uint64_t gone, uint64_t to);

  Network* const network_;
  std::map<uint64_t, End> ends_;
  uint64_t last_id_ = 0;
  std::map<std::tuple<const Process*, const Process*, uint64_t>, Frame> sent_;  // the last of each phase
};

// A worker's end of one epoch's all-to-all in virtual time: who waits is a task.
class SimExchange : public HostExchange {
 public:
  // Both must outlive *this.
  SimExchange(DataPlane* plane, Process* process, const ExchangeOptions& options);
  ~SimExchange() override;

  const std::string& address() const override { return address_; }
  absl::Status Connect(std::span<const std::string> addresses) override;
  std::span<std::byte> Outgoing(int peer) override;
  absl::Status AllToAll(uint64_t sequence, std::span<const size_t> bytes) override;
  std::span<const std::byte> Incoming(int peer) const override;
  void Abort(const std::string& reason) override;
  std::vector<int> suspects() const override { return suspects_; }
  absl::Duration waited() const override { return waited_; }
  ExchangeProgress progress() const override;

 private:
  friend class DataPlane;
  struct Peer {
    uint64_t id = 0;  // in the data plane
    std::deque<DataPlane::Frame> in;
    bool gone = false;
    std::vector<std::byte> out;
    DataPlane::Frame taken;
  };
  void Wake();
  void OnFrame(int source, DataPlane::Frame frame);
  void OnGone(uint64_t id);
  bool Missing(int rank) const;
  absl::Status SwapAll(uint64_t sequence, std::span<const size_t> bytes, absl::Duration timeout);
  absl::Status Wait(absl::Time deadline);
  absl::Status Fail(absl::Status status);

  DataPlane* const plane_;
  Task* waiter_ = nullptr;
  const ExchangeOptions options_;
  std::string address_;
  uint64_t id_ = 0;
  std::vector<Peer> peers_;
  std::optional<std::string> abort_;
  absl::Status failure_;
  std::vector<int> suspects_;
  uint64_t phase_ = 0;
  std::optional<absl::Time> waits_since_;
  absl::Duration waited_;
};

class SimExchangeFactory : public HostExchangeFactory {
 public:
  // Both must outlive *this.
  SimExchangeFactory(DataPlane* plane, Process* process) : plane_(plane), process_(process) {}
  absl::StatusOr<std::unique_ptr<HostExchange>> PrepareHost(const ExchangeOptions& options) override {
    return std::make_unique<SimExchange>(plane_, process_, options);
  }

 private:
  DataPlane* const plane_;
  Process* const process_;
};

}  // namespace braid::simulation
