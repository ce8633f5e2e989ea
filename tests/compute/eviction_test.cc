#include "compute/eviction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <list>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

namespace apta::compute {
namespace {

// SplitMix64: also a good key hash, as it is one to one.
std::uint64_t Mix(std::uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t Next() { return Mix(state_++ * 0x9e3779b97f4a7c15); }
  std::uint64_t Below(std::uint64_t bound) { return Next() % bound; }
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

 private:
  std::uint64_t state_;
};

// ---------------------------------------------------------------------------------------------
// Caches of keys, to be compared on a trace.

class S3FifoCache {
 public:
  S3FifoCache(std::uint32_t slots, std::uint64_t limit_bytes)
      : eviction_(slots, limit_bytes),
        limit_bytes_(limit_bytes),
        key_of_slot_(slots),
        visited_(slots) {
    for (std::uint32_t slot = slots; slot-- > 0;) free_slots_.push_back(slot);
  }

  // Whether it was a hit; a miss is filled.
  bool Get(std::uint64_t key, std::uint64_t bytes = 1) {
    const auto found = slot_of_key_.find(key);
    if (found != slot_of_key_.end()) {
      visited_[found->second] = true;
      return true;
    }
    const std::uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    slot_of_key_[key] = slot;
    key_of_slot_[slot] = key;
    visited_[slot] = false;
    eviction_.Insert(slot, Mix(key), bytes);
    while (eviction_.bytes() > limit_bytes_) Evict();
    return false;
  }
  bool Has(std::uint64_t key) const { return slot_of_key_.contains(key); }
  void Drop(std::uint64_t key) {
    eviction_.Remove(slot_of_key_.at(key));
    Free(slot_of_key_.at(key));
  }
  // The key that had to go.
  std::uint64_t Evict() {
    const std::optional<std::uint32_t> slot = eviction_.TakeVictim([this](std::uint32_t asked) {
      const bool was_visited = visited_[asked];
      visited_[asked] = false;
      return was_visited;
    });
    const std::uint64_t key = key_of_slot_[slot.value()];
    Free(*slot);
    return key;
  }
  std::uint64_t objects() const { return eviction_.objects(); }

 private:
  void Free(std::uint32_t slot) {
    slot_of_key_.erase(key_of_slot_[slot]);
    free_slots_.push_back(slot);
  }

  Eviction eviction_;
  const std::uint64_t limit_bytes_;
  std::unordered_map<std::uint64_t, std::uint32_t> slot_of_key_;
  std::vector<std::uint64_t> key_of_slot_;
  std::vector<bool> visited_;
  std::vector<std::uint32_t> free_slots_;
};

// What S3-FIFO is compared with. CLOCK is FIFO with reinsertion of visited entries.
enum class Policy { kFifo, kClock, kLru };

class ListCache {
 public:
  ListCache(Policy policy, std::uint64_t limit_objects)
      : policy_(policy), limit_objects_(limit_objects) {}

  bool Get(std::uint64_t key) {
    const auto found = entries_.find(key);
    if (found != entries_.end()) {
      found->second->visited = true;
      if (policy_ == Policy::kLru) order_.splice(order_.end(), order_, found->second);
      return true;
    }
    if (order_.size() == limit_objects_) {
      while (policy_ == Policy::kClock && order_.front().visited) {
        order_.front().visited = false;
        order_.splice(order_.end(), order_, order_.begin());
      }
      entries_.erase(order_.front().key);
      order_.pop_front();
    }
    order_.push_back({key, false});
    entries_[key] = std::prev(order_.end());
    return false;
  }

 private:
  struct Entry {
    std::uint64_t key;
    bool visited;
  };
  const Policy policy_;
  const std::uint64_t limit_objects_;
  std::list<Entry> order_;  // the next victim first
  std::unordered_map<std::uint64_t, std::list<Entry>::iterator> entries_;
};

// Requests for the keys below `keys`, the more popular the smaller, with a scan over keys that
// nobody asks for again after every so many of them.
struct Trace {
  std::uint64_t keys = 20'000;
  std::uint64_t requests = 400'000;
  std::uint64_t requests_between_scans = 10'000;
  std::uint64_t scanned_keys = 0;  // each time

  // Of the requests that are not part of a scan: the scans cannot hit.
  template <typename AnyCache>
  double HitRatioOf(AnyCache cache) const {
    std::vector<double> cumulative;
    double sum = 0;
    for (std::uint64_t key = 0; key < keys; ++key) {
      sum += std::pow(static_cast<double>(key + 1), -0.99);
      cumulative.push_back(sum);
    }
    Random random(7);
    std::uint64_t next_scanned = keys;
    std::uint64_t hits = 0;
    for (std::uint64_t request = 0; request < requests; ++request) {
      const auto drawn =
          std::lower_bound(cumulative.begin(), cumulative.end(), random.Unit() * sum);
      const auto key = static_cast<std::uint64_t>(drawn - cumulative.begin());
      if (cache.Get(std::min(key, keys - 1))) ++hits;
      if ((request + 1) % requests_between_scans != 0) continue;
      for (std::uint64_t i = 0; i < scanned_keys; ++i) cache.Get(next_scanned++);
    }
    return static_cast<double>(hits) / static_cast<double>(requests);
  }
};

struct HitRatios {
  HitRatios(const Trace& trace, std::uint32_t limit_objects)
      : s3_fifo(trace.HitRatioOf(S3FifoCache(limit_objects + 1, limit_objects))),
        fifo(trace.HitRatioOf(ListCache(Policy::kFifo, limit_objects))),
        clock(trace.HitRatioOf(ListCache(Policy::kClock, limit_objects))),
        lru(trace.HitRatioOf(ListCache(Policy::kLru, limit_objects))) {
    std::printf("  %u of %llu keys, scans of %llu: S3-FIFO %.4f, FIFO %.4f, CLOCK %.4f, LRU %.4f\n",
                limit_objects, static_cast<unsigned long long>(trace.keys),
                static_cast<unsigned long long>(trace.scanned_keys), s3_fifo, fifo, clock, lru);
  }
  double s3_fifo;
  double fifo;
  double clock;  // what the cache did before
  double lru;
};

TEST(EvictionTest, ScansDoNotPushOutWhatIsPopular) {
  for (const std::uint32_t limit_objects : {200u, 1000u, 5000u}) {
    Trace trace;
    trace.scanned_keys = 2 * limit_objects;
    const HitRatios ratios(trace, limit_objects);
    EXPECT_GT(ratios.s3_fifo, ratios.fifo + 0.03);
    EXPECT_GT(ratios.s3_fifo, ratios.lru + 0.03);
    EXPECT_GT(ratios.s3_fifo, ratios.clock + 0.03);
  }
}

TEST(EvictionTest, WithoutScansItIsNotWorseThanTheOthers) {
  for (const std::uint32_t limit_objects : {200u, 1000u, 5000u}) {
    const HitRatios ratios(Trace(), limit_objects);
    EXPECT_GT(ratios.s3_fifo, ratios.fifo);
    EXPECT_GT(ratios.s3_fifo, ratios.lru);
    EXPECT_GT(ratios.s3_fifo, ratios.clock);
  }
}

// ---------------------------------------------------------------------------------------------
// One rule each.

constexpr std::uint64_t kLimit = 100;
constexpr std::uint32_t kSlots = 512;

// Keys from `first` on, each asked for once.
void Scan(S3FifoCache* cache, std::uint64_t first, std::uint64_t count, std::uint64_t bytes = 1) {
  for (std::uint64_t key = first; key < first + count; ++key) cache->Get(key, bytes);
}

// Keys 0 to 79, each hit.
void MakeHotSet(S3FifoCache* cache) {
  for (std::uint64_t key = 0; key < 80; ++key) {
    cache->Get(key);
    cache->Get(key);
  }
}

std::uint64_t HotKeysLeft(const S3FifoCache& cache) {
  std::uint64_t left = 0;
  for (std::uint64_t key = 0; key < 80; ++key) left += cache.Has(key) ? 1 : 0;
  return left;
}

TEST(EvictionTest, AScanLeavesTheWholeHotSetAlone) {
  S3FifoCache cache(kSlots, kLimit);
  MakeHotSet(&cache);
  Scan(&cache, 1000, 100'000);
  EXPECT_EQ(HotKeysLeft(cache), 80u);
}

TEST(EvictionTest, AScanOfObjectsLargerThanTheSmallShareCostsOneOfThem) {
  S3FifoCache cache(kSlots, kLimit);
  MakeHotSet(&cache);
  Scan(&cache, 1000, 1000, 30);
  EXPECT_GE(HotKeysLeft(cache), 70u);
}

TEST(EvictionTest, AnObjectLargerThanTheSmallShareIsCachedAndMayStay) {
  S3FifoCache cache(kSlots, kLimit);
  MakeHotSet(&cache);
  Scan(&cache, 1000, 100);
  EXPECT_FALSE(cache.Get(5000, 60));
  EXPECT_TRUE(cache.Get(5000, 60));
  Scan(&cache, 2000, 1000);
  EXPECT_TRUE(cache.Has(5000));
  EXPECT_FALSE(cache.Get(5001, kLimit));  // fills it alone
  EXPECT_TRUE(cache.Has(5001));
  EXPECT_EQ(cache.objects(), 1u);
}

TEST(EvictionTest, TheNewestEntryIsAVictimOnlyWhenItIsAlone) {
  for (const bool others_are_visited : {false, true}) {
    S3FifoCache cache(kSlots, kLimit);
    for (std::uint64_t key = 0; key < 50; ++key) {
      cache.Get(key);
      if (others_are_visited) cache.Get(key);
    }
    cache.Get(1000);
    for (int i = 0; i < 50; ++i) EXPECT_NE(cache.Evict(), 1000u);
    EXPECT_EQ(cache.Evict(), 1000u);
  }
}

TEST(EvictionTest, TheNewestEntryIsNoVictimInMainEither) {
  S3FifoCache cache(kSlots, kLimit);
  for (std::uint64_t key = 0; key < 20; ++key) cache.Get(key);
  EXPECT_EQ(cache.Evict(), 0u);
  EXPECT_FALSE(cache.Get(0, 20));  // returns to main, which is empty
  for (std::uint64_t key = 1; key < 20; ++key) EXPECT_EQ(cache.Evict(), key);
  EXPECT_EQ(cache.Evict(), 0u);
}

TEST(EvictionTest, TheNewestEntryIsNoVictimAmongVisitedOnesInMain) {
  S3FifoCache cache(kSlots, kLimit);
  for (std::uint64_t key = 0; key < 20; ++key) cache.Get(key);
  EXPECT_EQ(cache.Evict(), 0u);
  EXPECT_EQ(cache.Evict(), 1u);
  cache.Get(0);  // both return to main
  cache.Get(0);
  cache.Get(1);
  for (std::uint64_t key = 2; key < 20; ++key) cache.Drop(key);
  EXPECT_EQ(cache.Evict(), 0u);
  EXPECT_EQ(cache.Evict(), 1u);
}

TEST(EvictionTest, AGhostComesBackStraightToMain) {
  S3FifoCache cache(kSlots, kLimit);
  MakeHotSet(&cache);
  Scan(&cache, 1000, 200);
  const std::uint64_t ghost = 1150;
  ASSERT_FALSE(cache.Has(ghost));
  cache.Get(ghost);
  cache.Get(9999);  // never seen before
  Scan(&cache, 2000, 50);
  EXPECT_TRUE(cache.Has(ghost));
  EXPECT_FALSE(cache.Has(9999));
}

TEST(EvictionTest, AGhostIsForgottenAfterAsManyLeavingsAsMainHoldsObjects) {
  for (const std::uint64_t leavings : {89u, 90u}) {
    S3FifoCache cache(kSlots, kLimit);
    Scan(&cache, 0, kLimit + 1);  // 0 leaves
    Scan(&cache, 1000, leavings);
    ASSERT_FALSE(cache.Has(0));
    cache.Get(0);
    Scan(&cache, 2000, 200);
    // In main it survives: the small queue is far over its share.
    EXPECT_EQ(cache.Has(0), leavings == 89);
  }
}

TEST(EvictionTest, ARemovedEntryMakesNoGhost) {
  S3FifoCache cache(kSlots, kLimit);
  MakeHotSet(&cache);
  Scan(&cache, 1000, 100);
  const std::uint64_t removed = 1099;
  ASSERT_TRUE(cache.Has(removed));
  cache.Drop(removed);
  cache.Get(removed);
  Scan(&cache, 2000, 50);
  EXPECT_FALSE(cache.Has(removed));
}

TEST(EvictionTest, AVictimOfMainMakesNoGhost) {
  S3FifoCache cache(kSlots, kLimit);
  MakeHotSet(&cache);
  Scan(&cache, 1000, 21);  // 0 to 79 are asked about and go on to main
  cache.Evict();
  std::uint64_t victim = cache.Evict();
  while (victim >= 80) victim = cache.Evict();  // until the small queue is within its share
  EXPECT_EQ(victim, 0u);
  cache.Get(victim);
  Scan(&cache, 2000, 100);
  EXPECT_FALSE(cache.Has(victim));
}

TEST(EvictionTest, VictimsComeInAnOrderThatTheCallsDecide) {
  std::vector<std::uint64_t> victims[2];
  for (auto& its_victims : victims) {
    S3FifoCache cache(kSlots, kLimit);
    for (std::uint64_t key = 0; key < 30; ++key) cache.Get(key);
    for (std::uint64_t key = 0; key < 30; key += 10) cache.Get(key);
    while (cache.objects() > 0) its_victims.push_back(cache.Evict());
  }
  // By hand: 0 and 10 were visited and move to main when they are asked about. Ten may stay in the
  // small queue, so main gives then. 20 moves on when main is empty, and is all that main has.
  std::vector<std::uint64_t> expected;
  for (std::uint64_t key = 1; key < 20; ++key) {
    if (key != 10) expected.push_back(key);
  }
  expected.push_back(0);
  expected.push_back(10);
  for (std::uint64_t key = 20; key < 30; ++key) expected.push_back(key);
  EXPECT_EQ(victims[0], expected);
  EXPECT_EQ(victims[0], victims[1]);
}

TEST(EvictionTest, ItEndsThoughAllAreVisitedForEver) {
  Eviction eviction(10'000, 10'000);
  for (std::uint32_t slot = 0; slot < 10'000; ++slot) eviction.Insert(slot, Mix(slot), 1);
  std::vector<bool> seen(10'000);
  for (int i = 0; i < 10'000; ++i) {
    int asked = 0;
    const auto victim = eviction.TakeVictim([&](std::uint32_t) {
      ++asked;
      return true;
    });
    ASSERT_TRUE(victim.has_value());
    EXPECT_FALSE(seen[*victim]);
    seen[*victim] = true;
    EXPECT_LE(asked, 256);
  }
  EXPECT_FALSE(eviction.TakeVictim([](std::uint32_t) { return true; }).has_value());
}

TEST(EvictionTest, AnEmptyOneHasNoVictim) {
  Eviction eviction(1, 0);
  const auto never = [](std::uint32_t) { return false; };
  EXPECT_FALSE(eviction.TakeVictim(never).has_value());
  eviction.Insert(0, 1, 0);
  EXPECT_EQ(eviction.TakeVictim(never), 0u);
  EXPECT_FALSE(eviction.TakeVictim(never).has_value());
}

TEST(EvictionTest, RemoveWorksAnywhereInEitherQueueAndOutsideThem) {
  // Six entries. Those before `in_main` are visited and move on, `in_main` is the victim; then one
  // more is removed, and the rest must come out once each.
  for (std::uint32_t in_main = 0; in_main < 5; ++in_main) {
    for (std::uint32_t removed = 0; removed < 5; ++removed) {
      Eviction eviction(8, 10);
      for (std::uint32_t slot = 0; slot < 5; ++slot) eviction.Insert(slot, Mix(slot), 2);
      eviction.Insert(5, Mix(5), 2);
      const auto first = eviction.TakeVictim([&](std::uint32_t slot) { return slot < in_main; });
      ASSERT_EQ(first, in_main);
      const bool was_in = removed != in_main;
      eviction.Remove(removed);
      eviction.Remove(removed);  // is outside by now
      eviction.Remove(7);        // was never in it
      EXPECT_EQ(eviction.objects(), was_in ? 4u : 5u);
      EXPECT_EQ(eviction.bytes(), was_in ? 8u : 10u);
      std::vector<std::uint32_t> left;
      while (const auto victim = eviction.TakeVictim([](std::uint32_t) { return false; })) {
        left.push_back(*victim);
      }
      std::sort(left.begin(), left.end());
      std::vector<std::uint32_t> expected;
      for (std::uint32_t slot = 0; slot < 6; ++slot) {
        if (slot != removed && slot != in_main) expected.push_back(slot);
      }
      EXPECT_EQ(left, expected);
    }
  }
}

TEST(EvictionTest, AccountsAgreeWithAModelUnderRandomOperations) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const auto slots = static_cast<std::uint32_t>(1 + random.Below(300));
    Eviction eviction(slots, random.Below(20'000));
    std::map<std::uint32_t, std::uint64_t> bytes_of_slot;
    std::uint64_t bytes = 0;
    for (int step = 0; step < 20'000; ++step) {
      const auto slot = static_cast<std::uint32_t>(random.Below(slots));
      const std::uint64_t choice = random.Below(10);
      if (choice < 6) {
        if (bytes_of_slot.contains(slot)) continue;
        const std::uint64_t its_bytes = random.Below(8) == 0 ? 5'000 : random.Below(100);
        eviction.Insert(slot, Mix(random.Below(500)), its_bytes);
        bytes_of_slot[slot] = its_bytes;
        bytes += its_bytes;
      } else if (choice < 7) {
        eviction.Remove(slot);
        if (!bytes_of_slot.contains(slot)) continue;
        bytes -= bytes_of_slot[slot];
        bytes_of_slot.erase(slot);
      } else {
        const auto victim = eviction.TakeVictim([&](std::uint32_t asked) {
          EXPECT_TRUE(bytes_of_slot.contains(asked));
          return random.Below(3) == 0;
        });
        ASSERT_EQ(victim.has_value(), !bytes_of_slot.empty());
        if (!victim) continue;
        ASSERT_TRUE(bytes_of_slot.contains(*victim));
        bytes -= bytes_of_slot[*victim];
        bytes_of_slot.erase(*victim);
      }
      ASSERT_EQ(eviction.objects(), bytes_of_slot.size());
      ASSERT_EQ(eviction.bytes(), bytes);
    }
  }
}

TEST(GhostTableTest, HoldsTheLastOnesAndGivesEachOnce) {
  GhostTable ghosts(4096);
  for (std::uint64_t key = 0; key < 2000; ++key) ghosts.Remember(Mix(key));
  EXPECT_FALSE(ghosts.Take(Mix(999), 1000));  // a thousand have left since
  EXPECT_TRUE(ghosts.Take(Mix(1000), 1000));
  EXPECT_FALSE(ghosts.Take(Mix(1000), 1000));
  EXPECT_FALSE(ghosts.Take(Mix(5000), 1000));
  EXPECT_FALSE(ghosts.Take(Mix(1999), 0));
}

TEST(GhostTableTest, AFullBucketForgetsItsOldest) {
  GhostTable ghosts(1);  // one bucket, of eight
  const auto hash = [](std::uint64_t key) { return (key + 1) << 40; };
  for (std::uint64_t key = 0; key < 9; ++key) ghosts.Remember(hash(key));
  ghosts.Remember(hash(1));  // again: now the newest
  ghosts.Remember(hash(9));  // instead of 2
  for (std::uint64_t key = 0; key < 10; ++key) {
    EXPECT_EQ(ghosts.Take(hash(key), 100), key != 0 && key != 2) << key;
  }
}

}  // namespace
}  // namespace apta::compute
