#include "expert_worker/exchange/peer_links.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <set>

namespace braid {
namespace {

using Ranks = std::vector<int>;

SocketAddress Loopback() { return *OwnAddress("", ""); }

// The links of an epoch, all in this thread and in a time of its own.
class PeerLinksTest : public ::testing::Test {
 protected:
  void Listen(int size) {
    for (int rank = 0; rank < size; ++rank) {
      links_.push_back(*PeerLinks::Listen({.epoch = 7, .rank = rank, .size = size}, Loopback()));
      tickets_.push_back(links_.back()->ticket());
    }
  }
  void Reach() {
    for (auto& links : links_) ASSERT_TRUE(links->Reach(tickets_).ok());
  }
  // All that are left do what is due, until `done`; the time stands still.
  void RunUntil(const std::function<bool()>& done) {
    for (int turn = 0; !done(); ++turn) {
      ASSERT_LT(turn, 5000) << "of a millisecond";
      Advance();
    }
  }
  void Advance() {
    for (auto& links : links_) {
      if (links && !stopped_.contains(links.get())) links->Advance(now_, absl::Milliseconds(1));
    }
  }
  void Connect(int size) {
    Listen(size);
    Reach();
    RunUntil([&] { return std::all_of(links_.begin(), links_.end(), [](auto& links) { return links->complete(); }); });
  }
  void Pass(absl::Duration time) {
    for (const absl::Time end = now_ + time; now_ < end; now_ += PeerLinks::kBeat) Advance();
  }
  // A connection to where this ticket says.
  int Dial(const std::string& ticket) {
    sockaddr_in to = Loopback().v4;
    std::memcpy(&to.sin_port, ticket.data() + 6, sizeof(to.sin_port));
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
    return fd;
  }
  // A rank's first word to rank 0, with the number that its ticket has.
  std::string Hello(uint16_t from) {
    std::string hello = "HLNK";
    const uint16_t to = 0;
    const uint64_t epoch = 7;
    hello.append(reinterpret_cast<const char*>(&from), 2).append(reinterpret_cast<const char*>(&to), 2);
    return hello.append(reinterpret_cast<const char*>(&epoch), 8).append(tickets_[0], 8, 8);
  }
  static bool IsClosed(int fd) {
    char byte;
    const ssize_t count = recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    return count == 0 || (count < 0 && errno != EAGAIN);
  }

  absl::Time now_ = absl::UnixEpoch();
  std::vector<std::unique_ptr<PeerLinks>> links_;
  std::vector<std::string> tickets_;
  std::set<PeerLinks*> stopped_;  // like processes
};

TEST_F(PeerLinksTest, StandOnceEveryRankHearsEveryOther) {
  for (int size : {1, 2, 5}) {
    links_.clear();
    tickets_.clear();
    Connect(size);
    Pass(absl::Seconds(5));
    for (auto& links : links_) {
      EXPECT_TRUE(links->complete());
      EXPECT_EQ(links->Gone(), Ranks());
      EXPECT_EQ(links->Suspects(now_), Ranks());
    }
  }
}

TEST_F(PeerLinksTest, AreNotThereBeforeTheLastOneIs) {
  Listen(3);
  for (int rank : {0, 2}) ASSERT_TRUE(links_[rank]->Reach(tickets_).ok());
  stopped_.insert(links_[1].get());
  Pass(absl::Seconds(1));
  for (int rank : {0, 2}) {
    EXPECT_FALSE(links_[rank]->complete());
    EXPECT_EQ(links_[rank]->Silent(now_), Ranks{1});
    EXPECT_EQ(links_[rank]->Suspects(now_), Ranks{1});
  }
}

TEST_F(PeerLinksTest, TellWhoHasClosedItsEnd) {
  Connect(3);
  links_[1].reset();
  RunUntil([&] { return !links_[0]->Gone().empty() && !links_[2]->Gone().empty(); });
  for (int rank : {0, 2}) {
    EXPECT_EQ(links_[rank]->Gone(), Ranks{1});
    EXPECT_EQ(links_[rank]->WhyGone(1), "it has closed its connection");
    EXPECT_EQ(links_[rank]->Suspects(now_), Ranks{1});
    EXPECT_FALSE(links_[rank]->complete());
  }
}

TEST_F(PeerLinksTest, TellWhoIsGoneBeforeItIsReached) {
  Listen(2);
  links_[0].reset();
  ASSERT_TRUE(links_[1]->Reach(tickets_).ok());
  RunUntil([&] { return !links_[1]->Gone().empty(); });
  EXPECT_EQ(links_[1]->Gone(), Ranks{0});
  EXPECT_EQ(links_[1]->WhyGone(0), "Connection refused");
}

TEST_F(PeerLinksTest, TellWhoIsSilentAndThatItIsBack) {
  Connect(3);
  stopped_.insert(links_[1].get());
  Pass(PeerLinks::kSilence);
  EXPECT_EQ(links_[0]->Silent(now_), Ranks());
  Pass(absl::Seconds(5));
  EXPECT_EQ(links_[0]->Silent(now_), Ranks{1});
  EXPECT_EQ(links_[2]->Silent(now_), Ranks{1});
  EXPECT_EQ(links_[0]->Gone(), Ranks()) << "the router decides about it";
  stopped_.clear();
  RunUntil([&] {
    return std::all_of(links_.begin(), links_.end(), [&](auto& links) { return links->Suspects(now_).empty(); });
  });
}

TEST_F(PeerLinksTest, BeatOnWhenTheClockIsSetBack) {
  Connect(2);
  now_ -= absl::Hours(1);
  Pass(absl::Seconds(1));
  EXPECT_EQ(links_[0]->Silent(now_), Ranks());
  stopped_.insert(links_[1].get());
  Pass(absl::Seconds(1));
  EXPECT_EQ(links_[0]->Silent(now_), Ranks{1});
}

// Two that do not hear each other tell the third, which hears both.
TEST_F(PeerLinksTest, NameThoseThatMissSomebodyIfAllAreHeard) {
  Listen(3);
  std::vector<std::string> tickets = tickets_;
  const int nowhere = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);  // takes connections, and says nothing
  sockaddr_in at = Loopback().v4;
  socklen_t bytes = sizeof(at);
  ASSERT_EQ(bind(nowhere, reinterpret_cast<sockaddr*>(&at), bytes), 0);
  ASSERT_EQ(listen(nowhere, 1), 0);
  ASSERT_EQ(getsockname(nowhere, reinterpret_cast<sockaddr*>(&at), &bytes), 0);
  std::memcpy(tickets[1].data() + 6, &at.sin_port, sizeof(at.sin_port));
  for (int rank : {0, 1}) ASSERT_TRUE(links_[rank]->Reach(tickets_).ok());
  ASSERT_TRUE(links_[2]->Reach(tickets).ok());
  Pass(absl::Seconds(1));
  RunUntil([&] { return links_[0]->Silent(now_).empty(); });
  EXPECT_EQ(links_[1]->Suspects(now_), Ranks{2});
  EXPECT_EQ(links_[2]->Suspects(now_), Ranks{1});
  EXPECT_EQ(links_[0]->Suspects(now_), (Ranks{1, 2}));
  close(nowhere);
}

TEST_F(PeerLinksTest, TicketsThatAreNoneAreRefusedByName) {
  Listen(2);
  for (const std::string& wrong :
       {std::string(), std::string(PeerLinks::kTicketBytes, 'x'), tickets_[1] + "x", tickets_[1].substr(1)}) {
    const absl::Status status = links_[0]->Reach(std::vector<std::string>{tickets_[0], wrong});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find("rank 1"), std::string::npos) << status;
  }
}

TEST_F(PeerLinksTest, StrangersAreSentAwayAndDisturbNobody) {
  Listen(2);
  ASSERT_TRUE(links_[0]->Reach(tickets_).ok());
  stopped_.insert(links_[1].get());
  const std::string hello = Hello(1);
  std::vector<std::string> words = {std::string(24, 'x'), std::string(1000, '+')};
  for (size_t at : {0, 4, 6, 8, 16}) {  // magic, from, to, epoch, number
    words.push_back(hello);
    words.back()[at] ^= 0x40;
  }
  words.push_back(Hello(0));
  std::vector<int> strangers;
  for (const std::string& word : words) {
    strangers.push_back(Dial(tickets_[0]));
    ASSERT_EQ(send(strangers.back(), word.data(), word.size(), 0), static_cast<ssize_t>(word.size()));
  }
  RunUntil([&] { return std::all_of(strangers.begin(), strangers.end(), IsClosed); });
  EXPECT_EQ(links_[0]->Silent(now_), Ranks{1});
  for (int i = 0; i < 300; ++i) {
    strangers.push_back(Dial(tickets_[0]));  // says nothing
    Advance();
  }
  stopped_.clear();
  ASSERT_TRUE(links_[1]->Reach(tickets_).ok());
  RunUntil([&] { return links_[0]->complete() && links_[1]->complete(); });
  RunUntil([&] { return std::all_of(strangers.begin(), strangers.end(), IsClosed); });
  for (const int fd : strangers) close(fd);
}

TEST_F(PeerLinksTest, WhoeverSaysNothingIsNotWaitedForForLong) {
  Listen(2);
  ASSERT_TRUE(links_[0]->Reach(tickets_).ok());
  const int fd = Dial(tickets_[0]);
  ASSERT_EQ(send(fd, "HLNK", 4, 0), 4);
  stopped_.insert(links_[1].get());
  Advance();
  EXPECT_FALSE(IsClosed(fd));
  Pass(absl::Seconds(3));
  RunUntil([&] { return IsClosed(fd); });
  close(fd);
}

TEST_F(PeerLinksTest, APeerThatTalksNonsenseIsGone) {
  Listen(2);
  ASSERT_TRUE(links_[0]->Reach(tickets_).ok());
  stopped_.insert(links_[1].get());
  const int fd = Dial(tickets_[0]);
  const std::string words = Hello(1) + "++x+";
  ASSERT_EQ(send(fd, words.data(), words.size(), 0), static_cast<ssize_t>(words.size()));
  RunUntil([&] { return !links_[0]->Gone().empty(); });
  EXPECT_EQ(links_[0]->WhyGone(1), "it talks nonsense");
  close(fd);
}

std::string Text(const absl::StatusOr<SocketAddress>& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ok() && address->any.sa_family == AF_INET) inet_ntop(AF_INET, &address->v4.sin_addr, text, sizeof(text));
  return text;
}

TEST(OwnAddress, IsOfTheInterfaceThatIsNamed) {
  for (const char* interfaces : {"lo", "=lo", "l", "nosuch,lo", "nosuch,=lo"}) {
    EXPECT_EQ(Text(OwnAddress(interfaces, "192.0.2.7:7070")), "127.0.0.1") << interfaces;
  }
  for (const char* interfaces : {"nosuch", "=l", ","}) {
    const absl::StatusOr<SocketAddress> own = OwnAddress(interfaces, "");
    EXPECT_EQ(own.status().code(), absl::StatusCode::kUnavailable) << interfaces;
    EXPECT_NE(std::string(own.status().message()).find("NCCL_SOCKET_IFNAME"), std::string::npos);
  }
}

TEST(OwnAddress, IsTheLoopbackIfNobodyIsElsewhere) { EXPECT_EQ(Text(OwnAddress("", "")), "127.0.0.1"); }

TEST(OwnAddress, OfARouterOnThisMachineSaysNothing) {
  const std::string here = Text(OwnAddress("^docker", "127.0.0.1:7070"));
  EXPECT_EQ(Text(OwnAddress("", "dns:///localhost:7070")), here);
  EXPECT_EQ(Text(OwnAddress("", "no port")), here) << "the way out, as without a router that can be found";
  EXPECT_NE(here, "");
}

}  // namespace
}  // namespace braid
