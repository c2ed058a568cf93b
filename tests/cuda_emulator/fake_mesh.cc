#include "tests/cuda_emulator/fake_mesh.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

// A rank connects to those before it and accepts those behind it. The first frame of each is its hello, whose tag is
// its rank.
//
// Where they listen has a name that follows from the mesh's and the rank: a socket in the abstract namespace, or, with
// FAKE_NCCL_HOST in the environment, a file that has the TCP address.

namespace fake {
namespace {

struct Header {
  uint32_t kind = 0, tag = 0;
  uint64_t bytes = 0;
};

union Address {
  sockaddr any;
  sockaddr_in tcp;
  sockaddr_un local = {};

  socklen_t bytes() const {
    return any.sa_family == AF_INET ? sizeof tcp : offsetof(sockaddr_un, sun_path) + 1 + strlen(local.sun_path + 1);
  }
};

const char* OwnHost() {
  static const char* const host = std::getenv("FAKE_NCCL_HOST");
  return host;
}

std::string FileOf(const std::string& name, int rank) {
  return std::filesystem::temp_directory_path() / (name + "." + std::to_string(rank));
}

Address LocalAddress(const std::string& name, int rank) {
  Address address;
  address.local.sun_family = AF_UNIX;
  const std::string path = name + "." + std::to_string(rank);
  std::memcpy(address.local.sun_path + 1, path.data(), path.size());  // a zero before it: the abstract namespace
  return address;
}

// False: it does not listen yet.
bool FindAddress(const std::string& name, int rank, Address* address) {
  *address = LocalAddress(name, rank);
  if (OwnHost() == nullptr) return true;
  std::ifstream file(FileOf(name, rank), std::ios::binary);
  return file.read(reinterpret_cast<char*>(&address->tcp), sizeof address->tcp).good();
}

int NewSocket() {
  const int fd = socket(OwnHost() ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) std::perror("fake NCCL: socket");
  return fd;
}

int Listen(const std::string& name, int rank, int size) {
  const int fd = NewSocket();
  Address address = LocalAddress(name, rank);
  if (OwnHost()) address.tcp = {.sin_family = AF_INET, .sin_port = 0, .sin_addr = {inet_addr(OwnHost())}};
  socklen_t bytes = address.bytes();
  if (bind(fd, &address.any, bytes) != 0 || listen(fd, size) != 0) {
    std::perror("fake NCCL: a rank that is there already?");
  }
  if (OwnHost() == nullptr) return fd;
  getsockname(fd, &address.any, &bytes);
  // Whoever finds the file finds all of it.
  const std::string path = FileOf(name, rank);
  std::ofstream(path + "~", std::ios::binary).write(reinterpret_cast<const char*>(&address.tcp), sizeof address.tcp);
  std::filesystem::rename(path + "~", path);
  return fd;
}

void DoNotDelay(int fd) {
  const int yes = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

bool WouldBlock() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

// What goes. False: the other end is closed.
bool Write(int fd, std::string* out) {
  while (!out->empty()) {
    const ssize_t written = send(fd, out->data(), out->size(), MSG_NOSIGNAL);
    if (written < 0) return WouldBlock();
    out->erase(0, static_cast<size_t>(written));
  }
  return true;
}

bool Read(int fd, std::string* in) {
  char bytes[1 << 16];
  for (;;) {
    const ssize_t count = recv(fd, bytes, sizeof bytes, 0);
    if (count == 0) return false;
    if (count < 0) return WouldBlock();
    in->append(bytes, static_cast<size_t>(count));
  }
}

bool TakeFrame(std::string* in, Mesh::Frame* frame) {
  Header header;
  if (in->size() < sizeof header) return false;
  std::memcpy(&header, in->data(), sizeof header);
  if (in->size() - sizeof header < header.bytes) return false;
  *frame = {static_cast<Mesh::Kind>(header.kind), header.tag, in->substr(sizeof header, header.bytes)};
  in->erase(0, sizeof header + header.bytes);
  return true;
}

std::string Encode(Mesh::Kind kind, uint32_t tag, const std::string& payload) {
  const Header header = {static_cast<uint32_t>(kind), tag, payload.size()};
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + payload;
}

}  // namespace

Mesh::Mesh(const std::string& name, int rank, int size, const std::string& hello)
    : name_(name), rank_(rank), hello_(hello), peers_(size), listener_(Listen(name, rank, size)) {}

void Mesh::Close() {
  for (Peer& peer : peers_) {
    if (peer.fd >= 0) close(std::exchange(peer.fd, -1));
  }
  for (Peer& stranger : strangers_) close(stranger.fd);
  strangers_.clear();
  if (listener_ < 0) return;
  close(std::exchange(listener_, -1));
  if (OwnHost()) std::filesystem::remove(FileOf(name_, rank_));
}

void Mesh::Reach(int peer) {
  Address address;
  if (!FindAddress(name_, peer, &address)) return;  // the next time
  const int fd = NewSocket();
  if (connect(fd, &address.any, address.bytes()) != 0 && errno != EINPROGRESS) {
    close(fd);  // not there yet
    return;
  }
  if (OwnHost()) DoNotDelay(fd);
  peers_[peer].fd = fd;
  peers_[peer].out = Encode(Kind::kHello, static_cast<uint32_t>(rank_), hello_);
}

void Mesh::Accept() {
  for (int fd; (fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
    if (OwnHost()) DoNotDelay(fd);
    strangers_.emplace_back().fd = fd;
  }
  std::erase_if(strangers_, [this](Peer& stranger) {
    Frame frame;
    if (!Read(stranger.fd, &stranger.in) && stranger.in.empty()) {
      close(stranger.fd);
      return true;
    }
    if (!TakeFrame(&stranger.in, &frame)) return false;
    Peer& peer = peers_[std::min<size_t>(frame.tag, peers_.size() - 1)];
    peer.fd = stranger.fd;
    peer.in = std::move(stranger.in);
    peer.hello = std::move(frame.payload);
    peer.out = Encode(Kind::kHello, static_cast<uint32_t>(rank_), hello_) + peer.out;
    return true;
  });
}

bool Mesh::Connect() {
  for (int peer = 0; peer < rank_; ++peer) {
    if (peers_[peer].fd < 0 && !peers_[peer].gone) Reach(peer);
  }
  Accept();
  Pump();
  for (int peer = 0; peer < static_cast<int>(peers_.size()); ++peer) {
    if (peer != rank_ && (peers_[peer].hello.empty() || !peers_[peer].out.empty())) return false;
  }
  return true;
}

void Mesh::Take(int peer) {
  Frame frame;
  while (TakeFrame(&peers_[peer].in, &frame)) {
    switch (frame.kind) {
      case Kind::kHello:
        peers_[peer].hello = std::move(frame.payload);
        break;
      case Kind::kData:
        peers_[peer].data.push_back(std::move(frame));
        break;
      case Kind::kAck:
        ++peers_[peer].acks;
        break;
      case Kind::kFinal:
        peers_[peer].final = true;
        break;
    }
  }
}

void Mesh::Pump() {
  for (int peer = 0; peer < static_cast<int>(peers_.size()); ++peer) {
    Peer& other = peers_[peer];
    if (other.fd < 0) continue;
    const bool writes = Write(other.fd, &other.out), reads = Read(other.fd, &other.in);
    Take(peer);
    if (writes && reads) continue;
    other.gone = true;
    other.out.clear();
    close(std::exchange(other.fd, -1));
  }
}

bool Mesh::flushed() const {
  return std::all_of(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.out.empty(); });
}

void Mesh::Send(int peer, Kind kind, uint32_t tag, std::string payload) {
  if (peers_[peer].fd >= 0) peers_[peer].out += Encode(kind, tag, payload);
}

}  // namespace fake
