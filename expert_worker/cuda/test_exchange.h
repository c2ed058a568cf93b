#pragma once

#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "expert_worker/exchange/device_exchange.h"
#include "tests/cuda_emulator/fake_order.h"
#include "tests/cuda_emulator/fake_streams.h"

// An exchange between threads of a test, each with a device of the fake runtime: for what a real one would not carry.

namespace braid::gpu {

// What connects the ranks of a group: messages under way.
class TestNetwork {
 public:
  explicit TestNetwork(int size) : size_(size), messages_(size_t(size) * size) {}

  // Called, on the device, for each message that `to` gets: may spoil it. Set before anything is sent.
  std::function<void(int from, int to, std::string* message)> spoil;

  int size() const { return size_; }
  // Nothing comes any more, as of an exchange that was aborted.
  void Break() { broken_ = true; }
  bool broken() const { return broken_; }
  void Send(int from, int to, std::string message) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (spoil) spoil(from, to, &message);
    messages_[from * size_ + to].push_back(std::move(message));
  }
  bool Receive(int from, int to, std::string* message) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::deque<std::string>& queue = messages_[from * size_ + to];
    if (queue.empty()) return false;
    *message = std::move(queue.front());
    queue.pop_front();
    return true;
  }

 private:
  const int size_;
  std::atomic<bool> broken_ = false;
  std::mutex mutex_;
  std::vector<std::deque<std::string>> messages_;
};

class TestExchange : public DeviceExchange {
 public:
  TestExchange(TestNetwork* network, int rank) : network_(*network), rank_(rank) {}

  // Called, on the device, when an operation of this rank has all that it waits for. Set before anything is sent.
  std::function<void()> done;

  // Bytes sent to others so far, of what was not replayed from a graph.
  size_t bytes_sent() const { return bytes_sent_; }
  int exact_phases() const { return exact_phases_; }

  absl::Status AllToAll(const void* send, void* received, size_t slot_bytes, cudaStream_t stream) override {
    const std::vector<size_t> all(network_.size(), slot_bytes);
    return Enqueue(send, all, received, all, slot_bytes, stream);
  }
  absl::Status AllToAllExact(const void* send, std::span<const size_t> send_bytes, void* received,
                             std::span<const size_t> received_bytes, size_t slot_bytes, cudaStream_t stream) override {
    ++exact_phases_;
    return Enqueue(send, {send_bytes.begin(), send_bytes.end()}, received,
                   {received_bytes.begin(), received_bytes.end()}, slot_bytes, stream);
  }
  absl::Status AllGather(const void* mine, void* all, size_t bytes, cudaStream_t stream) override {
    if (cudaMemcpyAsync(static_cast<std::byte*>(all) + rank_ * bytes, mine, bytes, cudaMemcpyDeviceToDevice, stream) !=
        cudaSuccess) {
      return absl::InternalError("copying");
    }
    const std::vector<size_t> counts(network_.size(), bytes);
    return Enqueue(mine, counts, all, counts, bytes, stream, /*same_to_all=*/true);
  }
  void BeginStep(uint64_t) override {}
  absl::Status Wait(cudaEvent_t event) override {
    return cudaEventSynchronize(event) == cudaSuccess ? absl::OkStatus() : absl::InternalError("waiting");
  }

  const std::string& address() const override { return address_; }
  absl::Status Connect(std::span<const std::string>) override { return absl::OkStatus(); }
  void Abort(const std::string&) override {}
  std::vector<int> suspects() const override { return {}; }
  ExchangeProgress progress() const override { return {}; }

 private:
  struct Phase {
    const std::byte* send;
    std::vector<size_t> send_bytes;
    std::byte* received;
    std::vector<size_t> received_bytes;
    size_t slot_bytes;
    bool same_to_all;
    std::vector<bool> here;
  };

  absl::Status Enqueue(const void* send, std::vector<size_t> send_bytes, void* received,
                       std::vector<size_t> received_bytes, size_t slot_bytes, cudaStream_t stream,
                       bool same_to_all = false) {
    for (int rank = 0; rank < network_.size(); ++rank) bytes_sent_ += rank == rank_ ? 0 : send_bytes[rank];
    const Phase phase = {static_cast<const std::byte*>(send),
                         std::move(send_bytes),
                         static_cast<std::byte*>(received),
                         std::move(received_bytes),
                         slot_bytes,
                         same_to_all,
                         {}};
    const cudaError_t error = fake::Enqueue(stream, [this, phase] {
      auto at = std::make_shared<Phase>(phase);
      return fake::Operation{"exchange of rank " + std::to_string(rank_),
                             [this, at](cudaError_t* error) { return Advance(*at, error); }};
    });
    return error == cudaSuccess ? absl::OkStatus() : absl::InternalError(cudaGetErrorString(error));
  }

  fake::Progress Advance(Phase& phase, cudaError_t* error) {
    if (phase.here.empty()) {
      phase.here.assign(network_.size(), false);
      phase.here[rank_] = true;
      for (int to = 0; to < network_.size(); ++to) {
        if (to == rank_) continue;
        const std::byte* slot = phase.send + (phase.same_to_all ? 0 : to * phase.slot_bytes);
        fake::DeclareRead(slot, phase.send_bytes[to]);
        network_.Send(rank_, to, std::string(reinterpret_cast<const char*>(slot), phase.send_bytes[to]));
      }
      return fake::Progress::kMoved;
    }
    bool moved = false, all = true;
    for (int from = 0; from < network_.size(); ++from) {
      std::string message;
      if (!phase.here[from] && network_.Receive(from, rank_, &message)) {
        if (message.size() != phase.received_bytes[from]) network_.Break();
        std::byte* slot = phase.received + from * phase.slot_bytes;
        fake::DeclareWrite(slot, phase.received_bytes[from]);
        std::memcpy(slot, message.data(), std::min(message.size(), phase.received_bytes[from]));
        phase.here[from] = moved = true;
      }
      all &= phase.here[from];
    }
    if (network_.broken())
      *error = cudaErrorUnknown;
    else if (all && done)
      done();
    return all || network_.broken() ? fake::Progress::kDone : moved ? fake::Progress::kMoved : fake::Progress::kWaiting;
  }

  TestNetwork& network_;
  const int rank_;
  const std::string address_;
  size_t bytes_sent_ = 0;
  int exact_phases_ = 0;
};

}  // namespace braid::gpu
