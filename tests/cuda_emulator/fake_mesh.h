#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace fake {

// Sockets from one rank to each other one, for the fake NCCL: frames, in order, each way. Nothing blocks; whoever wants
// something to move calls Pump. Not thread-safe.
class Mesh {
 public:
  enum class Kind : uint32_t { kHello, kData, kAck, kFinal };
  struct Frame {
    Kind kind = Kind::kData;
    uint32_t tag = 0;  // what its data are, for the receiver to compare
    std::string payload;
  };

  // Listens as `rank` of `size` under `name`, which no other mesh has.
  Mesh(const std::string& name, int rank, int size, const std::string& hello);
  ~Mesh() { Close(); }
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  // True once every peer has said hello.
  bool Connect();
  void Pump();
  // Whether all that was sent is out of this process.
  bool flushed() const;
  void Close();

  const std::string& hello(int peer) const { return peers_[peer].hello; }
  void Send(int peer, Kind kind, uint32_t tag = 0, std::string payload = {});
  // Has closed its end; what it had sent is here all the same.
  bool gone(int peer) const { return peers_[peer].gone; }
  std::deque<Frame>& data(int peer) { return peers_[peer].data; }
  uint64_t acks(int peer) const { return peers_[peer].acks; }
  bool final(int peer) const { return peers_[peer].final; }

 private:
  struct Peer {
    int fd = -1;
    std::string in, out;  // bytes under way
    std::string hello;
    std::deque<Frame> data;
    uint64_t acks = 0;
    bool final = false, gone = false;
  };

  void Reach(int peer);
  void Accept();
  void Take(int peer);

  const std::string name_;
  const int rank_;
  const std::string hello_;
  std::vector<Peer> peers_;      // by rank
  std::vector<Peer> strangers_;  // accepted, and have yet to say who they are
  int listener_ = -1;
};

}  // namespace fake
