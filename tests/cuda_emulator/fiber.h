#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

// Stacks that are switched by hand, each of which the sanitizers take for a thread of its own, and the words in which
// the emulator tells ThreadSanitizer what is ordered before what. Built without -fsanitize, with SIMT_ASAN or
// SIMT_TSAN where the program has one: what happens in here is nobody's access.

namespace simt {

struct Fiber {
  void* stack_pointer = nullptr;  // while it is not running
  char* stack = nullptr;
  size_t stack_bytes = 0;
  void* tsan = nullptr;        // ThreadSanitizer's context
  void* fake_stack = nullptr;  // AddressSanitizer's
};

// The calling thread, to be switched away from and back to.
Fiber AdoptThread();
// A fiber that will run entry(), which must not return, on this memory. A new thread to ThreadSanitizer, after all that
// the caller has done.
void Prepare(Fiber* fiber, char* stack, size_t stack_bytes, void (*entry)());
// Forgets what it was doing, in the middle of it. Then Prepare() again. REQUIRES: it is not running.
void Abandon(Fiber* fiber);
// Orders nothing in ThreadSanitizer's eyes.
void Switch(Fiber* from, Fiber* to);
// First thing in entry().
void EnterFiber();

// What is released to a point happens before what follows an Acquire() from it.
struct SyncPoint {
  uint64_t word = 0;
};
void ReleaseFirst(SyncPoint* point);  // forgets earlier releases
void Release(SyncPoint* point);
void Acquire(SyncPoint* point);
// As if the fiber itself, which is not running, released.
void ReleaseFor(Fiber* fiber, SyncPoint* point);

// Not a mutex, which would order whoever holds it one after another.
class SpinLock {
 public:
  class Held {
   public:
    explicit Held(SpinLock* lock);
    ~Held() { lock_->flag_.clear(std::memory_order_release); }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;

   private:
    SpinLock* const lock_;
  };

 private:
  std::atomic_flag flag_;
};

// AddressSanitizer reports any access to what is poisoned.
void Poison(void* p, size_t bytes);
void Unpoison(void* p, size_t bytes);
bool IsPoisoned(const void* p, size_t bytes);

#ifdef SIMT_TSAN
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#ifdef SIMT_ASAN
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif

}  // namespace simt
