#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "expert_worker/exchange/own_address.h"

namespace braid {

// A TCP connection between each two ranks of an epoch which carries nothing but beats, beside a transport that does not
// say who is gone. A peer that dies is seen at once, since its kernel closes the connection; one that is cut off, or
// hangs, by its silence.
//
//   lower rank                    higher rank
//              <---- hello ----                  the epoch, both ranks, and the number in the lower one's ticket
//              ---- hello ---->                  the same, with the number in the higher one's ticket
//              <---- beats --->                  a byte every kBeat: whether its sender misses anybody
//
// The numbers are random, and come by way of the router: whoever does not know them is not listened to. There are
// bounds to how many may try, how much is read of them, and for how long.
//
// Nothing blocks, and time is an argument. Thread-compatible.
class PeerLinks {
 public:
  static constexpr absl::Duration kBeat = absl::Milliseconds(200);
  // More than two beats: one may be lost, and sent again by the kernel after a fifth of a second.
  static constexpr absl::Duration kSilence = absl::Milliseconds(600);
  static constexpr size_t kTicketBytes = 32;

  struct Options {
    uint64_t epoch = 0;
    int rank = 0;  // in [0, size)
    int size = 1;
  };
  // Listens at `own`, on a port that the kernel chooses.
  static absl::StatusOr<std::unique_ptr<PeerLinks>> Listen(const Options& options, const SocketAddress& own);
  ~PeerLinks();
  PeerLinks(const PeerLinks&) = delete;
  PeerLinks& operator=(const PeerLinks&) = delete;

  // What peers need in order to reach this rank: kTicketBytes.
  const std::string& ticket() const { return ticket_; }
  // Begins to reach the peers. `tickets` by rank, the own one is not looked at. kInvalidArgument naming the rank whose
  // ticket is none. Called once.
  absl::Status Reach(std::span<const std::string> tickets);
  // Does what is due; returns once something has happened on a connection, or `patience` is over. REQUIRES: Reach.
  void Advance(absl::Time now, absl::Duration patience = absl::ZeroDuration());

  // Every rank hears every other one, as far as is known here.
  bool complete() const;
  // Ranks whose link is broken, for good.
  std::vector<int> Gone() const;
  const std::string& WhyGone(int rank) const { return links_[rank].gone; }
  // Ranks of which nothing has been heard for kSilence, or ever.
  std::vector<int> Silent(absl::Time now) const;
  // Who is at fault if nothing goes on: those that are silent here; if there are none, those that miss somebody.
  std::vector<int> Suspects(absl::Time now) const;

 private:
  struct Link {
    int fd = -1;
    uint64_t number = 0;   // in the peer's ticket
    std::string in;        // of its hello
    bool greeted = false;  // this rank has dialled, and said hello
    bool stands = false;   // both have
    bool misses = true;    // by its last beat
    absl::Time heard = absl::InfinitePast();
    std::string gone;  // why, if it is
  };
  // Has connected, and not said who it is.
  struct Stranger {
    int fd = -1;
    std::string in;
    absl::Time since;
  };

  explicit PeerLinks(const Options& options) : options_(options), links_(options.size) {}
  template <typename Visit>
  void ForEachPeer(const Visit& visit);
  std::string HelloTo(int rank) const;
  std::optional<int> SaysHello(std::string_view bytes) const;
  void Dial(int rank, SocketAddress address);
  void Accept(absl::Time now);
  void Meet(Stranger& stranger, absl::Time now);
  void Hear(int rank, absl::Time now);
  void Stand(int rank, absl::Time now);
  void Beat(absl::Time now);
  void Break(int rank, std::string why);
  void StopListening();

  const Options options_;
  std::string ticket_;
  uint64_t number_ = 0;  // in it
  int listener_ = -1;    // until every link stands
  std::vector<Link> links_;
  std::vector<Stranger> strangers_;
  char beat_ = 0;  // the last one
  absl::Time beat_at_ = absl::InfinitePast();
};

}  // namespace braid
