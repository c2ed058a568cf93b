// Memory of devices, and pinned memory of the host. Fresh memory holds what nobody takes for a number, its ends have
// zones that are looked at after every operation, and AddressSanitizer reports whoever touches a device's memory while
// no operation of that device runs.

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/cuda_emulator/fake_runtime.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/simt.h"

namespace fake {
namespace {

constexpr size_t kZone = 256, kPage = 4096;
// Of a larger allocation only so much at its head and its tail is filled and guarded: it may be larger than this
// machine, and costs only what is touched.
constexpr size_t kWholeMax = 64 << 20, kHead = 16 << 20, kTail = 1 << 20;

// Not memset or memcmp, which AddressSanitizer watches.
void Fill(char* begin, size_t bytes) {
  const uint64_t seed = simt::Seed();
  auto* words = reinterpret_cast<uint64_t*>(begin);
  const uint64_t word = uint64_t{simt::UnwrittenWord(seed, 1)} << 32 | simt::UnwrittenWord(seed, 0);
  for (size_t i = 0; i < bytes / 8; ++i) words[i] = word;
}

constexpr uint64_t kZoneWord = 0xFB7F617FFB7F617F;  // huge or no number in every type
// The byte that a zone has at this address.
char ZoneByte(const char* p) { return static_cast<char>(kZoneWord >> reinterpret_cast<uintptr_t>(p) % 8 * 8); }
void FillZone(char* begin, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) begin[i] = ZoneByte(begin + i);
}
bool ZoneIsWhole(const char* begin, size_t bytes) {
  const char* const end = begin + bytes;
  for (; reinterpret_cast<uintptr_t>(begin) % 8 != 0; ++begin)
    if (*begin != ZoneByte(begin)) return false;
  for (; end - begin >= 8; begin += 8)
    if (*reinterpret_cast<const uint64_t*>(begin) != kZoneWord) return false;
  for (; begin < end; ++begin)
    if (*begin != ZoneByte(begin)) return false;
  return true;
}

size_t RoundedUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

template <typename F>
void ForGuardedParts(const Allocation& allocation, const F& part) {
  const size_t bytes = allocation.bytes;
  if (bytes <= kWholeMax) {
    part(allocation.begin, bytes);
    return;
  }
  part(allocation.begin, kHead);
  const size_t tail = (bytes - kTail) / 8 * 8;
  part(allocation.begin + tail, bytes - tail);
}

bool Map(Allocation* allocation, size_t bytes) {
  allocation->mapped_bytes = RoundedUp(kZone + bytes + kZone, kPage);
  void* mapped = mmap(nullptr, allocation->mapped_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return false;
  allocation->mapped = static_cast<char*>(mapped);
  allocation->begin = allocation->mapped + kZone;
  allocation->bytes = bytes;
  ForGuardedParts(*allocation, [](char* begin, size_t n) { Fill(begin, RoundedUp(n, 8)); });
  char* const end = allocation->begin + bytes;
  FillZone(allocation->mapped, kZone);
  FillZone(end, kZone);
  simt::Poison(allocation->mapped, kZone);
  simt::Poison(end, kZone);
  return true;
}

void Unmap(const Allocation& allocation) {
  simt::Unpoison(allocation.mapped, kZone);
  simt::Unpoison(allocation.begin + allocation.bytes, kZone);
  ForGuardedParts(allocation, [](char* begin, size_t n) { simt::Unpoison(begin, n); });
  munmap(allocation.mapped, allocation.mapped_bytes);
}

// An error that a GPU's runtime does not explain.
cudaError_t Explain(cudaError_t error, const char* format, ...) __attribute__((format(printf, 2, 3)));
cudaError_t Explain(cudaError_t error, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "fake CUDA: %s (%s)\n", text, cudaGetErrorName(error));
  return error;
}

cudaError_t FreeAllocation(void* p, Allocation::Kind kind) {
  if (p == nullptr) return cudaSuccess;
  Runtime& r = runtime();
  const auto found = r.allocations.find(static_cast<char*>(p));
  if (found == r.allocations.end() || found->second.kind != kind)
    return Explain(cudaErrorInvalidValue, "free of %p, which was not allocated so", p);
  const Allocation allocation = found->second;
  r.allocations.erase(found);
  if (kind == Allocation::Kind::kDevice)
    r.devices[allocation.device].bytes_in_use -= RoundedUp(allocation.bytes, 256);
  else
    r.pinned_bytes -= allocation.bytes;
  if (kind != Allocation::Kind::kRegistered) Unmap(allocation);
  return cudaSuccess;
}

// Where x86-64's programs have their heaps, stacks and mappings; two small numbers side by side are never there.
constexpr uintptr_t kHostAddresses = uintptr_t{0x5000} << 32, kHostAddressesEnd = uintptr_t{0x8000} << 32;

bool IsWritable(uintptr_t address) {
  std::FILE* const maps = std::fopen("/proc/self/maps", "r");
  if (maps == nullptr) return false;
  char line[512], access[8];
  unsigned long begin, end;
  bool writable = false;
  while (!writable && std::fgets(line, sizeof line, maps) != nullptr)
    if (std::sscanf(line, "%lx-%lx %7s", &begin, &end, access) == 3)
      writable = begin <= address && address < end && access[1] == 'w';
  std::fclose(maps);
  return writable;
}

// A copy of `height` rows, each of `width` bytes.
struct Copy2D {
  char* to;
  size_t to_pitch;
  const char* from;
  size_t from_pitch, width, height;
  cudaMemcpyKind kind;
  bool async;
};

const char* Name(const Allocation* a) {
  if (a == nullptr) return "pageable";
  return a->kind == Allocation::Kind::kDevice ? "device" : "pinned";
}

// One side of a copy: all rows in one allocation, or none of them in any.
cudaError_t CheckSide(const char* what, const char* begin, size_t bytes, bool device, bool any, const Copy2D& copy) {
  Runtime& r = runtime();
  const Allocation* first = r.Holding(begin, 1);
  const Allocation* last = r.Holding(begin + bytes - 1, 1);
  if (first != last)
    return Explain(cudaErrorInvalidValue, "a copy %s %p, %zu bytes, over the end of an allocation", what, begin, bytes);
  const bool is_device = first != nullptr && first->kind == Allocation::Kind::kDevice;
  if (!any && is_device != device)
    return Explain(cudaErrorInvalidValue, "a copy %s %s memory %p, which its kind says is the %s's", what, Name(first),
                   begin, device ? "device" : "host");
  if (first == nullptr && copy.async && r.settings.strict)
    return Explain(cudaErrorInvalidValue, "an asynchronous copy %s pageable memory %p", what, begin);
  return cudaSuccess;
}

cudaError_t Check(const Copy2D& copy) {
  if (copy.kind < cudaMemcpyHostToHost || copy.kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
  if (copy.height > 1 && (copy.to_pitch < copy.width || copy.from_pitch < copy.width))
    return cudaErrorInvalidPitchValue;
  const bool any = copy.kind == cudaMemcpyDefault;
  const bool to_device = copy.kind == cudaMemcpyHostToDevice || copy.kind == cudaMemcpyDeviceToDevice;
  const bool from_device = copy.kind == cudaMemcpyDeviceToHost || copy.kind == cudaMemcpyDeviceToDevice;
  const cudaError_t error =
      CheckSide("to", copy.to, (copy.height - 1) * copy.to_pitch + copy.width, to_device, any, copy);
  if (error != cudaSuccess) return error;
  return CheckSide("from", copy.from, (copy.height - 1) * copy.from_pitch + copy.width, from_device, any, copy);
}

std::string Describe(const Copy2D& copy) {
  static const char* const kNames[] = {"from host to host", "to the device", "from the device", "on the device", ""};
  return "a copy " + std::string(kNames[copy.kind]) + " of " + std::to_string(copy.width * copy.height) + " bytes";
}

cudaError_t EnqueueCopy(Stream* stream, const Copy2D& copy) {
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (copy.width == 0 || copy.height == 0) return cudaSuccess;
  if (const cudaError_t error = Check(copy); error != cudaSuccess) {
    if (stream->capture != nullptr) RefuseDuringCapture(stream);  // which is void
    return error;
  }
  return EnqueueHere(stream, [copy] {
    return Operation{Describe(copy), [copy](cudaError_t*) {
                       for (size_t row = 0; row < copy.height; ++row)
                         Copy(copy.to + row * copy.to_pitch, copy.from + row * copy.from_pitch, copy.width);
                       return Progress::kDone;
                     }};
  });
}

struct Set2D {
  char* to;
  size_t pitch;
  int value;
  size_t width, height;
};

cudaError_t EnqueueSet(Stream* stream, const Set2D& set) {
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (set.width == 0 || set.height == 0) return cudaSuccess;
  const size_t bytes = (set.height - 1) * set.pitch + set.width;
  const Allocation* held = runtime().Holding(set.to, bytes);
  if (held == nullptr || held->kind == Allocation::Kind::kRegistered)
    return Explain(cudaErrorInvalidValue, "cudaMemset of %zu bytes at %p, which is no allocation's", bytes, set.to);
  return EnqueueHere(stream, [set] {
    return Operation{"a memset of " + std::to_string(set.width * set.height) + " bytes", [set](cudaError_t*) {
                       for (size_t row = 0; row < set.height; ++row) {
                         DeclareWrite(set.to + row * set.pitch, set.width);
                         std::memset(set.to + row * set.pitch, set.value, set.width);
                       }
                       return Progress::kDone;
                     }};
  });
}

// On the legacy stream, and waited for.
template <typename Put>
cudaError_t PutAndWait(Call& call, const char* who, const Put& put) {
  if (const cudaError_t refused = RefuseUnsafeCall(); refused != cudaSuccess) return refused;
  const int device = runtime().current_device();
  Stream* const stream = runtime().devices[device].legacy.get();
  if (const cudaError_t error = put(stream); error != cudaSuccess) return error;
  const uint64_t last = stream->enqueued;
  runtime().WaitUntil(call.lock(), who, [&] { return stream->completed >= last; });
  const Seen seen;
  simt::Acquire(&stream->done);
  return runtime().devices[device].failed;
}

}  // namespace

const Allocation* Runtime::Holding(const void* p, size_t bytes) const {
  const char* begin = static_cast<const char*>(p);
  auto found = allocations.upper_bound(begin);
  if (found == allocations.begin()) return nullptr;
  const Allocation& allocation = std::prev(found)->second;
  return begin + bytes <= allocation.begin + allocation.bytes ? &allocation : nullptr;
}

std::string Runtime::WhyUnreachable(const void* p, int device) const {
  const auto address = reinterpret_cast<uintptr_t>(p);
  if (address < kHostAddresses || address >= kHostAddressesEnd) return "";
  if (const Allocation* held = Holding(p, 1)) {
    if (held->kind != Allocation::Kind::kDevice || held->device == device) return "";
    return "memory of device " + std::to_string(held->device);
  }
  for (const auto& [begin, a] : allocations)  // its end, say
    if (p >= a.mapped && p <= a.mapped + a.mapped_bytes) return "";
  return !simt::GlobalBytes::Holds(p) && IsWritable(address) ? "pageable memory of the host" : "";
}

std::string Runtime::FindOverrun(int device) const {
  for (const auto& [begin, a] : allocations) {
    if (a.kind == Allocation::Kind::kRegistered || a.device != device) continue;
    const char* const end = begin + a.bytes;
    if (!ZoneIsWhole(begin - kZone, kZone) || !ZoneIsWhole(end, kZone))
      return "it wrote beside an allocation of " + std::to_string(a.bytes) + " bytes";
  }
  return "";
}

void Runtime::OpenMemory(int device) {
  if (!simt::kAddressSanitizer || open_device_ == device) return;
  CloseMemory();
  open_device_ = device;
  for (const auto& [begin, allocation] : allocations) {
    if (allocation.kind == Allocation::Kind::kDevice && allocation.device == device)
      ForGuardedParts(allocation, [](char* p, size_t n) { simt::Unpoison(p, n); });
  }
}

void Runtime::CloseMemory() {
  if (!simt::kAddressSanitizer || open_device_ < 0) return;
  for (const auto& [begin, allocation] : allocations) {
    if (allocation.kind == Allocation::Kind::kDevice && allocation.device == open_device_)
      ForGuardedParts(allocation, [](char* p, size_t n) { simt::Poison(p, n); });
  }
  open_device_ = -1;
}

bool IsDeviceMemory(const void* p, size_t bytes, int device) {
  const Hidden hidden;
  // An operation may ask, while somebody waits for it with the mutex held by nobody.
  const std::unique_lock<std::mutex> lock(runtime().mutex);
  const Allocation* held = runtime().Holding(p, bytes);
  return held != nullptr && held->kind == Allocation::Kind::kDevice &&
         held->device == (device < 0 ? runtime().current_device() : device);
}

void FreeEverything() {
  Runtime& r = runtime();
  r.CloseMemory();
  for (const auto& [begin, allocation] : r.allocations)
    if (allocation.kind != Allocation::Kind::kRegistered) Unmap(allocation);
  r.allocations.clear();
  r.pinned_bytes = 0;
}

void FailMalloc(int n) {
  const Call call(Call::Needs::kNothing);
  runtime().settings.malloc_fails_in = n;
}
void FailOperation(int n) {
  const Call call(Call::Needs::kNothing);
  runtime().settings.operation_fails_in = n;
}
size_t DeviceBytesInUse(int device) {
  const Call call(Call::Needs::kNothing);
  return runtime().devices.at(device).bytes_in_use;
}
size_t PinnedBytesInUse() {
  const Call call(Call::Needs::kNothing);
  return runtime().pinned_bytes;
}

}  // namespace fake

// ---- The API.

using fake::Allocation;
using fake::Call;
using fake::runtime;

cudaError_t cudaMalloc(void** p, size_t bytes) {
  FAKE_CALL();
  fake::Runtime& r = runtime();
  if (p == nullptr) return call.Return(cudaErrorInvalidValue);
  *p = nullptr;
  if (const cudaError_t refused = fake::RefuseUnsafeCall(); refused != cudaSuccess) return call.Return(refused);
  if (bytes == 0) return call.Return(cudaSuccess);
  if (r.settings.malloc_fails_in > 0 && --r.settings.malloc_fails_in == 0)
    return call.Return(cudaErrorMemoryAllocation);
  const int device = r.current_device();
  const size_t rounded = fake::RoundedUp(bytes, 256);
  if (rounded < bytes || rounded > r.settings.device_bytes - r.devices[device].bytes_in_use)
    return call.Return(cudaErrorMemoryAllocation);
  Allocation allocation{Allocation::Kind::kDevice, device};
  if (!fake::Map(&allocation, bytes)) return call.Return(cudaErrorMemoryAllocation);
  // An operation may be running: its memory stays open, and what is new belongs to that.
  if (!r.running()) r.CloseMemory();
  if (!r.memory_is_open(device))
    fake::ForGuardedParts(allocation, [](char* begin, size_t n) { simt::Poison(begin, n); });
  r.devices[device].bytes_in_use += rounded;
  ++r.calls.allocations;
  *p = allocation.begin;
  r.allocations.emplace(allocation.begin, allocation);
  return call.Return(cudaSuccess);
}

// As a GPU's: once the device has nothing to do.
cudaError_t cudaFree(void* p) {
  FAKE_CALL(Call::Needs::kContext);
  if (p == nullptr) return call.Return(cudaSuccess);
  if (const cudaError_t refused = fake::RefuseUnsafeCall(); refused != cudaSuccess) return call.Return(refused);
  const Allocation* held = runtime().Holding(p, 1);
  if (held != nullptr) {
    const int device = held->device;
    runtime().WaitUntil(call.lock(), "cudaFree", [&] { return runtime().Idle(device); });
  }
  if (!runtime().running()) runtime().CloseMemory();
  const bool managed = held != nullptr && held->kind == Allocation::Kind::kManaged;
  return call.Return(fake::FreeAllocation(p, managed ? Allocation::Kind::kManaged : Allocation::Kind::kDevice));
}

cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  FAKE_CALL();
  if (p == nullptr) return call.Return(cudaErrorInvalidValue);
  *p = nullptr;
  if (const cudaError_t refused = fake::RefuseUnsafeCall(); refused != cudaSuccess) return call.Return(refused);
  if (bytes == 0) return call.Return(cudaSuccess);
  Allocation allocation{Allocation::Kind::kPinned, runtime().current_device()};
  if (!fake::Map(&allocation, bytes)) return call.Return(cudaErrorMemoryAllocation);
  runtime().pinned_bytes += bytes;
  ++runtime().calls.allocations;
  *p = allocation.begin;
  runtime().allocations.emplace(allocation.begin, allocation);
  return call.Return(cudaSuccess);
}
// Pinned, but for who frees it: nothing moves here.
cudaError_t cudaMallocManaged(void** p, size_t bytes, unsigned) {
  const cudaError_t error = cudaHostAlloc(p, bytes, cudaHostAllocDefault);
  if (error != cudaSuccess || bytes == 0) return error;
  const Call call(Call::Needs::kNothing);
  runtime().allocations.at(static_cast<const char*>(*p)).kind = Allocation::Kind::kManaged;
  return error;
}
cudaError_t cudaMallocHost(void** p, size_t bytes) { return cudaHostAlloc(p, bytes, cudaHostAllocDefault); }

cudaError_t cudaFreeHost(void* p) {
  FAKE_CALL(Call::Needs::kContext);
  if (p == nullptr) return call.Return(cudaSuccess);
  const Allocation* held = runtime().Holding(p, 1);
  if (held != nullptr) {
    const int device = held->device;
    runtime().WaitUntil(call.lock(), "cudaFreeHost", [&] { return runtime().Idle(device); });
  }
  return call.Return(fake::FreeAllocation(p, Allocation::Kind::kPinned));
}

cudaError_t cudaHostRegister(void* p, size_t bytes, unsigned) {
  FAKE_CALL();
  if (p == nullptr || bytes == 0) return call.Return(cudaErrorInvalidValue);
  char* const begin = static_cast<char*>(p);
  if (runtime().Holding(p, 1) != nullptr || runtime().Holding(begin + bytes - 1, 1) != nullptr)
    return call.Return(cudaErrorHostMemoryAlreadyRegistered);
  runtime().pinned_bytes += bytes;
  runtime().allocations.emplace(
      begin, Allocation{Allocation::Kind::kRegistered, runtime().current_device(), begin, bytes, begin, bytes});
  return call.Return(cudaSuccess);
}

cudaError_t cudaHostUnregister(void* p) {
  FAKE_CALL(Call::Needs::kContext);
  const Allocation* held = runtime().Holding(p, 1);
  if (held == nullptr || held->kind != Allocation::Kind::kRegistered)
    return call.Return(cudaErrorHostMemoryNotRegistered);
  return call.Return(fake::FreeAllocation(p, Allocation::Kind::kRegistered));
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  FAKE_CALL();
  if (runtime().Holding(host, 1) == nullptr) return call.Return(cudaErrorInvalidValue);
  *device = host;
  return call.Return(cudaSuccess);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  FAKE_CALL();
  const Allocation* held = runtime().Holding(p, 1);
  const bool on_device = held != nullptr && held->kind == Allocation::Kind::kDevice;
  *attributes = {};
  attributes->type = held == nullptr ? cudaMemoryTypeUnregistered
                     : on_device     ? cudaMemoryTypeDevice
                                     : cudaMemoryTypeHost;
  attributes->device = held == nullptr ? -1 : held->device;
  attributes->devicePointer = held == nullptr ? nullptr : const_cast<void*>(p);
  attributes->hostPointer = on_device ? nullptr : const_cast<void*>(p);
  return call.Return(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  FAKE_CALL();
  *total = runtime().settings.device_bytes;
  *free = *total - runtime().devices[runtime().current_device()].bytes_in_use;
  return call.Return(cudaSuccess);
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  FAKE_CALL();
  return call.Return(fake::EnqueueCopy(
      runtime().Find(stream),
      {static_cast<char*>(to), to_pitch, static_cast<const char*>(from), from_pitch, width, height, kind, true}));
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  FAKE_CALL();
  const fake::Copy2D copy{
      static_cast<char*>(to), to_pitch, static_cast<const char*>(from), from_pitch, width, height, kind, false};
  return call.Return(
      fake::PutAndWait(call, "cudaMemcpy", [&](fake::Stream* legacy) { return fake::EnqueueCopy(legacy, copy); }));
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpy2D(to, bytes, from, bytes, bytes, 1, kind);
}

cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
  FAKE_CALL();
  return call.Return(fake::EnqueueSet(runtime().Find(stream), {static_cast<char*>(to), pitch, value, width, height}));
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return cudaMemset2DAsync(to, bytes, value, bytes, 1, stream);
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  FAKE_CALL();
  const fake::Set2D set{static_cast<char*>(to), bytes, value, bytes, 1};
  return call.Return(
      fake::PutAndWait(call, "cudaMemset", [&](fake::Stream* legacy) { return fake::EnqueueSet(legacy, set); }));
}
