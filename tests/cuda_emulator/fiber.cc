#include "tests/cuda_emulator/fiber.h"

#include <pthread.h>

#include <thread>

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SIMT_TSAN
#include <sanitizer/tsan_interface.h>
// What the compiler makes of atomic operations; GCC ships no header for them.
extern "C" {
void __tsan_atomic64_store(volatile void* p, unsigned long value, int order);
unsigned long __tsan_atomic64_fetch_add(volatile void* p, unsigned long value, int order);
unsigned long __tsan_atomic64_load(const volatile void* p, int order);
}
#endif

#ifndef __x86_64__
#error "the switch of stacks is written for x86-64; CMakeLists.txt skips the emulator elsewhere"
#endif

// void simt_switch(void** from, void* to): saves what a callee must keep, and the stack pointer in *from; goes on with
// what lies on the stack `to`. The floating-point modes are everybody's alike, so they stay.
asm(R"(
.text
.p2align 4
.globl simt_switch
.hidden simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");
extern "C" void simt_switch(void** from, void* to);

// What the programs run with, unless the environment says otherwise. A kernel that races must fail its test.
#ifdef SIMT_ASAN
extern "C" const char* __asan_default_options() { return "detect_stack_use_after_return=0"; }
extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1"; }
#endif
#ifdef SIMT_TSAN
extern "C" const char* __tsan_default_options() { return "halt_on_error=1:atexit_sleep_ms=0:history_size=0"; }
#endif

namespace simt {
namespace {

#ifdef SIMT_TSAN
constexpr unsigned kOrdersNothing = __tsan_switch_to_fiber_no_sync;
#endif

struct StackBounds {
  char* begin = nullptr;
  size_t bytes = 0;
};

StackBounds BoundsOfThisThread() {
  pthread_attr_t attributes;
  void* begin = nullptr;
  size_t bytes = 0;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    pthread_attr_getstack(&attributes, &begin, &bytes);
    pthread_attr_destroy(&attributes);
  }
  return {static_cast<char*>(begin), bytes};
}

}  // namespace

Fiber AdoptThread() {
  thread_local const StackBounds bounds = BoundsOfThisThread();  // it reads /proc
  Fiber fiber;
  fiber.stack = bounds.begin;
  fiber.stack_bytes = bounds.bytes;
#ifdef SIMT_TSAN
  fiber.tsan = __tsan_get_current_fiber();
#endif
  return fiber;
}

void Prepare(Fiber* fiber, char* stack, size_t stack_bytes, void (*entry)()) {
  fiber->stack = stack;
  fiber->stack_bytes = stack_bytes;
  // Downwards: a word that makes the stack as aligned as after a call, where to return to, six registers.
  void** top = reinterpret_cast<void**>(stack + stack_bytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber->stack_pointer = top;
#ifdef SIMT_TSAN
  fiber->tsan = __tsan_create_fiber(0);
#endif
}

void Abandon(Fiber* fiber) {
  Unpoison(fiber->stack, fiber->stack_bytes);
#ifdef SIMT_TSAN
  __tsan_destroy_fiber(fiber->tsan);
  fiber->tsan = nullptr;
#endif
  fiber->stack_pointer = fiber->fake_stack = nullptr;
}

void Switch(Fiber* from, Fiber* to) {
#ifdef SIMT_ASAN
  __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
#ifdef SIMT_TSAN
  __tsan_switch_to_fiber(to->tsan, kOrdersNothing);
#endif
  simt_switch(&from->stack_pointer, to->stack_pointer);
#ifdef SIMT_ASAN
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

void EnterFiber() {
#ifdef SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

#ifdef SIMT_TSAN
// Atomic operations, as a program would write them: only a store forgets what was released before.
void ReleaseFirst(SyncPoint* point) { __tsan_atomic64_store(&point->word, 0, __ATOMIC_RELEASE); }
void Release(SyncPoint* point) { __tsan_atomic64_fetch_add(&point->word, 1, __ATOMIC_RELEASE); }
void Acquire(SyncPoint* point) { __tsan_atomic64_load(&point->word, __ATOMIC_ACQUIRE); }
void ReleaseFor(Fiber* fiber, SyncPoint* point) {
  void* self = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(fiber->tsan, kOrdersNothing);
  Release(point);
  __tsan_switch_to_fiber(self, kOrdersNothing);
}
#else
void ReleaseFirst(SyncPoint*) {}
void Release(SyncPoint*) {}
void Acquire(SyncPoint*) {}
void ReleaseFor(Fiber*, SyncPoint*) {}
#endif

SpinLock::Held::Held(SpinLock* lock) : lock_(lock) {
  while (lock_->flag_.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
}

#ifdef SIMT_ASAN
void Poison(void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
void Unpoison(void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
bool IsPoisoned(const void* p, size_t bytes) {
  return __asan_region_is_poisoned(const_cast<void*>(p), bytes) != nullptr;
}
#else
void Poison(void*, size_t) {}
void Unpoison(void*, size_t) {}
bool IsPoisoned(const void*, size_t) { return false; }
#endif

}  // namespace simt
