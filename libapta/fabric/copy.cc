#include "fabric/copy.h"

#include <emmintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "fabric/extent.h"

namespace apta::fabric {

// SSE2's stores: wider ones fill a line no sooner (measured: 16, 32 and 64 bytes at a time).
void CopyPastCaches(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  const std::uint64_t misaligned = reinterpret_cast<std::uintptr_t>(to) % kCacheLineBytes;
  const std::uint64_t head = std::min(bytes, (kCacheLineBytes - misaligned) % kCacheLineBytes);
  std::memcpy(to, from, head);
  auto* out = reinterpret_cast<__m128i*>(to + head);
  const auto* in = reinterpret_cast<const __m128i*>(from + head);
  const std::uint64_t lines = (bytes - head) / kCacheLineBytes;
  for (std::uint64_t line = 0; line < lines; ++line, in += 4, out += 4) {
    const __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
    const __m128i c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
  }
  const std::uint64_t done = head + lines * kCacheLineBytes;
  std::memcpy(to + done, from + done, bytes - done);
  // Streaming stores are ordered by nothing else: whoever sees a later store must see them.
  _mm_sfence();
}

std::size_t HandOverWay::ClassOf(std::uint64_t bytes) {
  const auto doublings = std::bit_width(bytes / kLeastBytes);  // 1 for the least
  return std::min<std::size_t>(static_cast<std::size_t>(doublings) / 2, kClasses - 1);
}

// Relaxed throughout: estimates, each a word of its own.
bool HandOverWay::NextIsPastCaches(std::uint64_t bytes) {
  Class& of = class_[ClassOf(bytes)];
  const std::uint32_t body = of.bodies.fetch_add(1, std::memory_order_relaxed);
  const std::uint32_t through = of.ps_per_byte[0].load(std::memory_order_relaxed);
  const std::uint32_t past = of.ps_per_byte[1].load(std::memory_order_relaxed);
  if (through == 0 || past == 0) return past == 0 && body % 2 != 0;
  return (past < through) != (body % kTrialEvery == 0);
}

// What is interrupted takes many times as long: an estimate follows quicker bodies at once, and
// slower ones by little.
void HandOverWay::Took(bool past_caches, std::uint64_t bytes, TimeNs ns) {
  std::atomic<std::uint32_t>& estimate = class_[ClassOf(bytes)].ps_per_byte[past_caches ? 1 : 0];
  constexpr std::uint64_t kMost = 1 << 30;
  const std::uint64_t taken = std::clamp<std::uint64_t>(ns * 1000 / bytes, 1, kMost);
  const std::uint64_t known = estimate.load(std::memory_order_relaxed);
  const bool is_slower = known != 0 && taken > known;
  const std::uint64_t next =
      is_slower ? known + (std::min(taken, 4 * known) - known + 7) / 8 : taken;
  estimate.store(static_cast<std::uint32_t>(next), std::memory_order_relaxed);
}

}  // namespace apta::fabric
