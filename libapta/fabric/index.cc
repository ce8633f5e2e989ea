#include "fabric/index.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "fabric/coherence.h"

namespace apta::fabric {
namespace {

// Copies memory that its writer may be changing: what comes of it is believed only after the
// version was looked at again. Acquire loads, so that this later look stays later; partner: the
// exchange of the version with 0 in Opc::Begin. Whole words: `bytes` rounded up.
void CopyRacy(const std::byte* from, void* to, std::size_t bytes) {
  auto* out = static_cast<std::byte*>(to);
  auto* words = reinterpret_cast<std::uint64_t*>(const_cast<std::byte*>(from));
  for (std::size_t i = 0; i * sizeof(*words) < bytes; ++i) {
    const auto word = std::atomic_ref<std::uint64_t>(words[i]).load(std::memory_order_acquire);
    std::memcpy(out + i * sizeof(word), &word, sizeof(word));
  }
}
std::uint64_t ReadRacy(const std::byte* from) {
  std::uint64_t word;
  CopyRacy(from, &word, sizeof(word));
  return word;
}

// As CopyRacy for many bytes. The fence keeps the copy above the look at the version that follows
// (acquire fence after relaxed reads; partner: the exchange of the version in Opc::Begin); the
// reads themselves are a memcpy, torn if the extent is reused, and then not believed. The sanitizer
// cannot know that, nor does it know fences.
__attribute__((no_sanitize("thread"))) void CopyBulkRacy(const std::byte* from, std::byte* to,
                                                         std::size_t bytes) {
  if (bytes == 0) return;
  std::memcpy(to, from, bytes);
#ifndef __SANITIZE_THREAD__
  std::atomic_thread_fence(std::memory_order_acquire);
#endif
}

}  // namespace

IndexView::IndexView(const std::byte* region, const Superblock& superblock)
    : region_(region),
      bucket_(reinterpret_cast<const IndexBucket*>(region + superblock.index_offset)),
      buckets_(superblock.index_buckets),
      shards_(superblock.shards),
      heap_offset_(superblock.heap_offset),
      region_bytes_(superblock.region_bytes) {}

const IndexBucket* IndexView::BucketAt(std::uint64_t offset) const {
  if (offset < heap_offset_ || offset > region_bytes_ - sizeof(IndexBucket) ||
      offset % sizeof(IndexBucket) != 0) {
    return nullptr;
  }
  return reinterpret_cast<const IndexBucket*>(region_ + offset);
}

const ExtentHeader* IndexView::HeaderAt(std::uint64_t extent_offset) const {
  ExtentHeader header;
  if (!CopyHeader(extent_offset, &header)) return nullptr;
  return reinterpret_cast<const ExtentHeader*>(region_ + extent_offset);
}

bool IndexView::CopyHeader(std::uint64_t extent_offset, ExtentHeader* header) const {
  if (!IsInHeap(extent_offset)) return false;
  // Through volatile: each member is read once, so that what was checked is what is used.
  const auto& from = *reinterpret_cast<const volatile ExtentHeader*>(region_ + extent_offset);
  header->version = from.version;
  header->payload_bytes = from.payload_bytes;
  header->key_hash = from.key_hash;
  header->checksum = from.checksum;
  header->payload_offset = from.payload_offset;
  header->key_bytes = from.key_bytes;
  header->reserved = 0;
  return Fits(extent_offset, *header);
}

bool IndexView::Fits(std::uint64_t extent_offset, const ExtentHeader& header) const {
  const std::uint64_t room = region_bytes_ - extent_offset;
  return header.payload_bytes <= room && header.key_bytes <= kMaxKeyBytes &&
         header.payload_offset == PayloadOffset(header.key_bytes, header.payload_bytes) &&
         header.payload_offset <= room - header.payload_bytes;
}

const IndexSlot* IndexView::Find(std::uint64_t key_hash, std::string_view key,
                                 ExtentHeader* header) const {
  const IndexBucket* bucket = bucket_ + (key_hash & (buckets_ - 1));
  for (std::uint64_t walked = 0; bucket != nullptr && walked <= kMaxOverflow; ++walked) {
    for (const IndexSlot& slot : bucket->slot) {
      // Acquire: the header is whole; partner of the release in IndexWriter::Commit.
      const std::uint64_t word = slot.load(std::memory_order_acquire);
      if (!SlotTagMatches(word, key_hash)) continue;
      const std::uint64_t extent = SlotExtentOffset(word);
      if (!CopyHeader(extent, header) || header->key_hash != key_hash) continue;
      if (std::string_view(UncheckedHeaderAt(extent)->key_data(), header->key_bytes) == key) {
        return &slot;
      }
    }
    // Acquire: the bucket was zeroed before it was linked; partner: the release in Reserve.
    bucket = BucketAt(bucket->overflow_offset.load(std::memory_order_acquire));
  }
  return nullptr;
}

void IndexView::ForEachOfHash(
    std::uint64_t key_hash, const std::function<void(std::uint64_t, std::uint64_t)>& visit) const {
  const IndexBucket* bucket = bucket_ + (key_hash & (buckets_ - 1));
  for (std::uint64_t walked = 0; bucket != nullptr && walked <= kMaxOverflow; ++walked) {
    for (const IndexSlot& slot : bucket->slot) {
      const std::uint64_t word = slot.load(std::memory_order_acquire);  // partner: Commit
      if (!SlotTagMatches(word, key_hash)) continue;
      ExtentHeader header;
      if (!CopyHeader(SlotExtentOffset(word), &header) || header.key_hash != key_hash) continue;
      visit(SlotExtentOffset(word), header.version);
    }
    bucket = BucketAt(bucket->overflow_offset.load(std::memory_order_acquire));  // partner: Reserve
  }
}

std::uint64_t IndexView::BytesOfHash(std::uint64_t key_hash) const {
  std::uint64_t bytes = 0;
  const IndexBucket* bucket = bucket_ + (key_hash & (buckets_ - 1));
  for (std::uint64_t walked = 0; bucket != nullptr && walked <= kMaxOverflow; ++walked) {
    for (const IndexSlot& slot : bucket->slot) {
      const std::uint64_t word = slot.load(std::memory_order_acquire);  // partner: Commit
      if (!SlotTagMatches(word, key_hash) || !IsInHeap(SlotExtentOffset(word))) continue;
      ExtentHeader header;
      CopyBulkRacy(region_ + SlotExtentOffset(word), reinterpret_cast<std::byte*>(&header),
                   sizeof(header));
      if (header.key_hash != key_hash) continue;
      bytes += std::min(header.payload_bytes, region_bytes_);
    }
    bucket = BucketAt(bucket->overflow_offset.load(std::memory_order_acquire));  // partner: Reserve
  }
  return bytes;
}

// That the slot says what it said proves nothing: the extent may have been released, read then, and
// taken for the same key again. A version that stands before and after that look does: no version
// is used twice, so all that was read in between is of the moment when the slot was looked at.
template <typename Read>
bool IndexView::ReadSettled(const IndexSlot& slot, std::uint64_t* word, const Read& read) const {
  for (std::uint64_t looks = 0; looks < kMaxLooks; ++looks) {
    const std::uint64_t extent = SlotExtentOffset(*word);
    if (!IsInHeap(extent)) return false;
    Interleave();
    const std::uint64_t version = ReadRacy(region_ + extent);
    const bool is_found = read(extent);
    Interleave();
    // Acquire here and in the reads: none of the looks is taken before the one above it.
    const std::uint64_t now = slot.load(std::memory_order_acquire);
    if (now != *word) {
      *word = now;
      return false;
    }
    if (version != 0 && ReadRacy(region_ + extent) == version) return is_found;
  }
  return false;  // what a slot names always has a version: damaged
}

std::optional<IndexEntry> IndexView::ReadUnregistered(const IndexSlot& slot) const {
  std::uint64_t word = slot.load(std::memory_order_acquire);  // partner: Commit
  for (std::uint64_t before = 0; word != 0 && word != before;) {
    before = word;
    ExtentHeader header;
    std::array<char, kMaxKeyBytes> key;
    const bool is_read = ReadSettled(slot, &word, [&](std::uint64_t extent) {
      CopyRacy(region_ + extent, &header, sizeof(header));
      if (header.key_bytes == 0 || !Fits(extent, header)) return false;
      CopyRacy(region_ + extent + sizeof(header), key.data(), header.key_bytes);
      return true;
    });
    if (is_read) {
      return IndexEntry{std::string(key.data(), header.key_bytes), header.version,
                        header.payload_bytes, SlotExtentOffset(word)};
    }
  }
  return std::nullopt;
}

std::optional<IndexView::Place> IndexView::LocateUnregistered(std::uint64_t key_hash,
                                                              std::string_view key) const {
  const IndexBucket* bucket = bucket_ + (key_hash & (buckets_ - 1));
  for (std::uint64_t walked = 0; bucket != nullptr && walked <= kMaxOverflow; ++walked) {
    for (const IndexSlot& slot : bucket->slot) {
      std::uint64_t word = slot.load(std::memory_order_acquire);  // partner: Commit
      // A slot that changes under us is looked at again.
      for (std::uint64_t before = 0; SlotTagMatches(word, key_hash) && word != before;) {
        before = word;
        ExtentHeader header;
        const bool is_found = ReadSettled(slot, &word, [&](std::uint64_t extent) {
          CopyRacy(region_ + extent, &header, sizeof(header));
          return header.key_hash == key_hash && Fits(extent, header) &&
                 HoldsKey(extent, header, key);
        });
        if (is_found) return Place{SlotExtentOffset(word), header.version, &slot, word, header};
      }
    }
    bucket = BucketAt(bucket->overflow_offset.load(std::memory_order_acquire));  // partner: Reserve
  }
  return std::nullopt;
}

bool IndexView::HoldsKey(std::uint64_t extent, const ExtentHeader& header,
                         std::string_view key) const {
  if (header.key_bytes != key.size()) return false;
  std::array<char, kMaxKeyBytes> copy;
  CopyRacy(region_ + extent + sizeof(header), copy.data(), key.size());
  return std::string_view(copy.data(), key.size()) == key;
}

// The version alone does not tell: where the extent's memory has been cut anew, it is somebody's
// payload, and may say anything. The slot alone does not either: the same extent may hold another
// version of the key by now. Without a slot the key is looked at.
bool IndexView::CopyUnregistered(const Place& place, const ExtentHeader& header,
                                 std::string_view key, std::byte* payload) const {
  if (place.slot == nullptr && !HoldsKey(place.extent, header, key)) return false;
  Interleave();
  CopyBulkRacy(region_ + place.extent + header.payload_offset, payload, header.payload_bytes);
  Interleave();
  const bool is_whole = ReadRacy(region_ + place.extent) == header.version;
  const bool is_current = place.slot == nullptr || place.slot->load() == place.word;
  return (is_whole && is_current) || !Upholds(Rule::kCheckAfterCopy);
}

void IndexView::ForEachSlotOf(std::uint64_t bucket_index,
                              const std::function<void(const IndexSlot&)>& visit) const {
  const IndexBucket* bucket = bucket_ + bucket_index;
  for (std::uint64_t walked = 0; bucket != nullptr && walked <= kMaxOverflow; ++walked) {
    for (const IndexSlot& slot : bucket->slot) visit(slot);
    bucket = BucketAt(bucket->overflow_offset.load(std::memory_order_acquire));  // partner: Reserve
  }
}

void IndexView::ForEachSlot(const std::function<void(const IndexSlot&)>& visit) const {
  for (std::uint64_t i = 0; i < buckets_; ++i) ForEachSlotOf(i, visit);
}

bool IndexView::IsLost(std::uint64_t key_hash) const {
  bool is_lost = false;
  ForEachSlotOf(key_hash & (buckets_ - 1), [&](const IndexSlot& slot) {
    const std::uint64_t word = slot.load(std::memory_order_acquire);  // partner: Bury
    is_lost = is_lost || word == GravestoneOf(key_hash) || word == kLostChain;
  });
  return is_lost;
}

IndexWriter::IndexWriter(std::byte* region, const Superblock& superblock, AllocateBucket allocate)
    : region_(region), view_(region, superblock), allocate_(std::move(allocate)) {}

IndexSlot* IndexWriter::FindGravestone(std::uint64_t key_hash) {
  const IndexSlot* found = nullptr;
  view_.ForEachSlotOf(key_hash & (view_.buckets_ - 1), [&](const IndexSlot& slot) {
    // Relaxed: ours alone to write.
    if (slot.load(std::memory_order_relaxed) == GravestoneOf(key_hash)) found = &slot;
  });
  return const_cast<IndexSlot*>(found);
}

IndexSlot* IndexWriter::Reserve(std::uint64_t key_hash) {
  auto* bucket = const_cast<IndexBucket*>(view_.bucket_ + (key_hash & (view_.buckets_ - 1)));
  for (std::uint64_t walked = 0; walked <= IndexView::kMaxOverflow; ++walked) {
    for (IndexSlot& slot : bucket->slot) {
      if (slot.load(std::memory_order_relaxed) == 0) return &slot;  // ours alone to write
    }
    std::uint64_t next = bucket->overflow_offset.load(std::memory_order_relaxed);  // likewise
    if (next == 0 || next == kChainEnd) {
      next = allocate_();
      if (next == 0) return nullptr;
      // Release: the new bucket is zeroed; partner of the acquire loads of readers.
      bucket->overflow_offset.store(next, std::memory_order_release);
      if (write_back_ != nullptr) write_back_->Lines(&bucket->overflow_offset, sizeof(next));
    }
    bucket = const_cast<IndexBucket*>(view_.BucketAt(next));
    if (bucket == nullptr) return nullptr;  // a damaged region
  }
  return nullptr;
}

}  // namespace apta::fabric
