// The first 8 KiB of every region: what it is, where its parts are, and the one line per shard by
// which a home tells its clients that it sleeps.
//
// Written by the memory server alone; clients map it read-only and check it with Validate before
// they believe an offset.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "fabric/extent.h"

namespace apta::fabric {

inline constexpr std::uint64_t kRegionMagic = 0x314e4f4947455241;  // "AREGION1" on disk
inline constexpr std::uint32_t kRegionLayoutVersion = 1;
#ifdef APTA_MAX_SHARDS  // of tools/apta-sim
inline constexpr int kMaxShards = APTA_MAX_SHARDS;
#else
inline constexpr int kMaxShards = 16;
#endif

// One line per shard, written by that shard's home alone.
struct alignas(kCacheLineBytes) HomeStatus {
  // 1: the home sleeps or is about to; whoever submits must ring its doorbell. Partner of the
  // submission ring's publishing exchange, see doorbell.h.
  std::atomic<std::uint32_t> asleep;
  std::uint32_t reserved;
  // Where the last record is of what the commit groups of this home are about to do
  // (daemon/group_intents.h); 0 = none is.
  std::uint64_t group_intents;
};
static_assert(sizeof(HomeStatus) == kCacheLineBytes);

struct Superblock {
  // Line 0: never changes after the region was made.
  std::uint64_t magic;
  std::uint32_t layout_version;
  std::uint32_t shards;  // how the index and the heap are divided
  std::uint64_t uuid[2];
  std::uint64_t region_bytes;
  std::uint64_t index_offset;   // of bucket 0
  std::uint64_t index_buckets;  // a power of two
  std::uint64_t heap_offset;    // first byte that extents may use; 2 MiB aligned

  // Line 1: written by the memory server while it runs.
  alignas(kCacheLineBytes) std::atomic<std::uint64_t> last_version;
  std::uint64_t incarnation;  // counts the memory servers that opened the region
  std::uint32_t clean;        // 1 between a clean shutdown and the next opening
  std::uint64_t seal;         // XXH3-64 of line 0; 0 = made before there were seals

  // Line 2: commit groups that homes have begun, and ended, to make visible. Readers that are not
  // registered take what they find in the index for current only while the numbers are equal
  // (IndexView::QuietGroups), so that nobody finds one key of a group new and another old.
  alignas(kCacheLineBytes) std::atomic<std::uint64_t> groups_begun;
  std::atomic<std::uint64_t> groups_ended;

  alignas(kPageBytes) HomeStatus home[kMaxShards];

  // Whether the constant part is one that this build can use in `mapped_bytes` bytes of memory.
  // FAILED_PRECONDITION: not a region, or of another layout; DATA_LOSS: truncated or damaged.
  absl::Status Validate(std::uint64_t mapped_bytes) const;
};
inline constexpr std::uint64_t kSuperblockBytes = 2 * kPageBytes;
static_assert(sizeof(Superblock) <= kSuperblockBytes);
static_assert(offsetof(Superblock, last_version) == kCacheLineBytes);
static_assert(offsetof(Superblock, groups_begun) == 2 * kCacheLineBytes);
static_assert(offsetof(Superblock, home) == kPageBytes);
static_assert(std::is_standard_layout_v<Superblock>);

// Buckets for a region: about one per 4 KiB, a power of two, at least 64. More objects than 7 times
// that spill into overflow buckets.
std::uint64_t IndexBucketsFor(std::uint64_t region_bytes);

// Lays out a fresh, zeroed region: index after the superblock, heap after the index.
void FormatSuperblock(Superblock* superblock, std::uint64_t region_bytes, std::uint32_t shards,
                      std::uint64_t uuid0, std::uint64_t uuid1);

// Of line 0, which says that it is a region.
std::uint64_t SealOf(const Superblock& superblock);

// The home of a key: the shard that its bucket belongs to, so that each bucket has one writer.
inline std::uint32_t ShardOf(std::uint64_t key_hash, std::uint64_t index_buckets,
                             std::uint32_t shards) {
  return shards == 1 ? 0 : static_cast<std::uint32_t>((key_hash & (index_buckets - 1)) % shards);
}

}  // namespace apta::fabric
