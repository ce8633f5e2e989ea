// The index of a pool: key -> extent, in shared memory, one writer per bucket, any number of
// lock-free readers in any process.
//
// A bucket is one cache line: 7 slots and a link to an overflow bucket. A slot is 8 bytes: a
// 16-bit tag of the key's hash and the extent's offset in cache lines; 0 = empty. Everything else
// about a version stands in its extent's header.
//
// Invariants
//   1. A slot changes by one 8-byte release store: that store is the commit of a put or delete.
//   2. A key is in at most one slot. Replacing a version keeps the slot.
//   3. Buckets are linked and never unlinked while the memory server runs.
//   4. A reader that is no registered sharer may look at memory that is being reused: it checks
//      every offset, copies, and then checks slot and version again before it believes anything.
//      The home's part: a header's version is 0 from the release of its extent until the next one
//      there is whole, and a version is never used twice.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "fabric/extent.h"
#include "fabric/superblock.h"
#include "fabric/write_back.h"

namespace apta::fabric {

using IndexSlot = std::atomic<std::uint64_t>;

struct alignas(kCacheLineBytes) IndexBucket {
  static constexpr int kSlots = 7;
  IndexSlot slot[kSlots];
  std::atomic<std::uint64_t> overflow_offset;  // of the next bucket, in bytes; 0, kChainEnd = none
};
static_assert(sizeof(IndexBucket) == kCacheLineBytes);

constexpr std::uint64_t MakeIndexSlot(std::uint64_t key_hash, std::uint64_t extent_offset) {
  return (key_hash & 0xffff'0000'0000'0000) | (extent_offset / kCacheLineBytes);
}
constexpr std::uint64_t SlotExtentOffset(std::uint64_t slot) {
  return (slot & 0x0000'ffff'ffff'ffff) * kCacheLineBytes;
}
constexpr bool SlotTagMatches(std::uint64_t slot, std::uint64_t key_hash) {
  return slot != 0 && ((slot ^ key_hash) & 0xffff'0000'0000'0000) == 0;
}

// Gravestones: what stands in a slot in place of an object that was found damaged, so that its key
// is not taken for one that never existed. They name places where no extent is: nobody finds
// anything. Whoever looks for another key of the same bucket and tag, and does not find it, is told
// the same.
inline constexpr std::uint64_t kSlotTagMask = 0xffff'0000'0000'0000;
// The tag is turned round, as in Hold: it looks like another key's.
constexpr std::uint64_t GravestoneOf(std::uint64_t key_hash) {
  return (~key_hash & kSlotTagMask) | 1;
}
constexpr bool IsGravestone(std::uint64_t slot) { return (slot & ~kSlotTagMask) == 1; }
// Of all objects that stood in overflow buckets of this bucket, whose link was damaged.
inline constexpr std::uint64_t kLostChain = 2;
// What the last of several buckets says instead of where the next one is: memory that holds nothing
// but zeros is no overflow bucket.
inline constexpr std::uint64_t kChainEnd = 1;

// An extent as a reader saw it, consistent at one instant.
struct IndexEntry {
  std::string key;
  std::uint64_t version = 0;
  std::uint64_t payload_bytes = 0;
  std::uint64_t extent_offset = 0;
};

// A view of a validated region's index. Copyable, stateless, thread-safe. Reads only.
class IndexView {
 public:
  IndexView() = default;
  IndexView(const std::byte* region, const Superblock& superblock);

  // The slot that names `key`, and a checked copy of its header, or nullptr. For the slot's writer,
  // whose extents cannot be reused under it. Cost: one line for the bucket, one for the header of
  // each slot whose tag matches.
  const IndexSlot* Find(std::uint64_t key_hash, std::string_view key, ExtentHeader* header) const;
  const IndexSlot* Find(std::uint64_t key_hash, std::string_view key) const {
    ExtentHeader header;
    return Find(key_hash, key, &header);
  }

  // The header at an offset, or nullptr when the offset, or the key and payload that the header
  // claims, do not lie in the heap. For registered readers and the writer.
  const ExtentHeader* HeaderAt(std::uint64_t extent_offset) const;
  bool IsInHeap(std::uint64_t extent_offset) const {
    return extent_offset >= heap_offset_ && extent_offset <= region_bytes_ - kCacheLineBytes &&
           extent_offset % kCacheLineBytes == 0;
  }
  // For those who have checked it, and know that nobody has written to it since.
  const ExtentHeader* UncheckedHeaderAt(std::uint64_t extent_offset) const {
    return reinterpret_cast<const ExtentHeader*>(region_ + extent_offset);
  }
  // As HeaderAt, a copy that was checked after it was taken: for the memory server, where clients
  // may write to the heap (trusted pools). False: as nullptr.
  bool CopyHeader(std::uint64_t extent_offset, ExtentHeader* header) const;

  // Calls `visit` with extent and version of each object whose key has this hash. For the writer.
  void ForEachOfHash(std::uint64_t key_hash,
                     const std::function<void(std::uint64_t, std::uint64_t)>& visit) const;

  // How many payload bytes the objects have whose keys have this hash. Any reader; a hint: what is
  // being replaced may count as anything.
  std::uint64_t BytesOfHash(std::uint64_t key_hash) const;

  // For readers that are not registered (invariant 4): what `slot` named at some moment of the
  // call, or nullopt: then it was empty, or names nothing (held, damaged). Lock-free, as Locate.
  std::optional<IndexEntry> ReadUnregistered(const IndexSlot& slot) const;

  // Where `key` stands now, without copying it. nullopt: at some moment of the call there was no
  // such object. Lock-free: looks again only when a commit came between.
  struct Place {
    std::uint64_t extent = 0;
    std::uint64_t version = 0;
    const IndexSlot* slot = nullptr;  // that names it; nullptr: a home's reply did
    std::uint64_t word = 0;           // what the slot says
    ExtentHeader header{};            // as it was then, if a slot names it
  };
  std::optional<Place> LocateUnregistered(std::uint64_t key_hash, std::string_view key) const;
  // Copies the payload of the version whose header was read at `place`; false: it has been
  // superseded meanwhile, and what was copied may be nonsense. A place that a home has named is
  // looked at first, whether it holds `key`.
  bool CopyUnregistered(const Place& place, const ExtentHeader& header, std::string_view key,
                        std::byte* payload) const;

  // Whether an object of this hash that is not found was lost (see GravestoneOf).
  bool IsLost(std::uint64_t key_hash) const;

  // Calls `visit` for each slot of bucket `bucket_index` and those it overflows to.
  void ForEachSlotOf(std::uint64_t bucket_index,
                     const std::function<void(const IndexSlot&)>& visit) const;
  // Calls `visit` for each slot, bucket by bucket; for scans by unregistered readers and rebuild.
  void ForEachSlot(const std::function<void(const IndexSlot&)>& visit) const;

  // For readers that are not registered: how many commit groups there have been, or nullopt while
  // the slots of one are being changed. What was read between two equal answers is of one moment.
  std::optional<std::uint64_t> QuietGroups() const {
    const auto* superblock = reinterpret_cast<const Superblock*>(region_);
    // Acquire: the slots of the groups that have ended are visible; partner: GroupCommits::Obey.
    // Ended is read first: equal numbers mean that nothing was open when `begun` was read. A slot
    // of a later group, read afterwards with acquire, makes its `begun` visible to the next look.
    const std::uint64_t ended = superblock->groups_ended.load(std::memory_order_acquire);
    const std::uint64_t begun = superblock->groups_begun.load(std::memory_order_acquire);
    if (ended != begun) return std::nullopt;
    return begun;
  }

  std::uint64_t buckets() const { return buckets_; }
  const IndexBucket& bucket(std::uint64_t bucket_index) const { return bucket_[bucket_index]; }
  const IndexBucket* BucketAt(std::uint64_t offset) const;  // nullptr = not in the heap
  // No chain that we make is nearly as long; a damaged one may be a cycle.
  static constexpr std::uint64_t kMaxOverflow = 1 << 10;
  std::uint32_t ShardOf(std::uint64_t key_hash) const {
    return fabric::ShardOf(key_hash, buckets_, shards_);
  }

 private:
  friend class IndexWriter;
  bool Fits(std::uint64_t extent_offset, const ExtentHeader& header) const;  // in the heap
  // Whether `read`, called with the extent that `word` names, found what it is looking for, at one
  // moment when `slot` said `word`. False as well when the slot has changed: then `word` is new.
  template <typename Read>
  bool ReadSettled(const IndexSlot& slot, std::uint64_t* word, const Read& read) const;
  // Whether this key is what stands behind the header; of the version only if its word says so
  // afterwards too.
  bool HoldsKey(std::uint64_t extent, const ExtentHeader& header, std::string_view key) const;
  // A slot that has said the same so often, with an extent of no version, names none.
  static constexpr std::uint64_t kMaxLooks = 1 << 10;

  const std::byte* region_ = nullptr;
  const IndexBucket* bucket_ = nullptr;
  std::uint64_t buckets_ = 0;
  std::uint32_t shards_ = 1;
  std::uint64_t heap_offset_ = 0;
  std::uint64_t region_bytes_ = 0;
};

// The single writer of the buckets of its shard. Not thread-safe.
class IndexWriter {
 public:
  // Allocates 64 zeroed bytes of the heap for an overflow bucket: its offset, or 0 = heap full.
  using AllocateBucket = std::function<std::uint64_t()>;

  IndexWriter() = default;
  IndexWriter(std::byte* region, const Superblock& superblock, AllocateBucket allocate);

  const IndexView& view() const { return view_; }
  // Links between buckets are written back before whatever is fenced next.
  void set_write_back(WriteBack* write_back) { write_back_ = write_back; }

  // A slot that Commit can fill for a key that Find did not find, or nullptr = heap full. Nothing
  // is visible until Commit.
  IndexSlot* Reserve(std::uint64_t key_hash);
  IndexSlot* FindWritable(std::uint64_t key_hash, std::string_view key, ExtentHeader* header) {
    return const_cast<IndexSlot*>(view_.Find(key_hash, key, header));
  }

  // The commit: one release store (invariant 1).
  static void Commit(IndexSlot* slot, std::uint64_t key_hash, std::uint64_t extent_offset) {
    // Release: header, key and payload are written before a reader can find them; partner of the
    // acquire loads in IndexView.
    slot->store(MakeIndexSlot(key_hash, extent_offset), std::memory_order_release);
  }
  // Keeps a reserved slot for a commit that follows: it looks like another key's, whose extent has
  // no version, so nobody finds anything there.
  static void Hold(IndexSlot* slot, std::uint64_t key_hash, std::uint64_t extent_offset) {
    // Release, as in Commit: whoever looks at the extent all the same finds its header whole.
    slot->store(MakeIndexSlot(~key_hash, extent_offset), std::memory_order_release);
  }
  static void Bury(IndexSlot* slot, std::uint64_t key_hash) {
    slot->store(GravestoneOf(key_hash), std::memory_order_release);  // as in Erase
  }
  // The gravestone that IsLost finds for this hash, of an object; nullptr = there is none.
  IndexSlot* FindGravestone(std::uint64_t key_hash);
  static void Erase(IndexSlot* slot) { slot->store(0, std::memory_order_release); }

 private:
  std::byte* region_ = nullptr;
  IndexView view_;
  AllocateBucket allocate_;
  WriteBack* write_back_ = nullptr;
};

}  // namespace apta::fabric
