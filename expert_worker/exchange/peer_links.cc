#include "expert_worker/exchange/peer_links.h"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/status.h"

namespace braid {
namespace {

constexpr uint32_t kTicketMagic = 0x4b4e4c54;  // "TLNK"
constexpr uint32_t kHelloMagic = 0x4b4e4c48;   // "HLNK"
constexpr char kHearsAll = '+', kMissesSome = '-';
constexpr std::string_view kBeats = "+-";
// Connections that have not said hello: a rank says it at once, and is none any more. Beyond it the oldest goes.
constexpr size_t kStrangersMax = 64;
constexpr absl::Duration kStrangerPatience = absl::Seconds(2);

struct Ticket {
  uint32_t magic = kTicketMagic;
  uint16_t family = 0;
  in_port_t port = 0;  // in network order
  uint64_t number = 0;
  unsigned char address[16] = {};  // the first four are IPv4's
};
static_assert(sizeof(Ticket) == PeerLinks::kTicketBytes);

struct Hello {
  uint32_t magic = kHelloMagic;
  uint16_t from = 0, to = 0;
  uint64_t epoch = 0;
  uint64_t number = 0;  // in the ticket of `to`
};
static_assert(sizeof(Hello) == 24);

// What is wrong with `fd` after a call of it; empty if it is only not ready.
std::string Trouble() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? "" : std::strerror(errno); }

// Appends what has come, up to `most` bytes.
std::string Receive(int fd, size_t most, std::string* in) {
  char bytes[256];
  const ssize_t count = recv(fd, bytes, std::min(most, sizeof(bytes)), 0);
  if (count < 0) return Trouble();
  in->append(bytes, static_cast<size_t>(count));
  return count == 0 ? "it has closed its connection" : "";
}

// A few bytes at a time fit, or the other end has not taken any for hours.
std::string Send(int fd, std::string_view bytes) {
  return send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0 ? Trouble() : "";
}

// A beat that waits for the acknowledgement of the last one would come late when it matters.
void DoNotDelay(int fd) {
  const int yes = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
}

}  // namespace

template <typename Visit>
void PeerLinks::ForEachPeer(const Visit& visit) {
  for (int rank = 0; rank < options_.size; ++rank) {
    if (rank != options_.rank) visit(rank, links_[rank]);
  }
}

absl::StatusOr<std::unique_ptr<PeerLinks>> PeerLinks::Listen(const Options& options, const SocketAddress& own) {
  auto links = std::unique_ptr<PeerLinks>(new PeerLinks(options));
  const auto failed = [](const char* call) {
    return absl::UnavailableError(fmt::format("links to peers: {}: {}", call, std::strerror(errno)));
  };
  if (getrandom(&links->number_, sizeof(links->number_), 0) != sizeof(links->number_)) return failed("getrandom");
  SocketAddress bound = own;
  socklen_t bytes = own.bytes();
  links->listener_ = socket(own.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (links->listener_ < 0) return failed("socket");
  if (bind(links->listener_, &own.any, bytes) != 0) return failed("bind");
  if (listen(links->listener_, options.size + static_cast<int>(kStrangersMax)) != 0) return failed("listen");
  if (getsockname(links->listener_, &bound.any, &bytes) != 0) return failed("getsockname");
  Ticket ticket = {.family = bound.any.sa_family, .port = bound.port(), .number = links->number_};
  const bool is_v4 = bound.any.sa_family == AF_INET;
  std::memcpy(ticket.address, is_v4 ? static_cast<void*>(&bound.v4.sin_addr) : &bound.v6.sin6_addr, is_v4 ? 4 : 16);
  links->ticket_.assign(reinterpret_cast<const char*>(&ticket), sizeof(ticket));
  return links;
}

PeerLinks::~PeerLinks() {
  StopListening();
  for (const Link& link : links_) {
    if (link.fd >= 0) close(link.fd);
  }
}

absl::Status PeerLinks::Reach(std::span<const std::string> tickets) {
  std::vector<SocketAddress> addresses(links_.size());
  absl::Status status;
  ForEachPeer([&](int rank, Link& link) {
    Ticket ticket;
    const auto wrong = [&] { status = InvalidArgument(fmt::format("address of rank {}: not that of a link", rank)); };
    if (tickets[rank].size() != sizeof(ticket)) return wrong();
    std::memcpy(&ticket, tickets[rank].data(), sizeof(ticket));
    const bool is_v4 = ticket.family == AF_INET;
    if (ticket.magic != kTicketMagic || (!is_v4 && ticket.family != AF_INET6) || ticket.port == 0) return wrong();
    link.number = ticket.number;
    SocketAddress& address = addresses[rank];
    address.any.sa_family = ticket.family;
    address.port() = ticket.port;
    std::memcpy(is_v4 ? static_cast<void*>(&address.v4.sin_addr) : &address.v6.sin6_addr, ticket.address,
                is_v4 ? 4 : 16);
  });
  RETURN_IF_ERROR(status);
  for (int rank = 0; rank < options_.rank; ++rank) Dial(rank, addresses[rank]);
  if (options_.rank + 1 == options_.size) StopListening();
  return absl::OkStatus();
}

void PeerLinks::Dial(int rank, SocketAddress address) {
  Link& link = links_[rank];
  link.fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (link.fd < 0) return Break(rank, std::strerror(errno));
  DoNotDelay(link.fd);
  if (connect(link.fd, &address.any, address.bytes()) != 0 && errno != EINPROGRESS) Break(rank, std::strerror(errno));
}

void PeerLinks::Advance(absl::Time now, absl::Duration patience) {
  std::vector<pollfd> fds = {{listener_, POLLIN, 0}};  // poll() skips what is negative
  for (const Stranger& stranger : strangers_) fds.push_back({stranger.fd, POLLIN, 0});
  ForEachPeer([&](int, Link& link) {
    // Writable: it has been reached, or refuses.
    const bool dials = link.fd >= 0 && !link.stands && !link.greeted;
    fds.push_back({link.fd, static_cast<short>(dials ? POLLOUT : POLLIN), 0});
  });
  if (poll(fds.data(), fds.size(), static_cast<int>(absl::ToInt64Milliseconds(patience))) > 0) {
    auto ready = fds.rbegin();
    for (int rank = options_.size - 1; rank >= 0; --rank) {
      if (rank != options_.rank && (ready++)->revents != 0) Hear(rank, now);
    }
    for (auto stranger = strangers_.rbegin(); stranger != strangers_.rend(); ++stranger) {
      if ((ready++)->revents != 0 && stranger->fd >= 0) Meet(*stranger, now);
    }
    if (ready->revents != 0) Accept(now);
  }
  std::erase_if(strangers_, [&](const Stranger& stranger) {
    if (stranger.fd >= 0 && now - stranger.since < kStrangerPatience) return false;
    if (stranger.fd >= 0) close(stranger.fd);
    return true;
  });
  Beat(now);
}

bool PeerLinks::complete() const {
  for (int rank = 0; rank < options_.size; ++rank) {
    if (rank != options_.rank && (!links_[rank].stands || links_[rank].misses)) return false;
  }
  return true;
}

std::vector<int> PeerLinks::Gone() const {
  std::vector<int> gone;
  for (int rank = 0; rank < options_.size; ++rank) {
    if (!links_[rank].gone.empty()) gone.push_back(rank);
  }
  return gone;
}

std::vector<int> PeerLinks::Silent(absl::Time now) const {
  std::vector<int> silent;
  for (int rank = 0; rank < options_.size; ++rank) {
    if (rank != options_.rank && now - links_[rank].heard > kSilence) silent.push_back(rank);
  }
  return silent;
}

std::vector<int> PeerLinks::Suspects(absl::Time now) const {
  std::vector<int> suspects = Silent(now);
  if (!suspects.empty()) return suspects;
  for (int rank = 0; rank < options_.size; ++rank) {
    if (rank != options_.rank && links_[rank].misses) suspects.push_back(rank);
  }
  return suspects;
}

std::string PeerLinks::HelloTo(int rank) const {
  const Hello hello = {.from = static_cast<uint16_t>(options_.rank),
                       .to = static_cast<uint16_t>(rank),
                       .epoch = options_.epoch,
                       .number = links_[rank].number};
  return std::string(reinterpret_cast<const char*>(&hello), sizeof(hello));
}

// The rank that says this hello, if it is one of a peer to this rank.
std::optional<int> PeerLinks::SaysHello(std::string_view bytes) const {
  Hello hello;
  if (bytes.size() < sizeof(hello)) return std::nullopt;
  std::memcpy(&hello, bytes.data(), sizeof(hello));
  const bool is_mine = hello.magic == kHelloMagic && hello.epoch == options_.epoch && hello.to == options_.rank &&
                       hello.number == number_ && hello.from < options_.size && hello.from != options_.rank;
  return is_mine ? std::optional<int>(hello.from) : std::nullopt;
}

void PeerLinks::Accept(absl::Time now) {
  for (size_t i = 0; i < kStrangersMax; ++i) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    if (strangers_.size() == kStrangersMax) {
      close(strangers_.front().fd);
      strangers_.erase(strangers_.begin());
    }
    strangers_.push_back({fd, "", now});
  }
}

// Whether or not it is a peer, it is no stranger any more once it has said so much.
void PeerLinks::Meet(Stranger& stranger, absl::Time now) {
  const bool left = !Receive(stranger.fd, sizeof(Hello) - stranger.in.size(), &stranger.in).empty();
  if (!left && stranger.in.size() < sizeof(Hello)) return;
  const int fd = std::exchange(stranger.fd, -1);
  const std::optional<int> rank = SaysHello(stranger.in);
  if (!rank || *rank < options_.rank || links_[*rank].fd >= 0 || !links_[*rank].gone.empty()) {
    close(fd);
    return;
  }
  links_[*rank].fd = fd;
  DoNotDelay(fd);
  if (std::string trouble = Send(fd, HelloTo(*rank)); !trouble.empty()) return Break(*rank, std::move(trouble));
  Stand(*rank, now);
}

void PeerLinks::Hear(int rank, absl::Time now) {
  Link& link = links_[rank];
  if (!link.stands && !link.greeted) {
    int error = 0;
    socklen_t bytes = sizeof(error);
    getsockopt(link.fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
    std::string trouble = error != 0 ? std::strerror(error) : Send(link.fd, HelloTo(rank));
    link.greeted = true;
    if (!trouble.empty()) Break(rank, std::move(trouble));
    return;
  }
  std::string trouble = Receive(link.fd, link.stands ? ~size_t{0} : sizeof(Hello) - link.in.size(), &link.in);
  if (!trouble.empty()) return Break(rank, std::move(trouble));
  if (!link.stands) {
    if (link.in.size() < sizeof(Hello)) return;
    if (SaysHello(link.in) != rank) return Break(rank, "somebody else answers");
    link.in.clear();
    return Stand(rank, now);
  }
  if (link.in.empty()) return;
  link.heard = now;
  link.misses = link.in.back() != kHearsAll;
  if (link.in.find_first_not_of(kBeats) != std::string::npos) Break(rank, "it talks nonsense");
  link.in.clear();
}

void PeerLinks::Stand(int rank, absl::Time now) {
  Link& link = links_[rank];
  link.stands = true;
  link.heard = now;
  beat_ = 0;  // it is to hear one now
  const auto stands = [](const Link& other) { return other.stands || !other.gone.empty(); };
  if (std::all_of(links_.begin() + options_.rank + 1, links_.end(), stands)) StopListening();
}

void PeerLinks::Beat(absl::Time now) {
  const char beat = Silent(now).empty() ? kHearsAll : kMissesSome;
  const bool is_set_back = now < beat_at_;  // the clock
  if (beat == beat_ && now - beat_at_ < kBeat && !is_set_back) return;
  beat_ = beat;
  beat_at_ = now;
  ForEachPeer([&](int rank, Link& link) {
    if (!link.stands) return;
    if (std::string trouble = Send(link.fd, {&beat, 1}); !trouble.empty()) Break(rank, std::move(trouble));
  });
}

void PeerLinks::Break(int rank, std::string why) {
  Link& link = links_[rank];
  if (link.fd >= 0) close(std::exchange(link.fd, -1));
  link.stands = false;
  link.misses = true;
  link.heard = absl::InfinitePast();
  link.gone = std::move(why);
}

void PeerLinks::StopListening() {
  if (listener_ >= 0) close(std::exchange(listener_, -1));
  for (Stranger& stranger : strangers_) {
    if (stranger.fd >= 0) close(std::exchange(stranger.fd, -1));
  }
}

}  // namespace braid
