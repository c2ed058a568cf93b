#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "tests/cuda_emulator/simt.h"

// Memory that shows misuse: filled with what no kernel can take for a number, and with zones at both ends that
// AddressSanitizer guards and that are looked at in any case when the kernel is over.

namespace simt {

// What word i (of 32 bits) holds before it is written: NaN, or +-3e38 for those that a maximum swallows NaN from. Both
// mean the same to bfloat16.
uint32_t UnwrittenWord(uint64_t seed, size_t i);
void FillUnwritten(uint64_t seed, char* begin, size_t bytes);
bool IsUnwritten(uint64_t seed, const char* begin, size_t bytes);

// A block's shared memory: a slot of a few, by the block's number, since ThreadSanitizer knows a word by its address
// and blocks that are not ordered must not share one.
class SharedMemory {
 public:
  static constexpr size_t kSlots = 64;
  static constexpr size_t kStaticBytesMax = 48 << 10;
  static constexpr size_t kBytesMax = 227 << 10;  // of a Hopper's block: no GPU has more
  static constexpr int kArraysMax = 64;

  struct Array {
    const void* key;
    int index;  // of the dynamic ones, else -1
    const char* name;
    Here at;
    char* begin;
    size_t bytes;
  };

  SharedMemory();
  // Before the slots have other users: to ThreadSanitizer, memory that the caller has just got from the system.
  void RenewSlots();
  // `reserved` of dynamic memory may be had, of which the launch gave some, and `most` with all static arrays.
  void StartBlock(size_t slot, uint64_t seed, size_t dynamic_bytes, size_t reserved, size_t most);
  // The same for all threads that ask by the same key or index. Fails by internal::Fail.
  void* Static(const void* key, const char* name, size_t bytes, Here at);
  void* Dynamic(int index, size_t bytes, Here at);
  // The array that holds all of [p, p + bytes), or nullptr.
  const Array* Holding(const void* p, size_t bytes) const;
  // An array with something written beside it, or nullptr.
  const Array* FindOverrun() const;

 private:
  void* Add(const Array& array);

  char* slots_ = nullptr;
  char* slot_ = nullptr;
  size_t used_ = 0;                           // of the slot
  std::array<size_t, kSlots> used_before_{};  // of every slot, since it was renewed
  uint64_t seed_ = 0;
  size_t static_bytes_ = 0, dynamic_bytes_ = 0, dynamic_bytes_max_ = 0;
  size_t reserved_ = 0, most_ = 0;
  int arrays_count_ = 0;
  std::array<Array, kArraysMax> arrays_;
};

// A kernel's tensor in "device memory". See global_array.h.
class GlobalBytes {
 public:
  explicit GlobalBytes(size_t bytes);
  ~GlobalBytes();
  GlobalBytes(const GlobalBytes&) = delete;
  GlobalBytes& operator=(const GlobalBytes&) = delete;
  char* begin() const { return begin_; }
  size_t bytes() const { return bytes_; }

  // The first array with something written beside it, or nullptr. Run() looks after every launch.
  static const GlobalBytes* FindOverrun();
  static bool Holds(const void* p);  // any of them, or its end

 private:
  size_t bytes_;
  uint64_t seed_;
  char* allocated_;
  char* begin_;  // at a multiple of 256, like cudaMalloc's
};

}  // namespace simt
