#pragma once

// CUDA kernels executed on the CPU, for tests. The same .cu files that nvcc compiles are compiled by the host's
// compiler with this header before them (see README.md): it stands in for what device.h takes from nvcc.
//
// A launch runs block after block, each CUDA thread on a fiber; which goes on when one has to wait is the seed's
// choice. What a GPU would answer with a hang, a wrong number or nothing at all is an Error with the line of the
// kernel.

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#define BRAID_CUDA_EMULATOR 1

// The real headers give these a meaning that only nvcc understands.
#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __shared__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace simt {

enum class ErrorKind {
  kLaunch,            // a grid, block or amount of shared memory that no GPU takes
  kDivergentBarrier,  // threads of a block wait at different barriers
  kExited,            // others wait for a thread that has returned
  kBadMask,           // a lane outside of its own mask
  kMismatch,          // lanes of a mask are at different operations, or have other masks
  kInactiveLane,      // a value from a lane that takes no part
  kDeadlock,          // everybody waits
  kLivelock,          // everybody waits or spins
  kSharedMemory,      // more than there is, or threads disagree about a piece
  kSharedOverrun,     // written beside an array
  kGlobalOverrun,     // the same in a GlobalArray
  kMisaligned,        // a vector at an address that is no multiple of its size
  kAsyncCopy,         // cp.async of a wrong size or place
  kTrap,              // an instruction that the GPU does not have
};

// What is wrong with a kernel or a launch. The message opens with file:line and names threads, block and seed.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// The line of a call, as the default of an argument.
struct Here {
  Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) : file(file), line(line) {}
  const char* file;
  int line;
};

// Of the launches to come: decides the order of blocks, which thread runs when, and what memory holds at first (all
// bits one, a NaN, for even seeds, +-3e38 for odd ones).
//   0: ascending. 1: descending. Even: a random thread each time. Odd: a random order of priorities, in which one warp
//   goes as far as it can, and changes at random times; finds what needs a thread to be very late.
void SetSeed(uint64_t seed);
uint64_t Seed();
// Those that a test should go through: two fixed orders and four of each other kind. Under ThreadSanitizer, which needs
// no particular order to see a race, and AddressSanitizer one of each. More if SIMT_SEEDS says how many.
std::vector<uint64_t> Seeds();

// Whether tests should run blocks of more than 64 threads: to ThreadSanitizer each thread is a megabyte, thrice.
#ifdef __SANITIZE_THREAD__
inline constexpr bool kManyThreads = false;
#else
inline constexpr bool kManyThreads = true;
#endif

// Since the start of the program.
struct Counts {
  uint64_t launches = 0, blocks = 0, switches = 0;
};
Counts Totals();

struct StreamAt {
  StreamAt(cudaStream_t stream, const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : stream(stream), at(file, line) {}
  cudaStream_t stream;
  Here at;
};

struct Argument {
  const void* begin = nullptr;
  size_t bytes = 0;
};

struct LaunchConfig {
  const void* kernel = nullptr;
  dim3 grid, block;
  size_t shared_bytes = 0;
  StreamAt stream = nullptr;
  std::span<const Argument> arguments = {};  // until Submit returns
  // A Hopper, unless somebody who plays another GPU says so: what its kernels were compiled for, and the most shared
  // memory of a block.
  int architecture = 90;
  size_t shared_bytes_max = 227 << 10;
};

// The launch seam. Submit checks the limits (an Error) and runs the kernel at once, unless somebody who plays streams
// has asked to be given launches; he calls Run when the kernel's turn comes. `body` is one thread.
using Body = std::function<void()>;
using TakeLaunch = cudaError_t (*)(const LaunchConfig& config, Body body);
void SetTakeLaunch(TakeLaunch take);  // nullptr: at once
cudaError_t Submit(const LaunchConfig& config, size_t parameter_bytes, Body body);
// Thread-safe, one at a time. Throws Error; the kernel is abandoned then.
void Run(const LaunchConfig& config, const Body& body);

// The clock that kernels read: this machine's, or one that stands where a test has set it (0: this machine's again).
// Thread-safe.
uint64_t ClockNs();
void SetClock(uint64_t ns);
void MoveClock(uint64_t ns);  // ahead. REQUIRES: it stands

// What cudaFuncSetAttribute says of a kernel's dynamic shared memory: an Error if it was more before. A GPU takes that,
// and refuses whoever launches the kernel with more from then on, another thread or a graph.
void AllowSharedBytes(const void* kernel, size_t bytes);

namespace internal {

// How lanes that have all arrived exchange what they brought: data[i] is lane i's, for the lanes in mask.
using WarpFunction = void (*)(void* const* data, uint32_t mask);
struct WarpOperation {
  const char* name;
  WarpFunction run;
  bool orders_memory;
};
// Waits for all lanes of the mask. All bring the same operation.
void AtWarp(const WarpOperation& operation, uint32_t mask, void* data, Here at);

enum class Vote { kNone, kCount, kAnd, kOr };
// Waits for all threads of the block.
int AtBarrier(Vote vote, bool predicate, Here at);

void* SharedArray(const void* key, const char* name, size_t bytes, Here at);
void* DynamicSharedArray(int index, size_t bytes, Here at);
void CheckLaunchBounds(int threads, Here at);
[[noreturn]] void Fail(ErrorKind kind, Here at, const char* format, ...) __attribute__((format(printf, 3, 4)));
// Where the running thread is at a warp operation.
[[noreturn]] void FailHere(ErrorKind kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

// A point where another thread may go first, though this one could go on.
void MayYield();
// This one spins: others first.
void Sleep(Here at);
// Fails if the GPU's kernels were compiled for an older architecture than has the instruction.
void NeedArchitecture(int least, const char* instruction, Here at);

// For an atomic of so many bytes: of 64 bits, shared memory has a loop only, and device.h a rule.
void NeedGlobal(const void* p, int bytes);

void AsyncCopy(void* shared, const void* global, int bytes, int bytes_read, Here at);
void AsyncCommit();
void AsyncWait(int groups_left, void (*landed)(void* to, int bytes));

}  // namespace internal
}  // namespace simt

#include "tests/cuda_emulator/device_side.h"
