#pragma once

#include <cstddef>
#include <functional>

#include "tests/cuda_emulator/fiber.h"

// What the sanitizers are told of the fakes. To ThreadSanitizer each stream is a thread, and only what CUDA promises
// puts it in order with the host and with other streams; the fakes' own lists and mutexes must not. Built, like all of
// the fakes, without -fsanitize.

namespace fake {

// While there is one on the calling thread, what it reads, writes and locks is nobody's business.
class Hidden {
 public:
  Hidden();
  ~Hidden();
  Hidden(const Hidden&) = delete;
  Hidden& operator=(const Hidden&) = delete;
};

// Ends that for a moment: a kernel's or host function's own accesses, a Release.
class Seen {
 public:
  Seen();
  ~Seen();
  Seen(const Seen&) = delete;
  Seen& operator=(const Seen&) = delete;

 private:
  const int depth_;
};

// Of an Operation: accesses of device or pinned memory that code without -fsanitize does for it.
void DeclareRead(const void* p, size_t bytes);
void DeclareWrite(void* p, size_t bytes);
// Declared, and done.
void Copy(void* to, const void* from, size_t bytes);

// Where a stream's work runs: to ThreadSanitizer a thread of its own, which knows what its maker had done by then and
// is told the rest by sync points.
class Lane {
 public:
  Lane();
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  // Runs work() to its end. One at a time, though a lane's work may use another lane. It must not throw.
  void Run(const std::function<void()>& work);

 private:
  static void Main();

  simt::Fiber fiber_, caller_;
  const std::function<void()>* work_ = nullptr;
};

}  // namespace fake
