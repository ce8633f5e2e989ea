#include "compute/cache.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "apta/object.h"
#include "fabric/hash.h"
#include "fabric/superblock.h"

namespace apta::compute {
namespace {

constexpr std::uint64_t kRegionBytes = 32 << 20;
constexpr std::uint64_t kLimitBytes = 1 << 20;

// A cache over a region and a port, with the test as its home.
class CacheTest : public ::testing::Test {
 protected:
  CacheTest() {
    void* data =
        mmap(nullptr, kRegionBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    region_ = static_cast<std::byte*>(data);
    auto* superblock = reinterpret_cast<fabric::Superblock*>(region_);
    fabric::FormatSuperblock(superblock, kRegionBytes, 1, 1, 2);
    heap_ = superblock->heap_offset;
    view_ = fabric::IndexView(region_, *superblock);
    cache_.emplace(view_, fabric::Coherence::kStrict, kLimitBytes, 1, &port_, pins_, false);
  }
  ~CacheTest() override {
    cache_.reset();
    PinDomain::Return(pins_);
    munmap(region_, kRegionBytes);
  }

  // A committed version in an extent of its own.
  std::uint64_t MakeExtent(const std::string& key, Version version, std::uint64_t bytes = 8) {
    const std::uint64_t extent = heap_;
    heap_ += fabric::AlignUp(fabric::ExtentBytes(key.size(), bytes), 4096);
    auto* header = reinterpret_cast<fabric::ExtentHeader*>(region_ + extent);
    header->version = version;
    header->payload_bytes = bytes;
    header->key_hash = fabric::KeyHash(key);
    header->payload_offset = static_cast<std::uint32_t>(fabric::PayloadOffset(key.size(), bytes));
    header->key_bytes = static_cast<std::uint16_t>(key.size());
    std::memcpy(header + 1, key.data(), key.size());
    return extent;
  }
  // The home supersedes what stands in `old_extent`.
  void Invalidate(const std::string& key, Version version, std::uint64_t old_extent) {
    issuer_.Issue(++issued_, {fabric::KeyHash(key), version, old_extent, 0});
  }
  // A get that misses and is answered at once.
  std::optional<PinnedExtent> Fill(const std::string& key, Version version, std::uint64_t extent) {
    const Cache::Miss miss = cache_->BeginGet(fabric::KeyHash(key));
    EXPECT_TRUE(miss.leads);
    return cache_->EndGet(miss.fill, version, extent, Table()).pinned;
  }
  // A put of "key" that the home has answered.
  void EndPut(const Written& written) {
    cache_->EndPut(cache_->BeginPut(fabric::KeyHash("key")), fabric::KeyHash("key"), written, 0);
  }
  std::optional<PinnedExtent> Look(const std::string& key) {
    return cache_->Lookup(fabric::KeyHash(key), key, Table());
  }
  // The version that is cached, unpinned again; 0 = none.
  Version Cached(const std::string& key) {
    const auto found = Look(key);
    if (!found) return 0;
    found->pin->Drop();
    return found->header->version;
  }
  PinTable* Table() { return pins_->ThreadTable(); }
  std::uint64_t Acknowledged() { return issuer_.Acknowledged(); }
  bool Holds(std::uint64_t extent) { return port_.holds()->Holds(extent); }

  std::byte* region_;
  std::uint64_t heap_;
  fabric::IndexView view_;
  fabric::Port port_ = *fabric::Port::Create(0, 1);
  fabric::InvalidationIssuer<> issuer_{port_.invalidations(0)};
  std::uint64_t issued_ = 0;
  PinDomain* pins_ = PinDomain::Acquire();
  std::optional<Cache> cache_;
};

TEST_F(CacheTest, WhatWasFilledIsFoundAndPinned) {
  const std::uint64_t extent = MakeExtent("key", 5);
  EXPECT_FALSE(Look("key"));
  const auto filled = Fill("key", 5, extent);
  const auto found = Look("key");
  ASSERT_TRUE(filled && found);
  EXPECT_EQ(found->header->key(), "key");
  EXPECT_TRUE(pins_->WatchIfPinned(extent));
  filled->pin->Drop();
  EXPECT_TRUE(pins_->WatchIfPinned(extent));
  found->pin->Drop();
  EXPECT_FALSE(pins_->WatchIfPinned(extent));
  EXPECT_FALSE(Look("another key"));
}

TEST_F(CacheTest, AnInvalidationTakesTheEntryAndIsAcknowledged) {
  const std::uint64_t extent = MakeExtent("key", 5);
  Fill("key", 5, extent)->pin->Drop();
  EXPECT_TRUE(cache_->IsCurrent(0));
  Invalidate("key", 6, extent);
  EXPECT_FALSE(cache_->IsCurrent(0));
  cache_->Apply(0, 0);
  EXPECT_TRUE(cache_->IsCurrent(0));
  EXPECT_EQ(Cached("key"), 0u);
  EXPECT_EQ(Acknowledged(), 1u);
  EXPECT_FALSE(Holds(extent));
}

TEST_F(CacheTest, ALookUnderTheLockAppliesFindsOrBegins) {
  const std::uint64_t kept = MakeExtent("kept", 4), stale = MakeExtent("key", 5);
  Fill("kept", 4, kept)->pin->Drop();
  Fill("key", 5, stale)->pin->Drop();
  Invalidate("key", 6, stale);
  const auto look = [&](const std::string& key, bool may_begin) {
    return cache_->LookAgain({fabric::KeyHash(key), key, Table()}, may_begin, true, 0);
  };
  const Cache::Looked hit = look("kept", true);
  ASSERT_TRUE(hit.hit);
  EXPECT_EQ(hit.miss.fill, nullptr);
  hit.hit->pin->Drop();
  EXPECT_EQ(Acknowledged(), 1u);
  const Cache::Looked nothing = look("key", false);
  EXPECT_FALSE(nothing.hit);
  EXPECT_EQ(nothing.miss.fill, nullptr);
  const Cache::Looked miss = look("key", true);
  EXPECT_FALSE(miss.hit);
  ASSERT_TRUE(miss.miss.leads);
  const Cache::Looked second = look("key", true);
  EXPECT_FALSE(second.miss.leads);
  cache_->AbandonFill(miss.miss.fill);
  EXPECT_FALSE(cache_->Followed(second.miss.fill));
  issuer_.Fence();
  EXPECT_FALSE(look("kept", false).hit) << "found by a fenced node";
  EXPECT_TRUE(cache_->is_fenced());
}

TEST_F(CacheTest, AnEntryThatIsNewerThanTheInvalidationStays) {
  const std::uint64_t extent = MakeExtent("key", 7);
  Fill("key", 7, extent)->pin->Drop();
  Invalidate("key", 7, 0);  // our own put's record
  cache_->Apply(0, 0);
  EXPECT_EQ(Cached("key"), 7u);
}

TEST_F(CacheTest, APinnedExtentIsOnTheHoldTableBeforeTheAcknowledgement) {
  const std::uint64_t extent = MakeExtent("key", 5);
  const auto pinned = Fill("key", 5, extent);
  Invalidate("key", 6, extent);
  cache_->Apply(0, 0);
  EXPECT_EQ(Acknowledged(), 1u);
  EXPECT_TRUE(Holds(extent));
  EXPECT_EQ(port_.holds()->end.load(), 1u);
  cache_->ReleaseHolds();  // woken for nothing
  EXPECT_TRUE(Holds(extent));
  pinned->pin->Drop();
  cache_->ReleaseHolds();
  EXPECT_FALSE(Holds(extent));
  EXPECT_EQ(port_.holds()->end.load(), 0u);
}

TEST_F(CacheTest, APinnedExtentIsHeldAlsoWhenItHasLeftTheCache) {
  const std::uint64_t extent = MakeExtent("key", 5);
  const auto pinned = Fill("key", 5, extent);
  // Evicted by others.
  for (int i = 0; i < 4; ++i) {
    const std::string key = "large " + std::to_string(i);
    Fill(key, 5, MakeExtent(key, 5, kLimitBytes))->pin->Drop();
  }
  ASSERT_EQ(Cached("key"), 0u);
  Invalidate("key", 6, extent);
  cache_->Apply(0, 0);
  EXPECT_TRUE(Holds(extent));
  pinned->pin->Drop();
}

TEST_F(CacheTest, AnOvertakenFillIsNotCachedAndHoldsBackItsAcknowledgement) {
  const std::uint64_t old_extent = MakeExtent("key", 5);
  const Cache::Miss miss = cache_->BeginGet(fabric::KeyHash("key"));
  Invalidate("other", 1, 0);
  Invalidate("key", 6, old_extent);
  cache_->Apply(0, 0);
  EXPECT_EQ(Acknowledged(), 1u) << "the fill that may bring the old version is under way";
  // Nobody joins it from now on.
  const Cache::Miss later = cache_->BeginGet(fabric::KeyHash("key"));
  EXPECT_TRUE(later.leads);
  cache_->AbandonFill(later.fill);
  const auto pinned = cache_->EndGet(miss.fill, 5, old_extent, Table()).pinned;
  ASSERT_TRUE(pinned);  // its caller gets it
  EXPECT_EQ(Cached("key"), 0u);
  EXPECT_EQ(Acknowledged(), 2u);
  EXPECT_TRUE(Holds(old_extent));
  pinned->pin->Drop();
}

TEST_F(CacheTest, AFillThatIsNewerThanWhatOvertookItIsCached) {
  const std::uint64_t new_extent = MakeExtent("key", 6);
  const Cache::Miss miss = cache_->BeginGet(fabric::KeyHash("key"));
  Invalidate("key", 6, MakeExtent("key", 5));
  cache_->Apply(0, 0);
  cache_->EndGet(miss.fill, 6, new_extent, Table()).pinned->pin->Drop();
  EXPECT_EQ(Cached("key"), 6u);
  EXPECT_EQ(Acknowledged(), 1u);
}

TEST_F(CacheTest, AnAbandonedFillHoldsNothingBack) {
  const Cache::Miss miss = cache_->BeginGet(fabric::KeyHash("key"));
  Invalidate("key", 6, 0);
  cache_->Apply(0, 0);
  EXPECT_EQ(Acknowledged(), 0u);
  cache_->AbandonFill(miss.fill);
  EXPECT_EQ(Acknowledged(), 1u);
}

TEST_F(CacheTest, FollowersGetTheLeadersFillWithPinsOfTheirOwn) {
  const std::uint64_t extent = MakeExtent("key", 5);
  const Cache::Miss leader = cache_->BeginGet(fabric::KeyHash("key"));
  std::vector<std::thread> threads;
  std::vector<Cache::Miss> misses;
  for (int i = 0; i < 3; ++i) misses.push_back(cache_->BeginGet(fabric::KeyHash("key")));
  std::atomic<int> right{0};
  for (const Cache::Miss& miss : misses) {
    EXPECT_FALSE(miss.leads);
    threads.emplace_back([&] {
      const auto pinned = (miss.fill->Await(), cache_->Followed(miss.fill));
      right += pinned && pinned->header->version == 5;
      pinned->pin->Drop();
    });
  }
  const auto pinned = cache_->EndGet(leader.fill, 5, extent, Table()).pinned;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 3);
  EXPECT_TRUE(pins_->WatchIfPinned(extent));
  pinned->pin->Drop();
  EXPECT_FALSE(pins_->WatchIfPinned(extent));
}

TEST_F(CacheTest, APutReplacesItsOwnEntryAndAnOlderOneNeverReplacesANewer) {
  Fill("key", 5, MakeExtent("key", 5))->pin->Drop();
  EndPut({.version = 7, .extent = MakeExtent("key", 7)});
  EXPECT_EQ(Cached("key"), 7u);
  EndPut({.version = 6, .extent = MakeExtent("key", 6)});
  EXPECT_EQ(Cached("key"), 7u);
  EXPECT_EQ(cache_->counters().objects, 1u);
}

TEST_F(CacheTest, AMarkInPlaceOfRecordsDropsEverythingAndHoldsWhatIsPinned) {
  const std::uint64_t pinned_extent = MakeExtent("pinned", 5);
  const auto pinned = Fill("pinned", 5, pinned_extent);
  Fill("key", 5, MakeExtent("key", 5))->pin->Drop();
  const Cache::Miss miss = cache_->BeginGet(fabric::KeyHash("filling"));
  issued_ = 5000;
  issuer_.IssueDropAll(issued_);
  cache_->Apply(0, 0);
  EXPECT_EQ(Cached("key"), 0u);
  EXPECT_EQ(Cached("pinned"), 0u);
  EXPECT_TRUE(Holds(pinned_extent));
  EXPECT_EQ(Acknowledged(), 0u) << "a fill is under way";
  const std::uint64_t filled = MakeExtent("filling", 4);
  cache_->EndGet(miss.fill, 4, filled, Table()).pinned->pin->Drop();
  EXPECT_EQ(Cached("filling"), 0u);
  EXPECT_EQ(Acknowledged(), 5000u);
  pinned->pin->Drop();
  // Records go on where the mark ended.
  Fill("key", 6, MakeExtent("key", 6))->pin->Drop();
  Invalidate("key", 7, 0);
  cache_->Apply(0, 0);
  EXPECT_EQ(Cached("key"), 0u);
  EXPECT_EQ(Acknowledged(), 5001u);
}

// The record that superseded what the fill brings was in the ring when it overflowed.
TEST_F(CacheTest, AMarkAcknowledgesNothingThatAFillMayStillBring) {
  const std::uint64_t old_extent = MakeExtent("key", 5);
  const Cache::Miss miss = cache_->BeginGet(fabric::KeyHash("key"));
  Invalidate("another", 1, 0);
  cache_->Apply(0, 0);
  EXPECT_EQ(Acknowledged(), 1u);
  Invalidate("key", 6, old_extent);
  issued_ = 2000;
  issuer_.IssueDropAll(issued_);
  cache_->Apply(0, 0);
  EXPECT_EQ(Acknowledged(), 1u) << "the home may reuse the extent before the fill has pinned it";
  const auto pinned = cache_->EndGet(miss.fill, 5, old_extent, Table()).pinned;
  EXPECT_EQ(Acknowledged(), 2000u);
  EXPECT_TRUE(Holds(old_extent));
  EXPECT_EQ(Cached("key"), 0u);
  pinned->pin->Drop();
}

TEST_F(CacheTest, APutThatIsTooLargeToCacheStillReplacesItsOwnEntry) {
  Fill("key", 5, MakeExtent("key", 5))->pin->Drop();
  EndPut({.version = 7,
          .extent = MakeExtent("key", 7, kLimitBytes + 1),
          .payload_bytes = kLimitBytes + 1});
  EXPECT_EQ(Cached("key"), 0u);
  EXPECT_EQ(cache_->counters().bytes, 0u);
}

// On a delayed link the record of the node's own delete comes later than the reply.
TEST_F(CacheTest, ADeleteRemovesItsOwnEntryAndOvertakesOlderFills) {
  const std::uint64_t old_extent = MakeExtent("key", 5);
  Fill("key", 5, old_extent)->pin->Drop();
  const Cache::Miss miss = cache_->BeginGet(fabric::KeyHash("key"));
  EndPut({.version = 7});
  EXPECT_EQ(Cached("key"), 0u);
  const Cache::Ended ended = cache_->EndGet(miss.fill, 5, old_extent, Table());
  EXPECT_TRUE(ended.was_overtaken);
  ended.pinned->pin->Drop();
  EXPECT_EQ(Cached("key"), 0u);
  EXPECT_TRUE(cache_->BeginGet(fabric::KeyHash("key")).leads);
}

// An own put holds no acknowledgement back by itself, a record that comes after it does.
TEST_F(CacheTest, AFillThatAnOwnPutHasOvertakenStillAnswersForLaterRecords) {
  const Cache::Miss miss = cache_->BeginGet(fabric::KeyHash("key"));
  EndPut({.version = 7, .extent = MakeExtent("key", 7)});
  Invalidate("another", 1, 0);
  cache_->Apply(0, 0);
  EXPECT_EQ(Acknowledged(), 1u);
  Invalidate("key", 8, 0);
  cache_->Apply(0, 0);
  EXPECT_EQ(Acknowledged(), 1u);
  EXPECT_TRUE(cache_->AbandonFill(miss.fill));
  EXPECT_EQ(Acknowledged(), 2u);
}

// Another thread may have applied what superseded the put before its reply is processed.
TEST_F(CacheTest, APutIsNotCachedWhenALaterRecordHasBeenApplied) {
  const std::uint64_t extent = MakeExtent("key", 7);
  Invalidate("key", 7, 0);  // the own record, sequence 1
  Invalidate("key", 8, extent);
  cache_->Apply(0, 0);
  ASSERT_EQ(Acknowledged(), 2u) << "the home may have reused the extent";
  EndPut({.version = 7, .extent = extent, .payload_bytes = 8, .issued = 1, .has_own_record = true});
  EXPECT_EQ(Cached("key"), 0u);
}

// Over a slow link the record of neither need have come yet.
TEST_F(CacheTest, APutIsNotCachedWhenALaterOneOfThisNodeHasEnded) {
  cache_.emplace(view_, fabric::Coherence::kStrict, kLimitBytes, 1, &port_, pins_, true);
  const std::uint64_t hash = fabric::KeyHash("key");
  const Cache::PutId put = cache_->BeginPut(hash), erase = cache_->BeginPut(hash);
  cache_->EndPut(erase, hash, {.version = 8, .issued = 2, .has_own_record = true}, 0);
  cache_->EndPut(put, hash, {.version = 7, .extent = MakeExtent("key", 7), .issued = 1}, 0);
  EXPECT_EQ(Cached("key"), 0u);
  cache_->AbandonPut(cache_->BeginPut(hash));
}

// The later one's record is in the ring, behind one that has not been applied.
TEST_F(CacheTest, APutIsNotCachedWhenALaterOnesRecordHasToBeReadFromTheRing) {
  Invalidate("another", 6, 0);
  Invalidate("key", 7, 0);
  Invalidate("key", 8, MakeExtent("key", 7));
  EndPut({.version = 8, .issued = 3, .has_own_record = true});
  EXPECT_EQ(Acknowledged(), 3u);
  EndPut({.version = 7, .extent = MakeExtent("key", 7), .issued = 2, .has_own_record = true});
  EXPECT_EQ(Cached("key"), 0u);
}

TEST_F(CacheTest, TheOwnRecordInTheReplyIsAppliedAndAcknowledged) {
  const std::uint64_t old_extent = MakeExtent("key", 5);
  const auto pinned = Fill("key", 5, old_extent);
  Invalidate("key", 6, old_extent);
  EndPut({.version = 6,
          .extent = MakeExtent("key", 6),
          .payload_bytes = 8,
          .issued = 1,
          .has_own_record = true,
          .old_extent = old_extent});
  EXPECT_TRUE(cache_->IsCurrent(0));
  EXPECT_EQ(Acknowledged(), 1u);
  EXPECT_TRUE(Holds(old_extent));
  EXPECT_EQ(Cached("key"), 6u);
  EXPECT_EQ(cache_->counters().bytes, 8u);
  pinned->pin->Drop();
}

// What a fill is still to bring may be what the own record superseded.
TEST_F(CacheTest, TheOwnRecordInTheReplyWaitsForAFillThatItHasOvertaken) {
  const std::uint64_t old_extent = MakeExtent("key", 5);
  const Cache::Miss miss = cache_->BeginGet(fabric::KeyHash("key"));
  Invalidate("key", 6, old_extent);
  EndPut({.version = 6,
          .extent = MakeExtent("key", 6),
          .issued = 1,
          .has_own_record = true,
          .old_extent = old_extent});
  EXPECT_EQ(Acknowledged(), 0u);
  const Cache::Ended ended = cache_->EndGet(miss.fill, 5, old_extent, Table());
  EXPECT_TRUE(ended.was_overtaken);
  EXPECT_EQ(Acknowledged(), 1u);
  EXPECT_TRUE(Holds(old_extent));
  EXPECT_EQ(Cached("key"), 6u);
  ended.pinned->pin->Drop();
}

TEST_F(CacheTest, AFollowerThatLeavesTakesNothingAndItsFillIsUsedAgain) {
  const std::uint64_t extent = MakeExtent("key", 5);
  for (const bool leaves_early : {true, false}) {
    const Cache::Miss leader = cache_->BeginGet(fabric::KeyHash("key"));
    const Cache::Miss follower = cache_->BeginGet(fabric::KeyHash("key"));
    ASSERT_EQ(follower.fill, leader.fill);
    if (leaves_early) cache_->LeaveFill(follower.fill);
    cache_->EndGet(leader.fill, 5, extent, Table()).pinned->pin->Drop();
    if (!leaves_early) cache_->LeaveFill(follower.fill);
    EXPECT_FALSE(pins_->WatchIfPinned(extent)) << leaves_early;
    Invalidate("key", 6, extent);
    cache_->Apply(0, 0);
    const Cache::Miss another = cache_->BeginGet(fabric::KeyHash("another"));
    EXPECT_EQ(another.fill, leader.fill);
    cache_->AbandonFill(another.fill);
  }
}

TEST_F(CacheTest, AfterTheSessionNothingIsFound) {
  Fill("key", 5, MakeExtent("key", 5))->pin->Drop();
  cache_->Clear();
  EXPECT_EQ(Cached("key"), 0u);
  EXPECT_EQ(cache_->counters().objects, 0u);
}

TEST_F(CacheTest, BytesStayWithinTheLimitAndWhatIsUsedStaysLonger) {
  const std::uint64_t bytes = kLimitBytes / 16;
  Fill("hot", 1, MakeExtent("hot", 1, bytes))->pin->Drop();
  for (int i = 0; i < 200; ++i) {
    const std::string key = "cold " + std::to_string(i);
    Fill(key, 1, MakeExtent(key, 1, bytes))->pin->Drop();
    EXPECT_EQ(Cached("hot"), 1u) << i;
    ASSERT_LE(cache_->counters().bytes, kLimitBytes);
  }
  EXPECT_GT(cache_->counters().evictions, 150u);
}

TEST_F(CacheTest, MorePinsThanTheHoldTableHasRoomForHoldEverything) {
  std::vector<PinnedExtent> pinned;
  for (std::uint64_t i = 0; i < fabric::HoldTable::kSlots + 10; ++i) {
    const std::string key = "key " + std::to_string(i);
    const std::uint64_t extent = MakeExtent(key, 1);
    pinned.push_back(*Fill(key, 1, extent));
    Invalidate(key, 2, extent);
    cache_->Apply(0, 0);
    ASSERT_TRUE(Holds(extent));
  }
  EXPECT_EQ(port_.holds()->hold_everything.load(), 1u);
  for (const PinnedExtent& one : pinned) one.pin->Drop();
  cache_->ReleaseHolds();
  EXPECT_EQ(port_.holds()->hold_everything.load(), 0u);
  EXPECT_EQ(port_.holds()->end.load(), 0u);
}

// Everything stays held as long as something is that has no slot.
TEST_F(CacheTest, AListedPinThatIsDroppedDoesNotEndWhatAnUnlistedOneHolds) {
  std::vector<PinnedExtent> pinned;
  std::vector<std::uint64_t> extents;
  for (std::uint64_t i = 0; i < fabric::HoldTable::kSlots + 1; ++i) {
    const std::string key = "key " + std::to_string(i);
    extents.push_back(MakeExtent(key, 1));
    pinned.push_back(*Fill(key, 1, extents.back()));
    Invalidate(key, 2, extents.back());
    cache_->Apply(0, 0);
  }
  ASSERT_EQ(port_.holds()->hold_everything.load(), 1u);
  pinned.front().pin->Drop();
  cache_->ReleaseHolds();
  EXPECT_TRUE(Holds(extents.back())) << "it has no slot";
  pinned.back().pin->Drop();
  cache_->ReleaseHolds();
  EXPECT_FALSE(Holds(extents.back()));
  EXPECT_FALSE(Holds(extents.front()));
  EXPECT_TRUE(Holds(extents[1]));
  for (std::size_t i = 1; i + 1 < pinned.size(); ++i) pinned[i].pin->Drop();
}

// Readers pin, look and verify while the home replaces the object and reuses an extent as soon as
// it has been acknowledged and is not held: whatever a reader holds a pin of never changes.
TEST_F(CacheTest, AReaderNeverHoldsAnExtentThatTheHomeReuses) {
  constexpr int kExtents = 8;
  std::vector<std::uint64_t> extents;
  for (int i = 0; i < kExtents; ++i) extents.push_back(MakeExtent("key", 0));
  const auto version_of = [&](std::uint64_t extent) {
    return std::atomic_ref<std::uint64_t>(
        reinterpret_cast<fabric::ExtentHeader*>(region_ + extent)->version);
  };
  std::atomic<bool> stop{false};
  std::atomic<int> changed{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      while (!stop.load()) {
        const auto found = Look("key");
        if (!found) continue;
        const auto extent =
            static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(found->header) - region_);
        const std::uint64_t version = version_of(extent).load();
        for (int look = 0; look < 20; ++look) changed += version_of(extent).load() != version;
        found->pin->Drop();
      }
    });
  }
  std::uint64_t current = extents[0];
  version_of(current).store(1);
  for (Version version = 2; version < 20'000; ++version) {
    Fill("key", version - 1, current)->pin->Drop();
    const std::uint64_t old = current;
    for (const std::uint64_t extent : extents) {
      if (extent != old && !Holds(extent)) current = extent;
    }
    ASSERT_NE(current, old);
    version_of(current).store(version);  // reused
    Invalidate("key", version, old);
    cache_->Apply(0, 0);
    ASSERT_EQ(Acknowledged(), issued_);
    cache_->ReleaseHolds();
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(changed, 0);
}

}  // namespace
}  // namespace apta::compute
