// The home beyond mode strict: directory capacity, fencing, and the other coherence modes.

#include <gtest/gtest.h>

#include <string>

#include "daemon/home.h"
#include "tests/daemon/home_fixture.h"

namespace apta::daemon {
namespace {

using absl::StatusCode;
using fabric::Op;
using fabric::Reason;

constexpr TimeNs kMs = 1'000'000;

bool IsTracked(const Reply& reply) { return (reply.value[0] & fabric::kUntracked) == 0; }

// --- A directory of few entries.

class CrowdedHomeTest : public HomeFixture {
 protected:
  CrowdedHomeTest() : HomeFixture(PoolOptions{.bytes = 16 << 20, .directory_entries = 8}) {}
  void AcknowledgeAll() {
    for (NodeId node = 0; node < kNodes; ++node) gate_.AcknowledgeAll(node);
    Poll();
  }
};

TEST_F(CrowdedHomeTest, ColdEntriesAreInvalidatedAndMakeRoom) {
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(IsTracked(Put(0, "key " + std::to_string(i), "v"))) << i;
    AcknowledgeAll();
    EXPECT_LE(home_->otc().live_entries(), 8u);
  }
  EXPECT_EQ(home_->counters().directory_evictions, gate_.node(0).issued);
  EXPECT_GE(home_->counters().directory_evictions, 92u);
  EXPECT_EQ(LiveExtents(), 100u) << "an eviction takes nothing but the entry";
  // The record makes the holder drop the current version as well.
  const auto& [sequence, record] = *gate_.node(0).records.begin();
  const std::string evicted = "key " + std::to_string(record.version - 2);
  EXPECT_EQ(record.key_hash, fabric::KeyHash(evicted));
  EXPECT_EQ(record.version, Get(1, evicted).version + 1);
}

TEST_F(CrowdedHomeTest, WhatFindsNoRoomIsServedAndNotTracked) {
  for (int i = 0; i < 20; ++i) {  // nobody acknowledges
    const Reply put = Put(0, "key " + std::to_string(i), "v");
    ASSERT_EQ(put.code, 0);
    EXPECT_EQ(IsTracked(put), i < 8) << i;
  }
  const Reply got = Get(1, "key 19");
  EXPECT_EQ(Payload(got.extent_offset), "v");
  EXPECT_FALSE(IsTracked(got));
  EXPECT_TRUE(IsTracked(Get(1, "key 7"))) << "it has an entry";
  // Nobody may read it in place: its extent goes with the next put.
  const std::uint64_t live = LiveExtents();
  Put(2, "key 19", "w");
  EXPECT_EQ(LiveExtents(), live);
  AcknowledgeAll();
  EXPECT_TRUE(IsTracked(Get(1, "key 19")));
}

TEST_F(CrowdedHomeTest, AVersionThatIsReadInPlaceKeepsItsEntry) {
  const std::uint64_t extent = Put(0, "key 0", "v").extent_offset;
  gate_.node(0).holds.insert(extent);
  for (int i = 1; i < 30; ++i) {
    Put(1, "key " + std::to_string(i), "v");
    AcknowledgeAll();
  }
  const auto hash = fabric::KeyHash("key 0");
  EXPECT_EQ(home_->otc().state(hash), Otc::State::kSI);
  const std::uint64_t live = LiveExtents();
  Put(1, "key 0", "w");
  AcknowledgeAll();
  EXPECT_EQ(LiveExtents(), live + 1) << "node 0 still reads the old version";
  gate_.node(0).holds.clear();
  Poll();
  EXPECT_EQ(LiveExtents(), live);
}

// --- Fencing.

class FencingHomeTest : public HomeFixture {
 protected:
  FencingHomeTest()
      : HomeFixture(
            PoolOptions{.bytes = 16 << 20, .ack_deadline_ms = 100, .node_quota_bytes = 1 << 20}) {}
  // Time passes, and everybody but `silent` acknowledges.
  void Pass(TimeNs time_ns, NodeId silent) {
    for (const TimeNs end_ns = now_ns_ + time_ns; now_ns_ < end_ns; now_ns_ += kMs) {
      for (NodeId node = 0; node < kNodes; ++node) {
        if (node != silent) gate_.AcknowledgeAll(node);
      }
      Poll();
    }
  }
};

TEST_F(FencingHomeTest, ANodeThatStaysSilentIsAskedAndThenFenced) {
  Put(0, "key", "old");
  Get(1, "key");
  Put(0, "key", "new");
  Pass(20 * kMs, 1);
  EXPECT_EQ(gate_.node(1).nudges, 0);
  Pass(20 * kMs, 1);
  EXPECT_EQ(gate_.node(1).nudges, 1);
  Pass(50 * kMs, 1);
  EXPECT_TRUE(gate_.fenced().empty());
  Pass(30 * kMs, 1);
  ASSERT_EQ(gate_.fenced().size(), 1u);
  EXPECT_EQ(gate_.fenced().begin()->first, 1);
  EXPECT_GE(gate_.fenced()[1].silent_ns, 100 * kMs);
  EXPECT_EQ(home_->otc().state(fabric::KeyHash("key")), Otc::State::kS) << "nobody else owes";
  EXPECT_EQ(LiveExtents(), 2u) << "its process may still read the old version";
  // Nor is what it shares released later, and puts go on without it.
  Put(0, "other", "old");
  EXPECT_EQ(LiveExtents(), 3u);
  home_->ForgetNode(1);
  Poll(3);
  EXPECT_EQ(LiveExtents(), 2u);
}

TEST_F(FencingHomeTest, WhatAFencedNodeSharesIsKeptWhenItIsSuperseded) {
  Put(0, "a", "old");
  Put(0, "b", "old");
  Get(1, "a");
  Get(1, "b");
  Put(0, "a", "new");
  Pass(150 * kMs, 1);
  ASSERT_TRUE(gate_.fenced().contains(1));
  const std::uint64_t issued = gate_.node(1).issued;
  Put(0, "b", "new");
  Pass(10 * kMs, 1);
  EXPECT_EQ(gate_.node(1).issued, issued);
  EXPECT_EQ(LiveExtents(), 4u);
  home_->ForgetNode(1);
  EXPECT_EQ(LiveExtents(), 2u);
}

TEST_F(FencingHomeTest, ANodeThatAcknowledgesNowAndThenIsNotFenced) {
  for (int i = 0; i < 50; ++i) {
    Put(0, "key", "v");
    Get(1, "key");
    Pass(50 * kMs, 1);
    gate_.node(1).acknowledged = gate_.node(1).issued - (i % 2 == 0 ? 1 : 0);
    Poll();
  }
  EXPECT_TRUE(gate_.fenced().empty());
}

TEST_F(FencingHomeTest, ANodeThatHoldsMoreThanItsQuotaIsFenced) {
  const std::string large(200'000, 'x');
  for (int i = 0; i < 8; ++i) {
    Stage(0, 0, "key", large);
    Step(0, Staged(Op::kPut, "key", large.size(), fabric::kAnyVersion));
    for (int turn = 0; turn < 20; ++turn) {
      Stage(0, 0, "key", large);
      Poll();
    }
    ResetLane(0, 0);
    ASSERT_TRUE(gate_.Take(0, 0).has_value());
    gate_.node(1).holds.insert(Get(1, "key").extent_offset);
    Pass(5 * kMs, kNodes);
  }
  EXPECT_TRUE(gate_.fenced().empty()) << "it may be about to let go";
  Pass(200 * kMs, kNodes);
  ASSERT_TRUE(gate_.fenced().contains(1));
  EXPECT_GT(gate_.fenced()[1].held_bytes, 1u << 20);
}

// --- sync: blocking back-invalidation.

class SyncHomeTest : public HomeFixture {
 protected:
  SyncHomeTest()
      : HomeFixture(PoolOptions{.bytes = 16 << 20, .coherence = "sync", .ack_deadline_ms = 100}) {}
};

TEST_F(SyncHomeTest, APutCommitsWhenEverySharerHasAcknowledged) {
  Put(0, "key", "old");
  Get(1, "key");
  Get(2, "key");
  const Version old = Visible("key");
  Step(0, Inline(Op::kPut, "key", "new", fabric::kAnyVersion), 5);
  EXPECT_EQ(gate_.node(1).nudges, 1) << "somebody waits for it";
  gate_.AcknowledgeAll(1);
  Poll();
  EXPECT_TRUE(gate_.answers().empty());
  EXPECT_EQ(Visible("key"), old);
  gate_.AcknowledgeAll(2);
  Poll();
  const auto put = gate_.Take(0, 5);
  ASSERT_TRUE(put.has_value());
  EXPECT_EQ(Visible("key"), put->reply.version);
  gate_.AcknowledgeAll(0);
  Poll();
  EXPECT_EQ(LiveExtents(), 1u);
}

TEST_F(SyncHomeTest, RequestsOfTheObjectWaitInOrderAndOthersDoNot) {
  Put(0, "key", "old");
  Get(1, "key");
  Step(0, Inline(Op::kPut, "key", "first", fabric::kAnyVersion), 5);
  Step(2, Inline(Op::kGet, "key"), 6);
  Step(3, Inline(Op::kPut, "key", "second", fabric::kAnyVersion), 7);
  Step(1, Inline(Op::kDelete, "key", "", fabric::kAnyVersion), 8);
  EXPECT_TRUE(gate_.answers().empty());
  EXPECT_EQ(Put(2, "other", "v").code, 0);
  gate_.AcknowledgeAll(1);
  Poll();
  EXPECT_TRUE(gate_.Take(0, 5).has_value());
  const auto got = gate_.Take(2, 6);
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(Payload(got->reply.extent_offset), "first");
  EXPECT_FALSE(gate_.Take(3, 7).has_value()) << "the getter and the writer share the first";
  gate_.AcknowledgeAll(0);
  gate_.AcknowledgeAll(2);
  Poll();
  EXPECT_TRUE(gate_.Take(3, 7).has_value());
  EXPECT_FALSE(gate_.Take(1, 8).has_value());
  gate_.AcknowledgeAll(3);
  Poll();
  EXPECT_TRUE(gate_.Take(1, 8).has_value());
  EXPECT_EQ(Visible("key"), 0u);
}

TEST_F(SyncHomeTest, ADeadOrFencedSharerIsWaitedForNoLonger) {
  Put(0, "key", "old");
  Get(1, "key");
  Step(0, Inline(Op::kPut, "key", "new", fabric::kAnyVersion), 5);
  home_->ForgetNode(1);
  EXPECT_TRUE(gate_.Take(0, 5).has_value());
  Get(2, "key");
  Step(0, Inline(Op::kPut, "key", "newer", fabric::kAnyVersion), 5);
  for (int i = 0; i < 150; ++i, now_ns_ += kMs) {
    gate_.AcknowledgeAll(0);
    Poll();
  }
  EXPECT_TRUE(gate_.fenced().contains(2));
  EXPECT_TRUE(gate_.Take(0, 5).has_value());
}

TEST_F(SyncHomeTest, WhatADeadNodeHadWaitingIsDropped) {
  Put(0, "key", "old");
  Get(1, "key");
  Step(0, Inline(Op::kPut, "key", "first", fabric::kAnyVersion), 5);
  Step(2, Inline(Op::kPut, "key", "second", fabric::kAnyVersion), 6);
  home_->ForgetNode(2);
  gate_.AcknowledgeAll(0);
  gate_.AcknowledgeAll(1);
  Poll(3);
  EXPECT_EQ(Payload(Get(3, "key").extent_offset), "first");
  EXPECT_EQ(LiveExtents(), 1u);
}

// --- versioned and uncached: no sharers.

class UntrackedHomeTest : public HomeFixture {
 protected:
  UntrackedHomeTest() : HomeFixture(PoolOptions{.bytes = 16 << 20, .coherence = "versioned"}) {}
};

TEST_F(UntrackedHomeTest, NobodyIsASharerAndNothingIsInvalidated) {
  const Reply put = Put(0, "key", "old");
  EXPECT_FALSE(IsTracked(put));
  const Reply got = Get(1, "key");
  EXPECT_FALSE(IsTracked(got));
  EXPECT_EQ(got.version, put.version);
  EXPECT_EQ(home_->otc().live_entries(), 0u);
  Put(2, "key", "new");
  EXPECT_EQ(gate_.node(1).issued, 0u);
  EXPECT_EQ(LiveExtents(), 1u) << "the old version goes at once";
  EXPECT_EQ(Delete(2, "key").code, 0);
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(UntrackedHomeTest, AConfirmedVersionCarriesNoData) {
  const Version version = Put(0, "key", "value").version;
  Step(1, Inline(Op::kGet, "key", "", version));
  EXPECT_EQ(gate_.Take(1, 0)->payload_bytes, 0u);
  Step(1, Inline(Op::kGet, "key", "", version - 1));
  EXPECT_EQ(gate_.Take(1, 0)->payload_bytes, 5u);
}

}  // namespace
}  // namespace apta::daemon
