#include "fabric/index.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <map>
#include <string>
#include <thread>

#include "fabric/hash.h"

namespace apta::fabric {
namespace {

constexpr std::uint64_t kRegionBytes = 16 << 20;

class IndexTest : public ::testing::Test {
 protected:
  IndexTest() {
    void* data =
        mmap(nullptr, kRegionBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    region_ = static_cast<std::byte*>(data);
    FormatSuperblock(superblock(), kRegionBytes, 1, 1, 2);
    heap_ = superblock()->heap_offset;
    writer_.emplace(region_, *superblock(), [this] { return heap_full_ ? 0 : Take(64); });
  }
  ~IndexTest() override { munmap(region_, kRegionBytes); }

  Superblock* superblock() { return reinterpret_cast<Superblock*>(region_); }
  const IndexView& view() const { return writer_->view(); }
  std::uint64_t Take(std::uint64_t bytes) {
    const std::uint64_t offset = heap_;
    heap_ += AlignUp(bytes, kCacheLineBytes);
    return offset;
  }
  std::uint64_t MakeExtent(std::string_view key, std::uint64_t version, std::uint64_t hash) {
    const std::uint64_t extent = Take(ExtentBytes(key.size(), 0));
    auto* header = reinterpret_cast<ExtentHeader*>(region_ + extent);
    *header = {.version = version,
               .payload_bytes = 0,
               .key_hash = hash,
               .checksum = 0,
               .payload_offset = static_cast<std::uint32_t>(PayloadOffset(key.size(), 0)),
               .key_bytes = static_cast<std::uint16_t>(key.size()),
               .reserved = 0};
    std::memcpy(header + 1, key.data(), key.size());
    return extent;
  }
  void Put(const std::string& key, std::uint64_t version, std::uint64_t hash) {
    ExtentHeader old;
    IndexSlot* slot = writer_->FindWritable(hash, key, &old);
    if (slot == nullptr) slot = writer_->Reserve(hash);
    ASSERT_NE(slot, nullptr);
    IndexWriter::Commit(slot, hash, MakeExtent(key, version, hash));
  }
  std::uint64_t VersionOf(const std::string& key, std::uint64_t hash) {
    const auto entry = view().LocateUnregistered(hash, key);
    const IndexSlot* slot = view().Find(hash, key);
    EXPECT_EQ(entry.has_value(), slot != nullptr);
    return entry ? entry->version : 0;
  }

  std::byte* region_;
  std::uint64_t heap_;
  bool heap_full_ = false;
  std::optional<IndexWriter> writer_;
};

TEST_F(IndexTest, KeysAreFoundReplacedAndErased) {
  for (int i = 0; i < 20'000; ++i) {
    const std::string key = "key " + std::to_string(i);
    Put(key, static_cast<std::uint64_t>(i) + 1, KeyHash(key));
  }
  for (int i = 0; i < 20'000; i += 3) {
    const std::string key = "key " + std::to_string(i);
    ExtentHeader header;
    IndexWriter::Erase(writer_->FindWritable(KeyHash(key), key, &header));
  }
  std::map<std::string, std::uint64_t> seen;
  view().ForEachSlot([&](const IndexSlot& slot) {
    if (const auto entry = view().ReadUnregistered(slot)) seen[entry->key] = entry->version;
  });
  for (int i = 0; i < 20'000; ++i) {
    const std::string key = "key " + std::to_string(i);
    const std::uint64_t version = i % 3 == 0 ? 0 : static_cast<std::uint64_t>(i) + 1;
    ASSERT_EQ(VersionOf(key, KeyHash(key)), version);
    ASSERT_EQ(seen.contains(key), version != 0);
  }
}

TEST_F(IndexTest, KeysWithOneHashAreToldApart) {
  constexpr std::uint64_t kHash = 0xabcd'0000'0000'0005;
  for (int i = 1; i <= 30; ++i)
    Put("key " + std::to_string(i), static_cast<std::uint64_t>(i), kHash);
  for (int i = 1; i <= 30; ++i) {
    EXPECT_EQ(VersionOf("key " + std::to_string(i), kHash), static_cast<std::uint64_t>(i));
  }
  EXPECT_EQ(VersionOf("key 31", kHash), 0u);
  int overflow_buckets = 0;
  const IndexBucket* bucket = &view().bucket(kHash & (view().buckets() - 1));
  while ((bucket = view().BucketAt(bucket->overflow_offset.load())) != nullptr) ++overflow_buckets;
  EXPECT_EQ(overflow_buckets, 4);  // 30 keys in buckets of 7
}

TEST_F(IndexTest, WhatWasBuriedIsLostAndNotFoundUntilItsGravestoneIsGone) {
  constexpr std::uint64_t kHash = 0xabcd'0000'0000'0005;
  Put("key", 1, kHash);
  EXPECT_FALSE(view().IsLost(kHash));
  EXPECT_EQ(writer_->FindGravestone(kHash), nullptr);
  ExtentHeader header;
  IndexSlot* slot = writer_->FindWritable(kHash, "key", &header);
  IndexWriter::Bury(slot, kHash);
  EXPECT_EQ(VersionOf("key", kHash), 0u);
  EXPECT_EQ(VersionOf("key", ~kHash), 0u);
  EXPECT_FALSE(view().ReadUnregistered(*slot));
  EXPECT_TRUE(view().IsLost(kHash));
  EXPECT_FALSE(view().IsLost(kHash ^ 0x1000'0000'0000'0000));
  EXPECT_EQ(writer_->FindGravestone(kHash), slot);
  IndexWriter::Erase(slot);
  EXPECT_FALSE(view().IsLost(kHash));
  slot->store(kLostChain);
  EXPECT_TRUE(view().IsLost(kHash ^ 0x1000'0000'0000'0000));
  EXPECT_FALSE(view().ReadUnregistered(*slot));
}

TEST_F(IndexTest, AFullHeapRefusesAnotherBucketAndKeepsWhatIsThere) {
  heap_full_ = true;
  for (int i = 0; i < IndexBucket::kSlots; ++i) Put("key " + std::to_string(i), 1, 7);
  EXPECT_EQ(writer_->Reserve(7), nullptr);
  EXPECT_EQ(VersionOf("key 3", 7), 1u);
}

TEST_F(IndexTest, GarbageInSlotsLinksAndHeadersIsNotFollowed) {
  auto* bucket = reinterpret_cast<IndexBucket*>(region_ + superblock()->index_offset);
  const std::uint64_t hash = 0x1111'0000'0000'0000;  // of bucket 0
  for (const std::uint64_t offset :
       {std::uint64_t{64}, kRegionBytes, kRegionBytes - 64, std::uint64_t{1} << 50}) {
    bucket->slot[0].store(MakeIndexSlot(hash, offset));
    EXPECT_EQ(view().Find(hash, "key"), nullptr);
    EXPECT_FALSE(view().LocateUnregistered(hash, "key"));
  }
  const std::uint64_t extent = MakeExtent("key", 1, hash);
  bucket->slot[0].store(MakeIndexSlot(hash, extent));
  EXPECT_NE(view().Find(hash, "key"), nullptr);
  auto* header = reinterpret_cast<ExtentHeader*>(region_ + extent);
  header->key_bytes = 60'000;
  EXPECT_EQ(view().Find(hash, "key"), nullptr);
  EXPECT_FALSE(view().LocateUnregistered(hash, "key"));
  header->key_bytes = 3;
  header->payload_bytes = ~std::uint64_t{0};
  EXPECT_EQ(view().Find(hash, "key"), nullptr);
  // A chain that bites its tail ends all the same.
  const std::uint64_t overflow = Take(64);
  bucket->overflow_offset.store(overflow);
  reinterpret_cast<IndexBucket*>(region_ + overflow)->overflow_offset.store(overflow);
  EXPECT_EQ(view().Find(hash, "key"), nullptr);
  bucket->overflow_offset.store(12345);
  EXPECT_EQ(view().Find(hash, "key"), nullptr);
}

// A version as the OPC makes one, in an extent that readers may still look at; word by word, so
// that the readers' loads are the only racing ones.
void WriteVersion(std::byte* extent, std::uint64_t version, std::uint64_t hash,
                  std::string_view key) {
  auto* header = reinterpret_cast<ExtentHeader*>(extent);
  std::atomic_ref<std::uint64_t>(header->version).exchange(0, std::memory_order_acq_rel);
  std::byte image[160] = {};
  const std::uint64_t payload_bytes = version % 1000;
  ExtentHeader fresh = {
      .version = 0,
      .payload_bytes = payload_bytes,
      .key_hash = hash,
      .checksum = 0,
      .payload_offset = static_cast<std::uint32_t>(PayloadOffset(key.size(), payload_bytes)),
      .key_bytes = static_cast<std::uint16_t>(key.size()),
      .reserved = 0};
  std::memcpy(image, &fresh, sizeof(fresh));
  std::memcpy(image + sizeof(fresh), key.data(), key.size());
  for (std::size_t i = 8; i < sizeof(image); i += 8) {
    std::uint64_t word;
    std::memcpy(&word, image + i, 8);
    std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(extent + i))
        .store(word, std::memory_order_relaxed);
  }
  std::atomic_ref<std::uint64_t>(header->version).store(version, std::memory_order_release);
}

TEST_F(IndexTest, AnUnregisteredReaderNeverSeesATornEntry) {
  // Two extents take turns under one key; key length and payload size follow from the version.
  const std::uint64_t extents[2] = {Take(4096), Take(4096)};
  const std::uint64_t hash = 99;
  IndexSlot* slot = writer_->Reserve(hash);
  std::atomic<bool> stop{false};
  std::atomic<int> torn{0}, seen{0};
  std::thread reader([&] {
    while (!stop.load()) {
      const auto entry = view().ReadUnregistered(*slot);
      if (!entry) continue;
      ++seen;
      const std::string key(entry->version % 100 + 1, static_cast<char>('a' + entry->version % 26));
      torn += entry->key != key || entry->payload_bytes != entry->version % 1000;
    }
  });
  for (std::uint64_t version = 1; version < 100'000 || seen.load() < 100; ++version) {
    const std::string key(version % 100 + 1, static_cast<char>('a' + version % 26));
    WriteVersion(region_ + extents[version % 2], version, hash, key);
    IndexWriter::Commit(slot, hash, extents[version % 2]);
  }
  stop = true;
  reader.join();
  EXPECT_EQ(torn, 0);
}

// Two keys of one hash take turns in three extents: while a reader looks at an extent it may be
// freed, become the other key's, and the first key's again, so that the slot says what it said.
TEST_F(IndexTest, AKeyThatIsReplacedWithoutPauseIsFoundAtEveryMoment) {
  const std::uint64_t extents[3] = {Take(4096), Take(4096), Take(4096)};
  const std::uint64_t hash = 99;
  const std::string keys[2] = {"one", "two"};
  IndexSlot* slots[2];
  std::uint64_t version = 0, free = 2;
  std::uint64_t held[2] = {0, 1};
  for (int k = 0; k < 2; ++k) {
    slots[k] = writer_->Reserve(hash);
    WriteVersion(region_ + extents[k], ++version, hash, keys[k]);
    IndexWriter::Commit(slots[k], hash, extents[k]);
  }
  std::atomic<bool> stop{false};
  std::atomic<int> missed{0}, seen{0};
  std::thread reader([&] {
    std::uint64_t newest = 0;
    while (!stop.load()) {
      const auto place = view().LocateUnregistered(hash, keys[0]);
      missed += !place || place->version < newest || !view().ReadUnregistered(*slots[1]);
      if (place) newest = place->version;
      ++seen;
    }
  });
  while (version < 300'000 || seen.load() < 100'000) {
    const std::uint64_t k = ++version % 3 == 0 ? 1 : 0;
    WriteVersion(region_ + extents[free], version, hash, keys[k]);
    IndexWriter::Commit(slots[k], hash, extents[free]);
    std::swap(held[k], free);
    reinterpret_cast<std::atomic<std::uint64_t>*>(region_ + extents[free])->store(0);  // released
  }
  stop = true;
  reader.join();
  EXPECT_EQ(missed, 0);
}

TEST_F(IndexTest, ASuperblockThatDoesNotFitItsMemoryIsRefused) {
  EXPECT_TRUE(superblock()->Validate(kRegionBytes).ok());
  EXPECT_TRUE(absl::IsDataLoss(superblock()->Validate(kRegionBytes - 1)));
  const auto refused_with = [&](auto&& damage) {
    alignas(Superblock) std::byte copy[sizeof(Superblock)];
    std::memcpy(copy, region_, sizeof(copy));
    auto* damaged = reinterpret_cast<Superblock*>(copy);
    damage(damaged);
    return damaged->Validate(kRegionBytes).code();
  };
  using absl::StatusCode;
  EXPECT_EQ(refused_with([](auto* s) { s->magic = 0; }), StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused_with([](auto* s) { s->layout_version = 2; }), StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused_with([](auto* s) { s->shards = 0; }), StatusCode::kDataLoss);
  EXPECT_EQ(refused_with([](auto* s) { s->shards = 99; }), StatusCode::kDataLoss);
  EXPECT_EQ(refused_with([](auto* s) { s->index_buckets = 1000; }), StatusCode::kDataLoss);
  EXPECT_EQ(refused_with([](auto* s) { s->index_buckets = 1ull << 40; }), StatusCode::kDataLoss);
  EXPECT_EQ(refused_with([](auto* s) { s->index_offset = 64; }), StatusCode::kDataLoss);
  EXPECT_EQ(refused_with([](auto* s) { s->heap_offset = 4096; }), StatusCode::kDataLoss);
  EXPECT_EQ(refused_with([](auto* s) { s->heap_offset = kRegionBytes; }), StatusCode::kDataLoss);
}

}  // namespace
}  // namespace apta::fabric
