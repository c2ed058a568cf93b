#include "tests/cuda_emulator/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "tests/cuda_emulator/fiber.h"

// Runs on fibers too: no allocation there, and no memcpy or memset, which ThreadSanitizer would take for the thread's.

namespace simt {
namespace {

#ifdef SIMT_TSAN
extern "C" {
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
struct HideWrites {
  HideWrites() { AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  ~HideWrites() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__); }
};
#else
struct HideWrites {
  HideWrites() {}
};
#endif

constexpr size_t kZone = 64;  // between arrays
// Of the most arrays with their zones, each rounded.
constexpr size_t kPage = 4 << 10;
constexpr size_t kSlotBytes =
    (SharedMemory::kBytesMax + SharedMemory::kArraysMax * 3 * kZone) / kPage * kPage + 2 * kPage;

SpinLock globals_lock;
// All there are. Leaked on purpose, like all that tests may still hold when the program ends.
std::vector<const GlobalBytes*>& Globals() {
  static auto* const globals = new std::vector<const GlobalBytes*>;
  return *globals;
}

}  // namespace

uint32_t UnwrittenWord(uint64_t seed, size_t i) {
  if (seed % 2 == 0) return 0xFFFFFFFFu;
  return i % 2 == 0 ? 0x7F617F61u : 0xFF61FF61u;
}

namespace {
char UnwrittenByte(uint64_t seed, const char* p) {
  const size_t address = reinterpret_cast<uintptr_t>(p);
  return static_cast<char>(UnwrittenWord(seed, address / 4) >> address % 4 * 8);
}
}  // namespace

void FillUnwritten(uint64_t seed, char* begin, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) begin[i] = UnwrittenByte(seed, begin + i);
}

bool IsUnwritten(uint64_t seed, const char* begin, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i)
    if (begin[i] != UnwrittenByte(seed, begin + i)) return false;
  return true;
}

SharedMemory::SharedMemory() {
  void* mapped =
      mmap(nullptr, kSlots * kSlotBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) std::abort();
  slots_ = static_cast<char*>(mapped);
  Poison(slots_, kSlots * kSlotBytes);
}

// Hidden: else the mapping itself were a write, of a lane that another one's launches are in no order with.
void SharedMemory::RenewSlots() {
  if (!kThreadSanitizer) return;
  HideWrites hidden;
  for (size_t slot = 0; slot < kSlots; ++slot) {
    if (used_before_[slot] == 0) continue;
    const void* mapped = mmap(slots_ + slot * kSlotBytes, used_before_[slot], PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED) std::abort();
    used_before_[slot] = 0;
  }
}

void SharedMemory::StartBlock(size_t slot, uint64_t seed, size_t dynamic_bytes, size_t reserved, size_t most) {
  if (slot_ != nullptr) Poison(slot_, used_);
  slot_ = slots_ + slot % kSlots * kSlotBytes;
  seed_ = seed;
  used_ = static_bytes_ = dynamic_bytes_ = 0;
  dynamic_bytes_max_ = dynamic_bytes;
  reserved_ = reserved;
  most_ = most;
  arrays_count_ = 0;
}

void* SharedMemory::Static(const void* key, const char* name, size_t bytes, Here at) {
  for (int i = 0; i < arrays_count_; ++i)
    if (arrays_[i].key == key) return arrays_[i].begin;
  static_bytes_ += (bytes + 15) / 16 * 16;
  if (static_bytes_ > kStaticBytesMax)
    internal::Fail(ErrorKind::kSharedMemory, at, "%zu bytes of SHARED_ARRAYs, at most %zu fit", static_bytes_,
                   kStaticBytesMax);
  return Add({key, -1, name, at, nullptr, bytes});
}

void* SharedMemory::Dynamic(int index, size_t bytes, Here at) {
  for (int i = 0; i < arrays_count_; ++i) {
    if (arrays_[i].index != index) continue;
    if (arrays_[i].bytes != bytes)
      internal::Fail(ErrorKind::kSharedMemory, at,
                     "piece %d of dynamic shared memory is of %zu bytes here, %zu at %s:%d", index, bytes,
                     arrays_[i].bytes, arrays_[i].at.file, arrays_[i].at.line);
    return arrays_[i].begin;
  }
  dynamic_bytes_ += (bytes + 15) / 16 * 16;
  if (dynamic_bytes_ > dynamic_bytes_max_)
    internal::Fail(ErrorKind::kSharedMemory, at, "takes %zu bytes of dynamic shared memory, the launch gave %zu",
                   dynamic_bytes_, dynamic_bytes_max_);
  return Add({nullptr, index, "dynamic shared memory", at, nullptr, bytes});
}

// No better aligned than promised: at 16 bytes, not 32.
void* SharedMemory::Add(const Array& array) {
  if (arrays_count_ == kArraysMax || static_bytes_ + reserved_ > most_)
    internal::Fail(ErrorKind::kSharedMemory, array.at,
                   "%zu bytes static, %zu dynamic in %d arrays: more than the %zu of a block", static_bytes_, reserved_,
                   arrays_count_ + 1, most_);
  Array& added = arrays_[arrays_count_++];
  added = array;
  added.begin = slot_ + used_ + kZone + 16;
  const size_t used = (used_ + kZone + 16 + array.bytes + kZone + 31) / 32 * 32;
  FillUnwritten(seed_, slot_ + used_, used - used_);
  Unpoison(added.begin, added.bytes);
  used_ = used;
  size_t& used_before = used_before_[(slot_ - slots_) / kSlotBytes];
  used_before = std::max(used_before, (used_ + kPage - 1) / kPage * kPage);
  return added.begin;
}

const SharedMemory::Array* SharedMemory::Holding(const void* p, size_t bytes) const {
  const char* begin = static_cast<const char*>(p);
  for (int i = 0; i < arrays_count_; ++i)
    if (begin >= arrays_[i].begin && begin + bytes <= arrays_[i].begin + arrays_[i].bytes) return &arrays_[i];
  return nullptr;
}

const SharedMemory::Array* SharedMemory::FindOverrun() const {
  for (int i = 0; i < arrays_count_; ++i) {
    const Array& array = arrays_[i];
    if (!IsUnwritten(seed_, array.begin - kZone, kZone) || !IsUnwritten(seed_, array.begin + array.bytes, kZone))
      return &array;
  }
  return nullptr;
}

namespace {
constexpr size_t kGlobalZone = 256;
}

GlobalBytes::GlobalBytes(size_t bytes) : bytes_(bytes), seed_(Seed()) {
  const size_t all = kGlobalZone + (bytes + kGlobalZone - 1) / kGlobalZone * kGlobalZone + kGlobalZone;
  allocated_ = static_cast<char*>(std::aligned_alloc(kGlobalZone, all));
  begin_ = allocated_ + kGlobalZone;
  FillUnwritten(seed_, allocated_, all);
  Poison(allocated_, all);
  Unpoison(begin_, bytes);
  const SpinLock::Held held(&globals_lock);
  Globals().push_back(this);
}

GlobalBytes::~GlobalBytes() {
  {
    const SpinLock::Held held(&globals_lock);
    Globals().erase(std::find(Globals().begin(), Globals().end(), this));
  }
  Unpoison(allocated_, kGlobalZone + bytes_ + kGlobalZone);
  std::free(allocated_);
}

bool GlobalBytes::Holds(const void* p) {
  const SpinLock::Held held(&globals_lock);
  return std::any_of(Globals().begin(), Globals().end(), [p](const GlobalBytes* global) {
    return p >= global->begin_ && p <= global->begin_ + global->bytes_;
  });
}

const GlobalBytes* GlobalBytes::FindOverrun() {
  const SpinLock::Held held(&globals_lock);
  for (const GlobalBytes* global : Globals()) {
    if (!IsUnwritten(global->seed_, global->allocated_, kGlobalZone) ||
        !IsUnwritten(global->seed_, global->begin_ + global->bytes_, kGlobalZone))
      return global;
  }
  return nullptr;
}

}  // namespace simt
