#include "kernels/bench/machine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <span>

#include "base/check.h"
#include "kernels/cpu/level.h"
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace braid {
namespace {

constexpr int kPasses = 4;
constexpr size_t kMemoryBytesMin = size_t{512} << 20;
constexpr size_t kCachesFit = 8;  // memory is so many times the last cache
constexpr size_t kPieceBytes = size_t{2} << 20;
// Far enough for a line to be there in time, near enough to stay in the first cache. As far as the kernels look.
constexpr size_t kPrefetchBytes = 4096;
// Dot products of four bytes that are in flight at once: more than the latency times the rate of any CPU so far.
constexpr int kAccumulators = 12;
constexpr int64_t kDotRounds = 50'000;
constexpr int kDotPiecesPerThread = 64;

// What the loops compute goes here, so that no compiler leaves them out.
std::atomic<uint64_t> sink;

using Lane = uint64_t __attribute__((vector_size(32), aligned(1)));

void Read(const std::byte* data, size_t bytes) {
  Lane lanes[8] = {};
  for (size_t at = 0; at < bytes; at += sizeof lanes) {
    for (size_t line = 0; line < sizeof lanes; line += 64) __builtin_prefetch(data + at + line + kPrefetchBytes);
    const Lane* from = reinterpret_cast<const Lane*>(data + at);
    for (int i = 0; i < 8; ++i) lanes[i] ^= from[i];
  }
  for (int i = 1; i < 8; ++i) lanes[0] ^= lanes[i];
  sink += lanes[0][0] ^ lanes[0][1] ^ lanes[0][2] ^ lanes[0][3];
}

// One way to multiply bytes and add them up, four to a sum.
struct DotLoop {
  std::string_view name;
  bool (*supported)();
  void (*run)(int64_t rounds);
  double ops_per_round;  // two for each product
};

#if defined(__x86_64__)

// The empty asm keeps the compiler from hoisting the product, whose factors never change, out of the loop.
#define BRAID_DOT_LOOP(NAME, TARGET, VECTOR, ZERO, ONES, STEP, STORE)     \
  __attribute__((target(TARGET))) void NAME(int64_t rounds) {             \
    VECTOR sums[kAccumulators];                                           \
    for (VECTOR & sum : sums) sum = ZERO();                               \
    VECTOR x = ONES(1), y = ONES(1);                                      \
    for (int64_t round = 0; round < rounds; ++round) {                    \
      asm volatile("" : "+v"(x), "+v"(y));                                \
      _Pragma("GCC unroll 12") for (VECTOR & sum : sums) sum = STEP;      \
    }                                                                     \
    int32_t values[kAccumulators][sizeof(VECTOR) / sizeof(int32_t)];      \
    for (int i = 0; i < kAccumulators; ++i) STORE(&values[i], sums[i]);   \
    for (const auto& row : values) sink += static_cast<uint32_t>(row[0]); \
  }

BRAID_DOT_LOOP(DotZmm, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512, _mm512_set1_epi8,
               _mm512_dpbusd_epi32(sum, x, y), _mm512_storeu_si512)
#define BRAID_STORE_YMM(to, from) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), from)
BRAID_DOT_LOOP(DotYmm, "avx2,avxvnni", __m256i, _mm256_setzero_si256, _mm256_set1_epi8,
               _mm256_dpbusd_avx_epi32(sum, x, y), BRAID_STORE_YMM)
BRAID_DOT_LOOP(DotMaddubs, "avx2", __m256i, _mm256_setzero_si256, _mm256_set1_epi8,
               _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1))),
               BRAID_STORE_YMM)
#undef BRAID_STORE_YMM
#undef BRAID_DOT_LOOP

#endif

void DotPortable(int64_t rounds) {
  int32_t sums[kAccumulators * 4] = {};
  int16_t x = 1, y = 1;
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+r"(x), "+r"(y));
    for (int32_t& sum : sums) sum += x * y;
  }
  for (int32_t sum : sums) sink += static_cast<uint32_t>(sum);
}

bool HasLevel(std::string_view name) {
  const std::vector<const CpuLevel*> levels = SupportedCpuLevels();
  return std::any_of(levels.begin(), levels.end(), [&](const CpuLevel* level) { return level->name == name; });
}

// The fastest first.
constexpr DotLoop kDotLoops[] = {
#if defined(__x86_64__)
    {"vpdpbusd zmm", [] { return HasLevel("avx512"); }, DotZmm, 2.0 * kAccumulators * 64},
    {"vpdpbusd ymm", [] { return HasLevel("avx2vnni"); }, DotYmm, 2.0 * kAccumulators * 32},
    {"vpmaddubsw ymm", [] { return HasLevel("avx2"); }, DotMaddubs, 2.0 * kAccumulators * 32},
#endif
    {"portable", [] { return true; }, DotPortable, 2.0 * kAccumulators * 4},
};

const DotLoop& BestDotLoop() {
  return *std::find_if(std::begin(kDotLoops), std::end(kDotLoops),
                       [](const DotLoop& loop) { return loop.supported(); });
}

template <typename F>
double BestSeconds(F run) {
  double best = 1e9;
  for (int i = 0; i < kPasses; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

size_t MemoryBytes() {
  const int64_t cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const size_t wanted = std::max(kMemoryBytesMin, kCachesFit * static_cast<size_t>(std::max<int64_t>(cache, 0)));
  return wanted / kPieceBytes * kPieceBytes;
}

}  // namespace

MachineProbe::MachineProbe(ThreadPool* pool) : pool_(pool), bytes_(MemoryBytes()) {
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED) << "no memory to measure memory with";
  madvise(memory, bytes_, MADV_HUGEPAGE);  // what the TLB misses is no limit of memory
  memory_ = static_cast<std::byte*>(memory);
  std::memset(memory_, 1, bytes_);
}

MachineProbe::~MachineProbe() { munmap(memory_, bytes_); }

std::string_view MachineProbe::int8_instruction() const { return BestDotLoop().name; }

MachineLimits MachineProbe::Measure() {
  // Many pieces: a thread that others hold up leaves its share to the rest, as in a step.
  const int pieces = static_cast<int>(bytes_ / kPieceBytes);
  const double read_seconds = BestSeconds([&] {
    pool_->ParallelFor(pieces, 1, [&](int begin, int end) {
      Read(memory_ + static_cast<size_t>(begin) * kPieceBytes, static_cast<size_t>(end - begin) * kPieceBytes);
    });
  });
  const DotLoop& dot = BestDotLoop();
  const int dot_pieces = kDotPiecesPerThread * pool_->threads();
  const double dot_seconds = BestSeconds(
      [&] { pool_->ParallelFor(dot_pieces, 1, [&](int begin, int end) { dot.run(kDotRounds * (end - begin)); }); });
  return {static_cast<double>(bytes_) / read_seconds,
          dot.ops_per_round * static_cast<double>(kDotRounds) * dot_pieces / dot_seconds};
}

}  // namespace braid
