#include "daemon/object_manager.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

#include "fabric/extent.h"

namespace apta::daemon {
namespace {

constexpr std::uint64_t kBegin = 2 << 20;
constexpr std::uint64_t kEnd = kBegin + (64 << 20);

// What is live, as a model: no two extents overlap, all lie inside.
class Model {
 public:
  explicit Model(ObjectManager* objects) : objects_(*objects) {}

  bool Allocate(std::uint64_t bytes) {
    const std::uint64_t offset = objects_.Allocate(bytes);
    if (offset == 0) return false;
    const std::uint64_t end = offset + bytes;
    EXPECT_GE(offset, kBegin);
    EXPECT_LE(end, kEnd);
    EXPECT_EQ(offset % fabric::kCacheLineBytes, 0u);
    if (bytes >= fabric::kPageAlignedPayloadBytes) EXPECT_EQ(offset % fabric::kPageBytes, 0u);
    const auto after = live_.lower_bound(offset);
    if (after != live_.end()) EXPECT_LE(end, after->first);
    if (after != live_.begin())
      EXPECT_LE(std::prev(after)->first + std::prev(after)->second, offset);
    live_[offset] = bytes;
    return true;
  }
  void FreeOne(std::uint64_t which) {
    if (live_.empty()) return;
    auto entry = live_.lower_bound(kBegin + which % (kEnd - kBegin));
    if (entry == live_.end()) entry = live_.begin();
    EXPECT_EQ(objects_.LiveBytes(entry->first), ObjectManager::BucketBytes(entry->second));
    EXPECT_TRUE(objects_.Free(entry->first));
    live_.erase(entry);
  }
  void FreeAll() {
    for (const auto& [offset, bytes] : live_) EXPECT_TRUE(objects_.Free(offset));
    live_.clear();
  }
  const std::map<std::uint64_t, std::uint64_t>& live() const { return live_; }

 private:
  ObjectManager& objects_;
  std::map<std::uint64_t, std::uint64_t> live_;
};

std::uint64_t RandomBytes(std::mt19937_64* random) {
  const int bits = static_cast<int>((*random)() % 23);
  return 1 + (*random)() % (std::uint64_t{1} << bits);
}

TEST(ObjectManagerTest, AtMostAQuarterOfAnExtentIsWasted) {
  for (std::uint64_t bytes = 1; bytes <= 2 << 20; bytes += bytes < 40'000 ? 1 : 997) {
    const std::uint64_t taken = ObjectManager::BucketBytes(bytes);
    ASSERT_GE(taken, bytes);
    // Below 256 bytes the cache line is the limit.
    ASSERT_LE(taken, std::max(bytes + 63, bytes * 5 / 4 + 1)) << bytes;
    ASSERT_EQ(ObjectManager::BucketBytes(taken), taken);
  }
}

TEST(ObjectManagerTest, RandomExtentsNeverOverlapAndAllComesBack) {
  ObjectManager objects(kBegin, kEnd);
  Model model(&objects);
  std::mt19937_64 random(1);
  int refused = 0;
  for (int i = 0; i < 200'000; ++i) {
    if (random() % 100 < (i / 20'000 % 2 == 0 ? 70u : 30u)) {
      refused += !model.Allocate(RandomBytes(&random));
    } else {
      model.FreeOne(random());
    }
  }
  EXPECT_GT(refused, 0) << "the heap was never full: the test is too weak";
  EXPECT_EQ(objects.live_extents(), model.live().size());
  model.FreeAll();
  EXPECT_EQ(objects.live_extents(), 0u);
  EXPECT_EQ(objects.used_bytes(), 0u);
  EXPECT_TRUE(model.Allocate(kEnd - kBegin)) << "the heap is not one run again";
}

TEST(ObjectManagerTest, TheWholeHeapIsOneExtentThatCanBeHadAgainAndAgain) {
  ObjectManager objects(kBegin, kEnd);
  EXPECT_EQ(objects.capacity_bytes(), kEnd - kBegin);
  for (int i = 0; i < 3; ++i) {
    const std::uint64_t offset = objects.Allocate(objects.capacity_bytes());
    EXPECT_EQ(offset, kBegin);
    EXPECT_EQ(objects.Allocate(1), 0u);
    objects.Free(offset);
  }
  EXPECT_EQ(objects.Allocate(objects.capacity_bytes() + 1), 0u);
}

TEST(ObjectManagerTest, AFreedExtentIsHandedOutAgainBeforeFreshMemory) {
  ObjectManager objects(kBegin, kEnd);
  for (const std::uint64_t bytes : {64u, 5000u, 100'000u, 3'000'000u}) {
    const std::uint64_t kept = objects.Allocate(bytes);
    const std::uint64_t freed = objects.Allocate(bytes);
    const std::uint64_t guard = objects.Allocate(bytes);
    objects.Free(freed);
    EXPECT_EQ(objects.Allocate(bytes), freed) << bytes;
    EXPECT_NE(kept, guard);
  }
}

TEST(ObjectManagerTest, ARebuiltManagerKnowsEveryLiveExtent) {
  ObjectManager first(kBegin, kEnd);
  Model model(&first);
  std::mt19937_64 random(2);
  for (int i = 0; i < 20'000; ++i) {
    if (random() % 3 != 0) {
      model.Allocate(RandomBytes(&random));
    } else {
      model.FreeOne(random());
    }
  }
  ObjectManager second(kBegin, kEnd);
  for (const auto& [offset, bytes] : model.live()) ASSERT_TRUE(second.Adopt(offset, bytes));
  second.FinishAdopting();
  EXPECT_EQ(second.used_bytes(), first.used_bytes());
  EXPECT_EQ(second.live_extents(), first.live_extents());
  for (int i = 0; i < 20'000; ++i) {
    const std::uint64_t bytes = RandomBytes(&random);
    const std::uint64_t offset = second.Allocate(bytes);
    if (offset == 0) continue;
    const auto after = model.live().lower_bound(offset);
    if (after != model.live().end()) ASSERT_LE(offset + bytes, after->first);
    if (after != model.live().begin()) {
      ASSERT_LE(std::prev(after)->first + std::prev(after)->second, offset);
    }
    second.Free(offset);
  }
  for (const auto& [offset, bytes] : model.live()) second.Free(offset);
  EXPECT_EQ(second.used_bytes(), 0u);
  EXPECT_NE(second.Allocate(kEnd - kBegin), 0u);
}

TEST(ObjectManagerTest, WhatCannotBeAnExtentIsNotAdopted) {
  ObjectManager objects(kBegin, kEnd);
  EXPECT_FALSE(objects.Adopt(0, 64));  // outside
  EXPECT_FALSE(objects.Adopt(kEnd, 64));
  EXPECT_FALSE(objects.Adopt(kEnd - 4096, 1 << 20));
  EXPECT_FALSE(objects.Adopt(kBegin + 32, 64));  // misaligned
  EXPECT_FALSE(objects.Adopt(kBegin + 64, 100'000));
  EXPECT_TRUE(objects.Adopt(kBegin + 128, 64));
  EXPECT_FALSE(objects.Adopt(kBegin + 128, 64));  // twice
  EXPECT_FALSE(objects.Adopt(kBegin, 128));       // another size bucket in its slab
  EXPECT_FALSE(objects.Adopt(kBegin, 100'000));   // over it
  EXPECT_TRUE(objects.Adopt(kBegin + (1 << 20), 100'000));
  EXPECT_FALSE(objects.Adopt(kBegin + (1 << 20), 64));
  EXPECT_EQ(objects.live_extents(), 2u);
}

TEST(ObjectManagerTest, FreeingWhatIsNotLiveIsRefusedAndChangesNothing) {
  ObjectManager objects(kBegin, kEnd);
  const std::uint64_t small = objects.Allocate(100);
  const std::uint64_t large = objects.Allocate(100'000);
  const std::uint64_t used_bytes = objects.used_bytes();
  for (const std::uint64_t offset : {std::uint64_t{0}, small + 64, small + 128, large + 4096,
                                     large + 64, kBegin - 64, kEnd, ~std::uint64_t{63}}) {
    EXPECT_EQ(objects.LiveBytes(offset), 0u) << offset;
    EXPECT_FALSE(objects.Free(offset)) << offset;
  }
  EXPECT_EQ(objects.used_bytes(), used_bytes);
  EXPECT_TRUE(objects.Free(small));
  EXPECT_FALSE(objects.Free(small));
  EXPECT_TRUE(objects.Free(large));
  EXPECT_FALSE(objects.Free(large));
}

}  // namespace
}  // namespace apta::daemon
