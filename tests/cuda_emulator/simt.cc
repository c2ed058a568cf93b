// Runs a launch: blocks one after another, threads on fibers, all on the calling thread.
//
// Threads meet at two kinds of places. At a barrier all threads of the block, at a warp operation the lanes of its
// mask. Who comes first leaves what it brings and switches to another; who comes last does the operation for all and
// makes the others ready. Nothing else switches, but for atomics and spinning loops: what plain accesses do to each
// other between two such places is ThreadSanitizer's to see. For it each fiber is a thread, and these are the only
// orders:
//   the host before the launch -> every thread -> the host after it;
//   all that arrive at a barrier or __syncwarp -> all that leave it. (A shuffle orders nothing.)
// So that thread k of one block is not before thread k of the next, neighbouring blocks run on other fibers, and each
// stream has its own.
//
// This file is built without -fsanitize and does not allocate while it is on a fiber.

#include "tests/cuda_emulator/simt.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "tests/cuda_emulator/fiber.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/schedule.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace simt {
namespace {

constexpr int kThreadsMax = 1024;
constexpr int kFiberSets = kThreadSanitizer ? 3 : 1;
constexpr size_t kStackBytes = 256 << 10, kGuardBytes = 4 << 10;
constexpr int kCopiesMax = 64;               // a thread's cp.async in flight
constexpr int kRoundsOfSpinningMax = 10000;  // in which every thread only spins or waits

enum class State : uint8_t { kReady, kAtWarp, kAtBarrier, kSleeping, kExited };

struct Copy {
  char* to;
  const char* from;
  int bytes, bytes_read;
  int group;
  bool landed;

  void Land() {
    for (int k = 0; k < bytes; ++k) to[k] = k < bytes_read ? from[k] : 0;
    landed = true;
  }
};

struct Thread {
  Fiber* fiber = nullptr;
  int id = 0;
  uint3 index{};
  State state = State::kReady;
  bool started = false;
  Here at{nullptr, 0};  // where it waits
  // At a warp operation:
  const internal::WarpOperation* operation = nullptr;
  uint32_t mask = 0;
  void* data = nullptr;
  int point = -1;  // index of the sync point that it released to and will acquire from
  // cp.async that have not landed:
  std::array<Copy, kCopiesMax> copies;
  int copies_count = 0, copy_groups = 0;

  int warp() const { return id / 32; }
  int lane() const { return id % 32; }
};

// What a rendezvous orders memory with. In use from the first arrival to the last departure.
struct Point {
  SyncPoint sync;
  int users = 0;
};

struct Failure {
  bool set = false;
  ErrorKind kind{};
  Here at{nullptr, 0};
  int thread = -1;  // that ran into it; -1 if nobody did
  char text[512];
};

class Machine {
 public:
  void Run(const LaunchConfig& config, const Body& body);

  // On a fiber:
  void AtWarp(const internal::WarpOperation& operation, uint32_t mask, void* data, Here at);
  int AtBarrier(internal::Vote vote, bool predicate, Here at);
  void MayYield();
  void Sleep(Here at);
  bool CopyLandsAtOnce();
  [[noreturn]] void Fail(ErrorKind kind, Here at, const char* format, va_list arguments);
  void LiveOnce();  // a thread's life in one block
  Thread& self() { return threads_[current_]; }
  SharedMemory& shared() { return *shared_; }
  const LaunchConfig& config() const { return *config_; }
  bool in_kernel() const { return current_ >= 0; }

  uint64_t seed = 0;
  Counts counts;

 private:
  static void FiberMain();
  Fiber* PrepareFibers(int set);
  void RunBlock(uint64_t number, uint64_t slot, Fiber* fibers);
  [[noreturn]] void Throw();
  std::string Describe(const Failure& failure) const;
  std::string WhoWaits() const;

  void GoOn();
  void SwitchTo(int thread);
  void SwitchToHost();
  void Wait();
  void MakeReady(Thread& thread);
  void WakeSleepers();
  int TakePoint();
  void Meet(Thread& thread, Point& point);
  void Depart(Thread& thread);
  void CompleteWarp(uint32_t mask);
  void Exit();
  [[noreturn]] void Fail(ErrorKind kind, Here at, const char* format, ...) __attribute__((format(printf, 4, 5)));

  const LaunchConfig* config_ = nullptr;
  const Body* body_ = nullptr;
  std::optional<size_t> allowed_;  // of dynamic shared memory, if somebody has
  int threads_count_ = 0;
  uint64_t block_ = 0;
  std::unique_ptr<SharedMemory> shared_ = std::make_unique<SharedMemory>();
  std::unique_ptr<Thread[]> threads_{new Thread[kThreadsMax]};
  // By stream, where ThreadSanitizer needs it, and set; kThreadsMax each. An unused one has no stack, an abandoned one
  // a stack but nothing to do.
  std::map<std::pair<cudaStream_t, int>, std::unique_ptr<Fiber[]>> fibers_;
  Fiber host_;
  int current_ = -1;
  Schedule schedule_;
  int live_ = 0, sleeping_ = 0, rounds_of_spinning_ = 0;
  std::array<uint32_t, Schedule::kWarpsMax> at_warp_{}, exited_{};  // lanes, by warp
  int at_barrier_ = 0;
  int first_at_barrier_ = -1;
  int votes_ = 0, votes_before_ = 0;  // for the predicate: of the barrier that fills, and of the one that was left last
  Point points_[kThreadsMax + 2];
  std::array<int16_t, kThreadsMax + 2> free_points_;
  int free_points_count_ = 0;
  SyncPoint start_, end_;
  Failure failure_;
};

// Leaked: LeakSanitizer must not see the fibers' stacks go.
Machine& machine() {
  static Machine* const machine = new Machine;
  return *machine;
}

SpinLock run_lock;

// Compilers' caches make paths relative to the folder of the build.
const char* Shortened(const char* file) {
  while (std::strncmp(file, "../", 3) == 0) file += 3;
  return file;
}
std::string Place(const Here& at) { return std::string(Shortened(at.file)) + ":" + std::to_string(at.line); }

bool SamePlace(const Here& a, const Here& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// ---- The host's side.

Fiber* Machine::PrepareFibers(int set) {
  std::unique_ptr<Fiber[]>& fibers = fibers_[{kThreadSanitizer ? config_->stream.stream : nullptr, set}];
  if (fibers == nullptr) fibers.reset(new Fiber[kThreadsMax]);
  for (int i = 0; i < threads_count_; ++i) {
    Fiber& fiber = fibers[i];
    if (fiber.stack == nullptr) {
      void* mapped = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
      if (mapped == MAP_FAILED || mprotect(mapped, kGuardBytes, PROT_NONE) != 0) std::abort();
      fiber.stack = static_cast<char*>(mapped) + kGuardBytes;
    }
    if (fiber.stack_pointer == nullptr) Prepare(&fiber, fiber.stack, kStackBytes, FiberMain);
  }
  return fibers.get();
}

// What AllowSharedBytes has said.
SpinLock allowed_lock;  // not the one that a launch holds while it runs
std::optional<size_t> AllowedBytes(const void* kernel, std::optional<size_t> more = std::nullopt) {
  static auto* const allowed = new std::map<const void*, size_t>;
  const SpinLock::Held held(&allowed_lock);
  if (more.has_value()) (*allowed)[kernel] = *more;
  const auto found = allowed->find(kernel);
  return found == allowed->end() ? std::nullopt : std::optional(found->second);
}

void Machine::Run(const LaunchConfig& config, const Body& body) {
  config_ = &config;
  body_ = &body;
  allowed_ = AllowedBytes(config.kernel);
  gridDim = config.grid;
  blockDim = config.block;
  threads_count_ = static_cast<int>(config.block.x * config.block.y * config.block.z);
  host_ = AdoptThread();
  failure_.set = false;
  ++counts.launches;

  const uint64_t blocks = uint64_t{config.grid.x} * config.grid.y * config.grid.z;
  Random random(seed);
  std::vector<uint64_t> order;
  if (PolicyOf(seed) >= Policy::kRandom) {
    for (uint64_t i = 0; i < blocks; ++i) order.push_back(i);
    for (uint64_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[random.Next() % i]);
  }
  Fiber* sets[kFiberSets] = {};
  for (int set = 0; set < kFiberSets && static_cast<uint64_t>(set) < blocks; ++set) sets[set] = PrepareFibers(set);
  ReleaseFirst(&end_);
  for (uint64_t i = 0; i < blocks; ++i) {
    if (i % SharedMemory::kSlots == 0) {
      shared_->RenewSlots();
      ReleaseFirst(&start_);
    }
    const uint64_t number = !order.empty() ? order[i] : PolicyOf(seed) == Policy::kDescending ? blocks - 1 - i : i;
    RunBlock(number, i, sets[i % kFiberSets]);
    if (failure_.set) Throw();
  }
  Acquire(&end_);
  if (const GlobalBytes* overrun = GlobalBytes::FindOverrun()) {
    throw Error(ErrorKind::kGlobalOverrun, Place(config.stream.at) + ": the launch wrote beside a GlobalArray of " +
                                               std::to_string(overrun->bytes()) + " bytes, seed " +
                                               std::to_string(seed));
  }
}

void Machine::RunBlock(uint64_t number, uint64_t slot, Fiber* fibers) {
  ++counts.blocks;
  block_ = number;
  const dim3 &grid = config_->grid, &block = config_->block;
  blockIdx = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
              static_cast<unsigned>(number / grid.x / grid.y)};
  if (allowed_.has_value()) {
    shared_->StartBlock(slot, seed, config_->shared_bytes, *allowed_, config_->shared_bytes_max);
  } else {
    shared_->StartBlock(slot, seed, config_->shared_bytes, config_->shared_bytes, SharedMemory::kStaticBytesMax);
  }
  schedule_.Start(seed, number, threads_count_ / 32);
  live_ = threads_count_;
  sleeping_ = rounds_of_spinning_ = 0;
  at_warp_.fill(0);
  exited_.fill(0);
  at_barrier_ = 0;
  first_at_barrier_ = -1;
  votes_ = 0;
  free_points_count_ = 0;
  for (int i = kThreadsMax + 1; i >= 0; --i) {
    free_points_[free_points_count_++] = static_cast<int16_t>(i);
    points_[i].users = 0;
  }
  for (int i = 0; i < threads_count_; ++i) {
    Thread& thread = threads_[i];
    thread.fiber = &fibers[i];
    thread.id = i;
    thread.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    thread.state = State::kReady;
    thread.started = false;
    thread.point = -1;
    thread.copies_count = thread.copy_groups = 0;
    schedule_.SetReady(i);
  }
  current_ = schedule_.Next(-1);
  threadIdx = self().index;
  Switch(&host_, self().fiber);  // back when all have returned, or one has failed
  current_ = -1;
  if (failure_.set) return;
  if (const SharedMemory::Array* array = shared_->FindOverrun()) {
    failure_.set = true;
    failure_.kind = ErrorKind::kSharedOverrun;
    failure_.at = array->at;
    failure_.thread = -1;
    std::snprintf(failure_.text, sizeof failure_.text, "written beside %s, of %zu bytes", array->name, array->bytes);
  }
}

// Every thread that has not returned is ended where it stands, after all it did.
void Machine::Throw() {
  for (int i = 0; i < threads_count_; ++i) {
    Thread& thread = threads_[i];
    if (!thread.started || (thread.state == State::kExited && i != failure_.thread)) continue;
    ReleaseFor(thread.fiber, &end_);
    Abandon(thread.fiber);
  }
  Acquire(&end_);
  throw Error(failure_.kind, Describe(failure_));
}

std::string Machine::Describe(const Failure& failure) const {
  const dim3& grid = config_->grid;
  std::string message = Place(failure.at) + ": " + failure.text;
  const bool everybody = failure.kind == ErrorKind::kDeadlock || failure.kind == ErrorKind::kLivelock;
  if (everybody) message += WhoWaits();
  message += "; ";
  if (failure.thread >= 0 && !everybody) message += "thread " + std::to_string(failure.thread) + " of ";
  return message + "block (" + std::to_string(block_ % grid.x) + ", " + std::to_string(block_ / grid.x % grid.y) +
         ", " + std::to_string(block_ / grid.x / grid.y) + ") of the launch at " + Place(config_->stream.at) +
         ", seed " + std::to_string(seed);
}

// "3 threads at the barrier x.cu:7: 0 2 4; ..."
std::string Machine::WhoWaits() const {
  std::map<std::string, std::vector<int>> places;
  for (int i = 0; i < threads_count_; ++i) {
    const Thread& thread = threads_[i];
    if (thread.state == State::kExited || thread.state == State::kReady) continue;
    const std::string what = thread.state == State::kAtBarrier  ? "the barrier"
                             : thread.state == State::kSleeping ? "the spinning loop"
                                                                : thread.operation->name;
    places[what + " " + Place(thread.at)].push_back(i);
  }
  std::string text;
  for (const auto& [place, ids] : places) {
    text += (text.empty() ? ": " : "; ") + std::to_string(ids.size()) + " threads at " + place + ":";
    for (size_t i = 0; i < ids.size() && i < 8; ++i) text += " " + std::to_string(ids[i]);
    if (ids.size() > 8) text += " ..";
  }
  return text;
}

// ---- The fibers' side.

void Machine::FiberMain() {
  EnterFiber();
  for (;;) machine().LiveOnce();
}

void Machine::LiveOnce() {
  self().started = true;
  Acquire(&start_);
  (*body_)();
  Exit();
}

void Machine::SwitchTo(int next) {
  Thread& from = self();
  if (next == current_) return;
  ++counts.switches;
  current_ = next;
  threadIdx = self().index;
  Switch(from.fiber, self().fiber);
}

void Machine::SwitchToHost() { Switch(self().fiber, &host_); }

// The running thread has said what it is, ready or waiting.
void Machine::GoOn() {
  if (sleeping_ > 0 && schedule_.OneIn(4)) WakeSleepers();
  int next = schedule_.Next(current_);
  if (next < 0 && sleeping_ > 0) {
    WakeSleepers();
    next = schedule_.Next(current_);
    if (++rounds_of_spinning_ > kRoundsOfSpinningMax) {
      for (int i = 0; i < threads_count_; ++i)  // as they were, for the list
        if (threads_[i].state == State::kReady) threads_[i].state = State::kSleeping;
      Fail(ErrorKind::kLivelock, self().at, "spins without end");
    }
  }
  if (next < 0) {
    int waiting = 0;
    while (threads_[waiting].state == State::kExited) ++waiting;
    Fail(ErrorKind::kDeadlock, threads_[waiting].at, "deadlock");
  }
  SwitchTo(next);
}

void Machine::Wait() {
  schedule_.SetWaiting(current_);
  GoOn();
}

void Machine::MakeReady(Thread& thread) {
  thread.state = State::kReady;
  schedule_.SetReady(thread.id);
}

void Machine::WakeSleepers() {
  for (int i = 0; i < threads_count_; ++i)
    if (threads_[i].state == State::kSleeping) MakeReady(threads_[i]);
  sleeping_ = 0;
}

int Machine::TakePoint() { return free_points_[--free_points_count_]; }

void Machine::Meet(Thread& thread, Point& point) {
  thread.point = static_cast<int>(&point - points_);
  if (point.users++ == 0)
    ReleaseFirst(&point.sync);
  else
    Release(&point.sync);
}

void Machine::Depart(Thread& thread) {
  if (thread.point < 0) return;
  Point& point = points_[thread.point];
  Acquire(&point.sync);
  if (--point.users == 0) free_points_[free_points_count_++] = static_cast<int16_t>(thread.point);
  thread.point = -1;
}

void Machine::AtWarp(const internal::WarpOperation& operation, uint32_t mask, void* data, Here at) {
  Thread& thread = self();
  const uint32_t bit = 1u << thread.lane();
  if ((mask & bit) == 0)
    Fail(ErrorKind::kBadMask, at, "%s by lane %d, not in its mask %08x", operation.name, thread.lane(), mask);
  if ((mask & exited_[thread.warp()]) != 0)
    Fail(ErrorKind::kExited, at, "%s waits for lanes %08x, which have returned", operation.name,
         mask & exited_[thread.warp()]);
  // Those that wait with the same mask wait for this one. Others in the mask may come to this place later, unless they
  // wait for this one at another.
  Thread* const warp = &threads_[thread.warp() * 32];
  uint32_t fellows = 0;
  for (uint32_t lanes = at_warp_[thread.warp()] & mask; lanes != 0; lanes &= lanes - 1) {
    const Thread& other = warp[__builtin_ctz(lanes)];
    if (other.mask == mask)
      fellows |= lanes & -lanes;
    else if ((other.mask & bit) != 0)
      Fail(ErrorKind::kMismatch, at, "%s with mask %08x meets lane %d's with %08x", operation.name, mask, other.lane(),
           other.mask);
  }
  if (fellows != 0) {
    const Thread& other = warp[__builtin_ctz(fellows)];
    if (other.operation != &operation || !SamePlace(other.at, at))
      Fail(ErrorKind::kMismatch, at, "%s meets lane %d's %s at %s:%d", operation.name, other.lane(),
           other.operation->name, Shortened(other.at.file), other.at.line);
  }
  thread.state = State::kAtWarp;
  thread.at = at;
  thread.operation = &operation;
  thread.mask = mask;
  thread.data = data;
  if (operation.orders_memory) Meet(thread, points_[fellows != 0 ? warp[__builtin_ctz(fellows)].point : TakePoint()]);
  if ((fellows | bit) == mask) {
    CompleteWarp(mask);
    if (schedule_.Preempts()) GoOn();
  } else {
    at_warp_[thread.warp()] |= bit;
    Wait();
  }
  Depart(thread);
}

void Machine::CompleteWarp(uint32_t mask) {
  Thread* const warp = &threads_[self().warp() * 32];
  void* data[32];
  for (int lane = 0; lane < 32; ++lane) data[lane] = (mask >> lane & 1) != 0 ? warp[lane].data : nullptr;
  if (self().operation->run != nullptr) self().operation->run(data, mask);
  for (uint32_t lanes = mask; lanes != 0; lanes &= lanes - 1) MakeReady(warp[__builtin_ctz(lanes)]);
  at_warp_[self().warp()] &= ~mask;
  rounds_of_spinning_ = 0;
}

int Machine::AtBarrier(internal::Vote vote, bool predicate, Here at) {
  Thread& thread = self();
  if (live_ < threads_count_)
    Fail(ErrorKind::kExited, at, "a barrier after %d threads have returned", threads_count_ - live_);
  if (at_barrier_ > 0) {
    const Thread& first = threads_[first_at_barrier_];
    if (!SamePlace(first.at, at))
      Fail(ErrorKind::kDivergentBarrier, at, "divergent barrier: thread %d waits at %s:%d", first.id,
           Shortened(first.at.file), first.at.line);
  } else {
    first_at_barrier_ = thread.id;
    votes_ = 0;
  }
  thread.state = State::kAtBarrier;
  thread.at = at;
  Meet(thread, points_[at_barrier_ > 0 ? threads_[first_at_barrier_].point : TakePoint()]);
  votes_ += predicate ? 1 : 0;
  if (++at_barrier_ == threads_count_) {
    at_barrier_ = 0;
    votes_before_ = votes_;
    rounds_of_spinning_ = 0;
    for (int i = 0; i < threads_count_; ++i) MakeReady(threads_[i]);
    if (schedule_.Preempts()) GoOn();
  } else {
    Wait();
  }
  Depart(thread);
  // Nobody can fill the next barrier before this thread gets there.
  switch (vote) {
    case internal::Vote::kAnd:
      return votes_before_ == threads_count_;
    case internal::Vote::kOr:
      return votes_before_ != 0;
    default:
      return votes_before_;
  }
}

void Machine::MayYield() {
  if (schedule_.Preempts()) GoOn();
}

void Machine::Sleep(Here at) {
  self().at = at;
  self().state = State::kSleeping;
  ++sleeping_;
  Wait();
}

bool Machine::CopyLandsAtOnce() {
  const Policy policy = PolicyOf(seed);
  return policy == Policy::kDescending || (policy >= Policy::kRandom && schedule_.OneIn(2));
}

void Machine::Exit() {
  Thread& thread = self();
  const uint32_t bit = 1u << thread.lane();
  if (at_barrier_ > 0) {
    const Thread& first = threads_[first_at_barrier_];
    Fail(ErrorKind::kExited, first.at, "thread %d returns while thread %d waits at this barrier", thread.id, first.id);
  }
  for (uint32_t lanes = at_warp_[thread.warp()]; lanes != 0; lanes &= lanes - 1) {
    const Thread& other = threads_[thread.warp() * 32 + __builtin_ctz(lanes)];
    if ((other.mask & bit) != 0)
      Fail(ErrorKind::kExited, other.at, "lane %d returns while lane %d waits for it in %s", thread.lane(),
           other.lane(), other.operation->name);
  }
  thread.state = State::kExited;
  exited_[thread.warp()] |= bit;
  rounds_of_spinning_ = 0;
  Release(&end_);
  if (--live_ > 0)
    Wait();
  else
    SwitchToHost();
}

void Machine::Fail(ErrorKind kind, Here at, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  Fail(kind, at, format, arguments);
  va_end(arguments);
}

void Machine::Fail(ErrorKind kind, Here at, const char* format, va_list arguments) {
  failure_.set = true;
  failure_.kind = kind;
  failure_.at = at;
  failure_.thread = current_;
  std::vsnprintf(failure_.text, sizeof failure_.text, format, arguments);
  SwitchToHost();
  std::abort();  // nobody comes back here
}

// ---- Launches.

std::atomic<TakeLaunch> take_launch{nullptr};
std::atomic<uint64_t> standing_clock{0};

void CheckLaunch(const LaunchConfig& config, size_t parameter_bytes) {
  const dim3 &grid = config.grid, &block = config.block;
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorKind::kLaunch, Place(config.stream.at) + ": " + why);
  };
  const auto name = [](const dim3& d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
  };
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535)
    refuse("a grid of " + name(grid) + " blocks: from 1 to 2^31 - 1, 65535 and 65535");
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kThreadsMax || block.z > 64)
    refuse("a block of " + name(block) + " threads: from 1 to 1024");
  if (threads % 32 != 0) refuse("a block of " + name(block) + " threads: whole warps, please");
  const size_t allowed = AllowedBytes(config.kernel).value_or(SharedMemory::kStaticBytesMax);
  if (config.shared_bytes > allowed)
    refuse(std::to_string(config.shared_bytes) + " bytes of dynamic shared memory, AllowSharedBytes said " +
           std::to_string(allowed));
  if (parameter_bytes > 32764) refuse(std::to_string(parameter_bytes) + " bytes of arguments: at most 32764");
}

}  // namespace

void SetSeed(uint64_t seed) {
  const SpinLock::Held held(&run_lock);
  machine().seed = seed;
}
uint64_t Seed() { return machine().seed; }
std::vector<uint64_t> Seeds() {
  int count = kThreadSanitizer || kAddressSanitizer ? 4 : 10;
  if (const char* wanted = std::getenv("SIMT_SEEDS")) count = std::atoi(wanted);
  std::vector<uint64_t> seeds;
  for (int seed = 0; seed < count; ++seed) seeds.push_back(seed);
  return seeds;
}
Counts Totals() { return machine().counts; }

uint64_t ClockNs() {
  if (const uint64_t set = standing_clock.load(std::memory_order_relaxed); set != 0) return set;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}
void SetClock(uint64_t ns) { standing_clock.store(ns, std::memory_order_relaxed); }
void MoveClock(uint64_t ns) { standing_clock.fetch_add(ns, std::memory_order_relaxed); }

void AllowSharedBytes(const void* kernel, size_t bytes) {
  if (bytes > SharedMemory::kBytesMax)
    throw Error(ErrorKind::kLaunch, "AllowSharedBytes: " + std::to_string(bytes) + ", a block has at most " +
                                        std::to_string(SharedMemory::kBytesMax));
  if (const size_t before = AllowedBytes(kernel).value_or(0); bytes < before)
    throw Error(ErrorKind::kLaunch, "AllowSharedBytes: " + std::to_string(bytes) + ", after " + std::to_string(before) +
                                        " for others that launch the kernel");
  AllowedBytes(kernel, bytes);
}

void SetTakeLaunch(TakeLaunch take) { take_launch = take; }

cudaError_t Submit(const LaunchConfig& config, size_t parameter_bytes, Body body) {
  CheckLaunch(config, parameter_bytes);
  if (const TakeLaunch take = take_launch) return take(config, std::move(body));
  Run(config, body);
  return cudaSuccess;
}

void Run(const LaunchConfig& config, const Body& body) {
  const SpinLock::Held held(&run_lock);
  machine().Run(config, body);
}

namespace internal {

void AtWarp(const WarpOperation& operation, uint32_t mask, void* data, Here at) {
  machine().AtWarp(operation, mask, data, at);
}
int AtBarrier(Vote vote, bool predicate, Here at) { return machine().AtBarrier(vote, predicate, at); }
int ThisLane() { return machine().self().lane(); }
void* SharedArray(const void* key, const char* name, size_t bytes, Here at) {
  return machine().shared().Static(key, name, bytes, at);
}
void* DynamicSharedArray(int index, size_t bytes, Here at) { return machine().shared().Dynamic(index, bytes, at); }

void CheckLaunchBounds(int threads, Here at) {
  const dim3& block = machine().config().block;
  if (block.x * block.y * block.z > static_cast<unsigned>(threads))
    Fail(ErrorKind::kLaunch, at, "a block of %u threads, launch bounds say %d", block.x * block.y * block.z, threads);
}

void Fail(ErrorKind kind, Here at, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  machine().Fail(kind, at, format, arguments);
}
void FailHere(ErrorKind kind, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  machine().Fail(kind, machine().self().at, format, arguments);
}

void NeedArchitecture(int least, const char* instruction, Here at) {
  if (const int has = machine().config().architecture; has < least)
    Fail(ErrorKind::kTrap, at, "%s is of sm_%d, the kernel was compiled for sm_%d", instruction, least, has);
}

void MayYield() {
  if (machine().in_kernel()) machine().MayYield();
}
void Sleep(Here at) { machine().Sleep(at); }

void NeedGlobal(const void* p, int bytes) {
  if (machine().shared().Holding(p, bytes) != nullptr)
    FailHere(ErrorKind::kSharedMemory, "an atomic of %d bytes in shared memory", bytes);
}

// Lands at once or when it is waited for. A kernel that does not wait reads what was there before, and one that copies
// over what others still read takes it from them.
void AsyncCopy(void* shared, const void* global, int bytes, int bytes_read, Here at) {
  Thread& thread = machine().self();
  const uintptr_t both = reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global);
  if ((bytes != 4 && bytes != 8 && bytes != 16) || bytes_read < 0 || bytes_read > bytes)
    Fail(ErrorKind::kAsyncCopy, at, "cp.async of %d bytes, %d of them read", bytes, bytes_read);
  if (both % bytes != 0) Fail(ErrorKind::kMisaligned, at, "cp.async of %d bytes from %p to %p", bytes, global, shared);
  if (machine().shared().Holding(shared, bytes) == nullptr)
    Fail(ErrorKind::kAsyncCopy, at, "cp.async of %d bytes to %p, which no shared array holds", bytes, shared);
  if (bytes_read > 0 && IsPoisoned(global, bytes_read))
    Fail(ErrorKind::kAsyncCopy, at, "cp.async of %d bytes from %p, beside its array", bytes_read, global);
  if (thread.copies_count == kCopiesMax)
    Fail(ErrorKind::kAsyncCopy, at, "more than %d cp.async of a thread in flight", kCopiesMax);
  Copy& copy = thread.copies[thread.copies_count++];
  copy = {static_cast<char*>(shared), static_cast<const char*>(global), bytes, bytes_read, thread.copy_groups, false};
  if (machine().CopyLandsAtOnce()) copy.Land();
}

void AsyncCommit() { ++machine().self().copy_groups; }

void AsyncWait(int groups_left, void (*landed)(void* to, int bytes)) {
  Thread& thread = machine().self();
  int kept = 0;
  for (int i = 0; i < thread.copies_count; ++i) {
    Copy& copy = thread.copies[i];
    if (copy.group >= thread.copy_groups - groups_left) {
      thread.copies[kept++] = copy;
      continue;
    }
    if (!copy.landed) copy.Land();
    landed(copy.to, copy.bytes);
  }
  thread.copies_count = kept;
}

}  // namespace internal
}  // namespace simt
