#include "copies.h"

#include <emmintrin.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "suite.h"

namespace apta::bench {
namespace {

constexpr std::size_t kHugePageBytes = 2 << 20;

void Regular(std::byte* to, const std::byte* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
}

void RepMovsb(std::byte* to, const std::byte* from, std::size_t bytes) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

// Past the caches. Whole cache lines: the sizes here are such.
void Streaming(std::byte* to, const std::byte* from, std::size_t bytes) {
  auto* out = reinterpret_cast<__m128i*>(to);
  const auto* in = reinterpret_cast<const __m128i*>(from);
  for (std::size_t left = bytes / 64; left > 0; --left, in += 4, out += 4) {
    const __m128i a = _mm_load_si128(in), b = _mm_load_si128(in + 1);
    const __m128i c = _mm_load_si128(in + 2), d = _mm_load_si128(in + 3);
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
  }
  _mm_sfence();
}

void RunCopy(benchmark::State& state, const CopyWay& way, std::int64_t size) {
  const auto bytes = static_cast<std::size_t>(size);
  const Buffer from(bytes), to(bytes);
  std::memset(from.data(), 'a', bytes);
  const auto calls = static_cast<std::uint32_t>(std::clamp<std::int64_t>(65536 / size, 1, 256));
  Measure(state, {.calls = calls}, nullptr, [&](std::uint64_t) {
    way.copy(to.data(), from.data(), bytes);
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
    return true;
  });
  if (std::memcmp(to.data(), from.data(), bytes) != 0) state.SkipWithError("did not copy");
}

}  // namespace

const std::array<CopyWay, 3> kCopyWays = {
    {{"memcpy", Regular}, {"rep_movsb", RepMovsb}, {"streaming", Streaming}}};

Buffer::Buffer(std::size_t bytes, bool huge) : size_bytes_(bytes) {
  mapped_bytes_ = bytes / kHugePageBytes * kHugePageBytes + 2 * kHugePageBytes;
  void* base =
      mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) Die(absl::ResourceExhaustedError("no memory for a buffer"));
  base_ = static_cast<std::byte*>(base);
  const auto address = reinterpret_cast<std::uintptr_t>(base);
  data_ = base_ + (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
  madvise(base, mapped_bytes_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  std::memset(data_, 1, bytes);
}

Buffer::~Buffer() { munmap(base_, mapped_bytes_); }

BestCopy::BestCopy(std::size_t bytes)
    : from_(bytes), to_(bytes), reference_{fmt::format("copy_{}", bytes), [this] {
                                             double best_ns = INFINITY;
                                             for (const CopyWay& way : kCopyWays) {
                                               const auto began = Clock::now();
                                               way.copy(to_.data(), from_.data(), from_.size());
                                               best_ns = std::min(best_ns, NsSince(began));
                                             }
                                             return best_ns;
                                           }} {}

void AddCopies(const std::vector<std::int64_t>& sizes) {
  for (const std::int64_t size : sizes) {
    for (const CopyWay& way : kCopyWays) {
      Add(Name("copy", {{"how", way.name}, {"size", std::to_string(size)}}), RunCopy, way, size);
    }
  }
}

}  // namespace apta::bench
