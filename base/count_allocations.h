#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

// For tests that something allocates nothing: replaces the program's operator new by one that counts. Included by one
// file of a program, which is the test's.

namespace braid {
inline std::atomic<size_t> allocations{0};
}  // namespace braid

[[gnu::noinline]] void* operator new(size_t size) {
  ++braid::allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
  ++braid::allocations;
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }
