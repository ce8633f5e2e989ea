#include "heap.h"

#include <cstring>

#include "fabric/hash.h"
#include "fabric/superblock.h"
#include "harness.h"

namespace apta::bench {
namespace {

constexpr std::uint64_t kBytes = 64 << 20;

}  // namespace

Heap::Heap(std::uint64_t count) : memory_(kBytes) {
  std::byte* const region = memory_.data();
  auto* superblock = reinterpret_cast<fabric::Superblock*>(region);
  std::memset(region, 0, kBytes);
  fabric::FormatSuperblock(superblock, kBytes, 1, 1, 2);
  std::uint64_t at = superblock->heap_offset;
  fabric::IndexWriter writer(region, *superblock, [&] {
    at += fabric::kCacheLineBytes;
    return at - fabric::kCacheLineBytes;
  });
  for (std::uint64_t i = 0; i < count; ++i) {
    keys_.push_back(Key("index", i));
    hashes_.push_back(fabric::KeyHash(keys_.back()));
    auto* header = reinterpret_cast<fabric::ExtentHeader*>(region + at);
    *header = {.version = i + 1, .payload_bytes = 64, .key_hash = hashes_.back()};
    header->key_bytes = static_cast<std::uint16_t>(keys_.back().size());
    header->payload_offset =
        static_cast<std::uint32_t>(fabric::PayloadOffset(header->key_bytes, 64));
    std::memcpy(header + 1, keys_.back().data(), keys_.back().size());
    extents_.push_back(at);
    at += fabric::AlignUp(fabric::ExtentBytes(header->key_bytes, 64), fabric::kCacheLineBytes);
    fabric::IndexSlot* slot = writer.Reserve(hashes_.back());
    if (slot == nullptr) Die(absl::InternalError("the index is full"));
    fabric::IndexWriter::Commit(slot, hashes_.back(), extents_.back());
  }
  view_ = fabric::IndexView(region, *superblock);
}

}  // namespace apta::bench
