// Debian's Abseil is built without ThreadSanitizer, which then knows nothing of its mutexes: whatever they guard would
// be reported. Here they are told of. A program's own definition goes before that of the shared library, and calls it.
// While that runs nothing is seen: it also tries the conditions of those who wait, on their stacks.

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/synchronization/mutex.h"
#include "tests/cuda_emulator/fake_order.h"

extern "C" {
void __tsan_acquire(void* p);
void __tsan_release(void* p);
}

#define FAKE_TEXT_INNER(x) #x
#define FAKE_TEXT(x) FAKE_TEXT_INNER(x)

namespace {

// The library's, by the mangled end of its name.
template <typename Function>
Function Next(const char* name) {
  const std::string space = FAKE_TEXT(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string symbol = "_ZN4absl" + std::to_string(space.size()) + space + "5Mutex" + name;
  void* const found = dlsym(RTLD_NEXT, symbol.c_str());
  if (found == nullptr) {
    std::fprintf(stderr, "no %s in the libraries of this program\n", symbol.c_str());
    std::abort();
  }
  return reinterpret_cast<Function>(found);
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static const auto next = Next<void (*)(Mutex*)>("4LockEv");
  fake::Hidden(), next(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static const auto next = Next<void (*)(Mutex*)>("6UnlockEv");
  __tsan_release(this);
  fake::Hidden(), next(this);
}

bool Mutex::TryLock() {
  static const auto next = Next<bool (*)(Mutex*)>("7TryLockEv");
  const bool locked = (fake::Hidden(), next(this));
  if (locked) __tsan_acquire(this);
  return locked;
}

void Mutex::ReaderLock() {
  static const auto next = Next<void (*)(Mutex*)>("10ReaderLockEv");
  fake::Hidden(), next(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  static const auto next = Next<void (*)(Mutex*)>("12ReaderUnlockEv");
  __tsan_release(this);
  fake::Hidden(), next(this);
}

// These let go of it meanwhile.

void Mutex::Await(const Condition& condition) {
  static const auto next = Next<void (*)(Mutex*, const Condition&)>("5AwaitERKNS0_9ConditionE");
  __tsan_release(this);
  fake::Hidden(), next(this, condition);
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  static const auto next =
      Next<bool (*)(Mutex*, const Condition&, Duration)>("16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  __tsan_release(this);
  const bool met = (fake::Hidden(), next(this, condition, timeout));
  __tsan_acquire(this);
  return met;
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  static const auto next =
      Next<bool (*)(Mutex*, const Condition&, Time)>("17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  __tsan_release(this);
  const bool met = (fake::Hidden(), next(this, condition, deadline));
  __tsan_acquire(this);
  return met;
}

ABSL_NAMESPACE_END
}  // namespace absl
