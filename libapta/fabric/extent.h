// Extents: where one immutable object version lives in a region.
//
// An extent is [ExtentHeader][key][padding][payload]. The header's first line holds everything
// that a reader compares; short keys end in that same line. Written once by the home before the
// version is committed, and not touched again until the extent is reused (protocol.md,
// "Reclamation"), but for its seal, which nobody but its home reads while it serves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace apta::fabric {

inline constexpr std::size_t kCacheLineBytes = 64;
inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::size_t kHugePageBytes = 2 << 20;
inline constexpr std::size_t kMaxKeyBytes = 1024;
// Payloads of this size and more start on a page, so that they can be mapped.
inline constexpr std::uint64_t kPageAlignedPayloadBytes = 64 << 10;

constexpr std::uint64_t AlignUp(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

struct ExtentHeader {
  std::uint64_t version;  // of the pool; written last before the commit
  std::uint64_t payload_bytes;
  std::uint64_t key_hash;        // KeyHash(key); 0 in an extent that carries no key
  std::uint64_t checksum;        // see seal.h; 0 = not sealed yet
  std::uint32_t payload_offset;  // from the header's first byte, = PayloadOffset(…)
  std::uint16_t key_bytes;
  std::uint16_t reserved;

  const char* key_data() const { return reinterpret_cast<const char*>(this + 1); }
  std::string_view key() const { return {key_data(), key_bytes}; }
  const std::byte* payload() const {
    return reinterpret_cast<const std::byte*>(this) + payload_offset;
  }
};
static_assert(sizeof(ExtentHeader) == 40 && alignof(ExtentHeader) == 8);
static_assert(std::is_trivially_copyable_v<ExtentHeader> &&
              std::is_standard_layout_v<ExtentHeader>);

// Distance from an extent's first byte to its payload: a cache-line boundary, or for large
// payloads the second page (such extents start on a page themselves).
constexpr std::uint64_t PayloadOffset(std::uint64_t key_bytes, std::uint64_t payload_bytes) {
  const std::uint64_t offset = AlignUp(sizeof(ExtentHeader) + key_bytes, kCacheLineBytes);
  return payload_bytes >= kPageAlignedPayloadBytes ? kPageBytes : offset;
}

// What an object needs of the heap, before the object manager rounds up to a size bucket.
constexpr std::uint64_t ExtentBytes(std::uint64_t key_bytes, std::uint64_t payload_bytes) {
  return PayloadOffset(key_bytes, payload_bytes) + payload_bytes;
}

static_assert(PayloadOffset(kMaxKeyBytes, kPageAlignedPayloadBytes) >=
              sizeof(ExtentHeader) + kMaxKeyBytes);

}  // namespace apta::fabric
