#include "expert_worker/exchange/in_process.h"

#include <fmt/format.h>

#include <cstring>
#include <deque>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status.h"
#include "expert_worker/exchange/frame.h"

// A sender leaves a pointer to its outgoing buffer in each peer's mailbox; the receiver reads straight from it. That is
// safe with two sets of buffers used in turn: before a sender writes into a set again it has finished the phase after
// the one that used it, so every peer has entered that phase and is done with the older messages. A message holds a
// share of its buffer, so a sender that goes away in the middle pulls no memory from under a reader.

namespace braid {
namespace {

constexpr uint64_t kConnecting = 0;  // the phase of Connect, which no step uses

struct Buffer {
  explicit Buffer(size_t bytes)
      : memory(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64}))), size(bytes) {}
  ~Buffer() { ::operator delete[](memory, std::align_val_t{64}); }
  Buffer(const Buffer&) = delete;
  std::byte* const memory;
  const size_t size;
};

struct Message {
  std::shared_ptr<const Buffer> buffer;
  size_t bytes = 0;  // frame header included
};

// Where one rank of one epoch receives. Thread-safe.
class Mailbox {
 public:
  explicit Mailbox(int size) : sources_(size) {}

  void Deliver(int source, Message message) {
    absl::MutexLock lock(&mutex_);
    sources_[source].messages.push_back(std::move(message));
  }
  void MarkGone(int source) {
    absl::MutexLock lock(&mutex_);
    sources_[source].gone = true;
  }
  void Abort(const std::string& reason) {
    absl::MutexLock lock(&mutex_);
    if (!abort_reason_) abort_reason_ = reason;
  }

  // `watcher` will be told when this mailbox's owner goes away. False if it has gone already.
  bool Watch(std::shared_ptr<Mailbox> watcher) {
    absl::MutexLock lock(&mutex_);
    if (!closed_) watchers_.push_back(std::move(watcher));
    return !closed_;
  }
  // The owner, of rank `self`, goes away.
  void Close(int self) {
    std::vector<std::shared_ptr<Mailbox>> watchers;
    {
      absl::MutexLock lock(&mutex_);
      closed_ = true;
      watchers.swap(watchers_);  // also cuts the cycle of two mailboxes that watch each other
    }
    for (const auto& watcher : watchers) watcher->MarkGone(self);
  }

  // One message of every other rank, by rank; on an error `suspects` gets the ranks that sent none. `phase` 0: of
  // Connect.
  absl::StatusOr<std::vector<Message>> TakeAll(int self, uint64_t phase, absl::Time deadline,
                                               std::vector<int>* suspects) {
    absl::MutexLock lock(&mutex_);
    self_ = self;
    phase_ = phase;
    waiting_since_ = absl::Now();
    const bool settled = mutex_.AwaitWithDeadline(absl::Condition(this, &Mailbox::Settled), deadline);
    waiting_since_ = absl::InfiniteFuture();
    if (abort_reason_) return absl::AbortedError(*abort_reason_);
    if (!AllHere()) return Accuse(settled, suspects);
    std::vector<Message> taken(sources_.size());
    for (int source = 0; source < static_cast<int>(sources_.size()); ++source) {
      if (source == self) continue;
      taken[source] = std::move(sources_[source].messages.front());
      sources_[source].messages.pop_front();
    }
    return taken;
  }

  ExchangeProgress progress() const {
    absl::MutexLock lock(&mutex_);
    ExchangeProgress progress = {.phase = phase_};
    if (phase_ == 0 || waiting_since_ == absl::InfiniteFuture()) return progress;
    progress.waited = absl::Now() - waiting_since_;
    for (int source = 0; source < static_cast<int>(sources_.size()); ++source) {
      if (Missing(source)) progress.waiting_for.push_back(source);
    }
    return progress;
  }

 private:
  struct Source {
    std::deque<Message> messages;  // at most two: nobody is more than one phase ahead
    bool gone = false;
  };

  bool Missing(int source) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return source != self_ && sources_[source].messages.empty();
  }
  bool AllHere() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (int source = 0; source < static_cast<int>(sources_.size()); ++source) {
      if (Missing(source)) return false;
    }
    return true;
  }
  bool SomeoneGone() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (int source = 0; source < static_cast<int>(sources_.size()); ++source) {
      if (Missing(source) && sources_[source].gone) return true;
    }
    return false;
  }
  bool Settled() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return abort_reason_ || SomeoneGone() || AllHere(); }

  absl::Status Accuse(bool gone, std::vector<int>* suspects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (int source = 0; source < static_cast<int>(sources_.size()); ++source) {
      if (Missing(source) && (!gone || sources_[source].gone)) suspects->push_back(source);
    }
    const std::string who = fmt::format("rank {}", fmt::join(*suspects, ", "));
    return gone ? absl::UnavailableError(who + " is gone") : absl::DeadlineExceededError(who + " sent nothing in time");
  }

  mutable absl::Mutex mutex_;
  std::vector<Source> sources_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Mailbox>> watchers_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<std::string> abort_reason_ ABSL_GUARDED_BY(mutex_);
  int self_ ABSL_GUARDED_BY(mutex_) = -1;
  uint64_t phase_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time waiting_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // in that phase, if it is not over
};

// All mailboxes of the process by id. Thread-safe.
class Hub {
 public:
  static Hub& Get() {
    static Hub* const hub = new Hub;  // never destroyed: workers may outlive statics
    return *hub;
  }
  uint64_t Add(std::weak_ptr<Mailbox> mailbox) {
    absl::MutexLock lock(&mutex_);
    mailboxes_[++last_id_] = std::move(mailbox);
    return last_id_;
  }
  void Remove(uint64_t id) {
    absl::MutexLock lock(&mutex_);
    mailboxes_.erase(id);
  }
  std::shared_ptr<Mailbox> Find(uint64_t id) const {
    absl::MutexLock lock(&mutex_);
    const auto it = mailboxes_.find(id);
    return it == mailboxes_.end() ? nullptr : it->second.lock();
  }

 private:
  mutable absl::Mutex mutex_;
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, std::weak_ptr<Mailbox>> mailboxes_ ABSL_GUARDED_BY(mutex_);
};

class InProcessExchange : public HostExchange {
 public:
  explicit InProcessExchange(const ExchangeOptions& options)
      : options_(options), mailbox_(std::make_shared<Mailbox>(options.size)), peers_(options.size) {
    id_ = Hub::Get().Add(mailbox_);
    address_ = EncodeAddress(options, std::string_view(reinterpret_cast<const char*>(&id_), sizeof(id_)));
    for (auto& set : outgoing_) set.resize(options.size);
  }

  ~InProcessExchange() override {
    Hub::Get().Remove(id_);
    mailbox_->Close(options_.rank);
  }

  const std::string& address() const override { return address_; }

  absl::Status Connect(std::span<const std::string> addresses) override {
    RETURN_IF_ERROR(failure_);
    if (static_cast<int>(addresses.size()) != options_.size) {
      return Fail(InvalidArgument(fmt::format("{} addresses for {} ranks", addresses.size(), options_.size)));
    }
    for (int rank = 0; rank < options_.size; ++rank) {
      if (rank == options_.rank) continue;
      if (absl::Status status = ConnectPeer(rank, addresses[rank]); !status.ok()) return Fail(status);
    }
    // An empty exchange: nobody goes on before everybody has come this far.
    const std::vector<size_t> nothing(options_.size);
    const absl::Status status = SendAndTake(kConnecting, nothing, absl::Now() + options_.connect_timeout);
    return status.ok() ? status : Fail(status);
  }

  std::span<std::byte> Outgoing(int peer) override {
    const Buffer& buffer = OutgoingBuffer(peer);
    return {buffer.memory + sizeof(FrameHeader), options_.message_bytes_max};
  }

  absl::Status AllToAll(uint64_t sequence, std::span<const size_t> bytes) override {
    CHECK_EQ(static_cast<int>(bytes.size()), options_.size);
    RETURN_IF_ERROR(failure_);
    const absl::Time start = absl::Now();
    const absl::Status status = SendAndTake(sequence, bytes, start + options_.timeout);
    waited_ += absl::Now() - start;
    return status.ok() ? status : Fail(status);
  }

  std::span<const std::byte> Incoming(int peer) const override {
    const Message& message = incoming_[peer];
    return {message.buffer->memory + sizeof(FrameHeader), message.bytes - sizeof(FrameHeader)};
  }

  void Abort(const std::string& reason) override { mailbox_->Abort(reason); }
  std::vector<int> suspects() const override { return suspects_; }
  absl::Duration waited() const override { return waited_; }
  ExchangeProgress progress() const override { return mailbox_->progress(); }

 private:
  absl::Status Fail(const absl::Status& status) {
    failure_ = status;
    return status;
  }

  absl::Status ConnectPeer(int rank, const std::string& address) {
    ASSIGN_OR_RETURN(const std::string_view mailbox_id, DecodeAddress(address, options_, rank));
    uint64_t id = 0;
    if (mailbox_id.size() != sizeof(id)) return InvalidArgument(fmt::format("address of rank {}: not a mailbox", rank));
    std::memcpy(&id, mailbox_id.data(), sizeof(id));
    peers_[rank] = Hub::Get().Find(id);
    if (peers_[rank] && peers_[rank]->Watch(mailbox_)) return absl::OkStatus();
    suspects_.push_back(rank);
    return absl::UnavailableError(fmt::format("rank {} is gone, or in another process", rank));
  }

  const Buffer& OutgoingBuffer(int peer) {
    auto& buffer = outgoing_[phase_ % 2][peer];
    if (!buffer) buffer = std::make_shared<Buffer>(sizeof(FrameHeader) + options_.message_bytes_max);
    return *buffer;
  }

  absl::Status SendAndTake(uint64_t sequence, std::span<const size_t> bytes, absl::Time deadline) {
    for (int peer = 0; peer < options_.size; ++peer) {
      if (peer == options_.rank) continue;
      CHECK_LE(bytes[peer], options_.message_bytes_max);
      const FrameHeader header = MakeFrameHeader(options_, sequence, bytes[peer]);
      std::memcpy(OutgoingBuffer(peer).memory, &header, sizeof(header));
      peers_[peer]->Deliver(options_.rank, {outgoing_[phase_ % 2][peer], sizeof(header) + bytes[peer]});
    }
    ++phase_;
    ASSIGN_OR_RETURN(incoming_, mailbox_->TakeAll(options_.rank, sequence, deadline, &suspects_));
    for (int peer = 0; peer < options_.size; ++peer) {
      if (peer == options_.rank) continue;
      const Message& message = incoming_[peer];
      const absl::Status status = CheckFrame({message.buffer->memory, message.bytes}, options_, peer, sequence);
      if (!status.ok()) suspects_.push_back(peer);
      RETURN_IF_ERROR(status);
    }
    return absl::OkStatus();
  }

  const ExchangeOptions options_;
  const std::shared_ptr<Mailbox> mailbox_;
  uint64_t id_ = 0;
  std::string address_;
  std::vector<std::shared_ptr<Mailbox>> peers_;             // by rank; the own stays null
  std::vector<std::shared_ptr<const Buffer>> outgoing_[2];  // by parity of the phase and rank, made when first used
  std::vector<Message> incoming_;
  uint64_t phase_ = 0;
  absl::Status failure_;
  std::vector<int> suspects_;
  absl::Duration waited_;
};

class InProcessFactory : public HostExchangeFactory {
 public:
  absl::StatusOr<std::unique_ptr<HostExchange>> PrepareHost(const ExchangeOptions& options) override {
    return std::make_unique<InProcessExchange>(options);
  }
};

}  // namespace

std::unique_ptr<HostExchangeFactory> MakeInProcessExchangeFactory() { return std::make_unique<InProcessFactory>(); }

}  // namespace braid
