#include "checksums.h"

#include <nmmintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>

#include "copies.h"
#include "fabric/hash.h"
#include "suite.h"

namespace apta::bench {
namespace {

std::uint64_t LoadWord(const std::byte* from) {
  std::uint64_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

// With the processor's instruction, 8 bytes after 8: each waits for the one before (3 cycles).
std::uint32_t Crc32c(const std::byte* bytes, std::size_t count) {
  std::uint64_t crc = ~std::uint32_t{0};
  const std::byte* const end = bytes + count;
  for (; end - bytes >= 8; bytes += 8) crc = _mm_crc32_u64(crc, LoadWord(bytes));
  auto rest = static_cast<std::uint32_t>(crc);
  for (; bytes != end; ++bytes) rest = _mm_crc32_u8(rest, static_cast<unsigned char>(*bytes));
  return ~rest;
}

// Three CRCs, of a third each (of whole words; the sizes here are such but for the last bytes), at
// the same time: one instruction per cycle.
std::uint64_t Crc32cTimesThree(const std::byte* bytes, std::size_t count) {
  const std::size_t third = count / 24 * 8;
  std::uint64_t a = ~std::uint32_t{0}, b = a, c = a;
  for (std::size_t i = 0; i < third; i += 8) {
    a = _mm_crc32_u64(a, LoadWord(bytes + i));
    b = _mm_crc32_u64(b, LoadWord(bytes + third + i));
    c = _mm_crc32_u64(c, LoadWord(bytes + 2 * third + i));
  }
  return a ^ b << 11 ^ c << 22 ^ Crc32c(bytes + 3 * third, count - 3 * third);
}

struct Checksum {
  const char* name;
  std::uint64_t (*of)(const std::byte* bytes, std::size_t count);
};
constexpr std::array<Checksum, 3> kChecksums = {{
    {"xxh3",
     [](const std::byte* bytes, std::size_t count) {
       return fabric::KeyHash({reinterpret_cast<const char*>(bytes), count});
     }},
    {"crc32c",
     [](const std::byte* bytes, std::size_t count) { return std::uint64_t{Crc32c(bytes, count)}; }},
    {"crc32c_x3", Crc32cTimesThree},
}};

void RunChecksum(benchmark::State& state, const Checksum& checksum, std::int64_t size) {
  constexpr std::string_view kCheck = "123456789";  // CRC-32C's check value is published
  if (Crc32c(reinterpret_cast<const std::byte*>(kCheck.data()), kCheck.size()) != 0xe3069283) {
    return state.SkipWithError("not CRC-32C");
  }
  const auto bytes = static_cast<std::size_t>(size);
  const Buffer buffer(bytes);
  const std::uint64_t before = checksum.of(buffer.data(), bytes);
  const auto calls = static_cast<std::uint32_t>(std::clamp<std::int64_t>(262144 / size, 1, 1024));
  Measure(state, {.calls = calls}, nullptr, [&](std::uint64_t) {
    benchmark::ClobberMemory();
    return checksum.of(buffer.data(), bytes) == before;
  });
  buffer.data()[bytes / 2] ^= std::byte{1};
  if (checksum.of(buffer.data(), bytes) == before) state.SkipWithError("a flipped bit is not seen");
}

}  // namespace

void AddChecksums() {
  std::vector<std::int64_t> sizes = {64, 4 << 10, 64 << 10, 1 << 20, 64 << 20};
  if (CurrentRun().quick) sizes = {64, 64 << 10, 1 << 20};
  for (const Checksum& checksum : kChecksums) {
    for (const std::int64_t size : sizes) {
      Add(Name("checksum", {{"how", checksum.name}, {"size", std::to_string(size)}}), RunChecksum,
          checksum, size);
    }
  }
}

}  // namespace apta::bench
