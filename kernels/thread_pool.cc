#include "kernels/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/check.h"

// One job at a time. Its state is one word, (job number, next unclaimed index): a claim is a compare-and-swap on it, so
// a thread that comes late, or was asleep for several jobs, can never claim from a job whose description it did not
// read. Before a job's description is written the index goes to kClosed, which is past any end.

namespace braid {
namespace {

constexpr uint32_t kClosed = 0xFFFFFFFFu;
// About what a wake-up by futex costs. Within a step the next job comes sooner than this; an idle server parks.
constexpr auto kSpin = std::chrono::microseconds(40);

uint64_t Word(uint32_t job, uint32_t index) { return uint64_t{job} << 32 | index; }

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `value` is no longer `old`: spins a little, then parks.
void WaitWhile(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto until = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < until);
  value.wait(old, std::memory_order_acquire);
}

// The cores that this process may use; empty if the system does not say.
std::vector<int> UsableCores() {
  std::vector<int> cores;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

// Best effort: a container may forbid it, and then the scheduler decides.
void PinTo(int core, std::thread& thread) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
}

}  // namespace

struct ThreadPool::Impl {
  using Body = absl::FunctionRef<void(int, int)>;

  // Claims and runs ranges until none is left.
  void Work();
  void WorkerLoop();
  void Publish(int n, int grain, const Body& body);

  // The description of the current job. A late thread may read it while the next one is written. Release and acquire
  // make sure that who sees any of the new values sees the closed word too, so that its claim fails.
  std::atomic<int> n{0}, grain{1};
  std::atomic<const Body*> body{nullptr};

  alignas(64) std::atomic<uint64_t> claim{Word(0, kClosed)};
  alignas(64) std::atomic<uint32_t> unfinished{0};  // indices not yet done; 0 ends the job
  alignas(64) std::atomic<uint32_t> published{0};   // jobs so far; workers wait on it
  std::atomic<bool> stop{false};
  std::vector<std::thread> workers;
};

void ThreadPool::Impl::Work() {
  const uint32_t threads = static_cast<uint32_t>(workers.size()) + 1;
  uint64_t word = claim.load(std::memory_order_acquire);
  for (;;) {
    const uint32_t begin = static_cast<uint32_t>(word);
    const uint32_t end = static_cast<uint32_t>(n.load(std::memory_order_acquire));
    if (begin >= end) return;
    // Large ranges first, small ones at the end to even out.
    const uint32_t share = (end - begin) / (4 * threads);
    const uint32_t length =
        std::min(end - begin, std::max(static_cast<uint32_t>(grain.load(std::memory_order_acquire)), share));
    const Body* run = body.load(std::memory_order_acquire);
    if (!claim.compare_exchange_weak(word, word + length, std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    (*run)(static_cast<int>(begin), static_cast<int>(begin + length));
    if (unfinished.fetch_sub(length, std::memory_order_acq_rel) == length) unfinished.notify_one();
    word = claim.load(std::memory_order_acquire);
  }
}

void ThreadPool::Impl::WorkerLoop() {
  uint32_t seen = 0;
  while (!stop.load(std::memory_order_acquire)) {
    WaitWhile(published, seen);
    seen = published.load(std::memory_order_acquire);
    Work();
  }
}

void ThreadPool::Impl::Publish(int job_n, int job_grain, const Body& job_body) {
  const uint32_t job = published.load(std::memory_order_relaxed) + 1;
  claim.store(Word(job, kClosed), std::memory_order_relaxed);
  n.store(job_n, std::memory_order_release);
  grain.store(job_grain, std::memory_order_release);
  body.store(&job_body, std::memory_order_release);
  unfinished.store(static_cast<uint32_t>(job_n), std::memory_order_relaxed);
  claim.store(Word(job, 0), std::memory_order_release);
  published.store(job, std::memory_order_seq_cst);
  published.notify_all();
}

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  CHECK(threads >= 1);
  for (int i = 1; i < threads; ++i) impl_->workers.emplace_back();
  for (std::thread& worker : impl_->workers) worker = std::thread([this] { impl_->WorkerLoop(); });
  const std::vector<int> cores = UsableCores();
  if (static_cast<int>(cores.size()) != threads) return;
  for (size_t i = 0; i < impl_->workers.size(); ++i) PinTo(cores[i + 1], impl_->workers[i]);
}

ThreadPool::~ThreadPool() {
  impl_->stop.store(true, std::memory_order_release);
  impl_->published.fetch_add(1, std::memory_order_seq_cst);
  impl_->published.notify_all();
  for (std::thread& worker : impl_->workers) worker.join();
}

int ThreadPool::threads() const { return static_cast<int>(impl_->workers.size()) + 1; }

void ThreadPool::ParallelFor(int n, int grain, absl::FunctionRef<void(int begin, int end)> body) {
  CHECK(grain >= 1);
  if (n <= 0) return;
  if (n <= grain || impl_->workers.empty()) return body(0, n);
  impl_->Publish(n, grain, body);
  impl_->Work();
  for (uint32_t left; (left = impl_->unfinished.load(std::memory_order_acquire)) != 0;)
    WaitWhile(impl_->unfinished, left);
}

}  // namespace braid
