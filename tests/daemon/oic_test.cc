#include "daemon/oic.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "daemon/owed_keys.h"
#include "tests/daemon/fake_holds.h"

namespace apta::daemon {
namespace {

constexpr std::uint64_t kRecords = fabric::InvalidationRing<>::kRecords;
constexpr NodeId kNobody = 255;

class OicTest : public ::testing::Test, public InvalidationGate, public RoundObserver {
 protected:
  OicTest() {
    for (NodeId node = 0; node < 4; ++node) oic_.AttachNode(node);
    oic_.AttachNode(kNobody);
  }

  // InvalidationGate: nodes that the test plays.
  void Issue(NodeId node, std::uint64_t sequence, const fabric::Invalidation& record) override {
    const std::uint64_t word = acknowledged_[node];
    EXPECT_LE(sequence, word + kRecords) << "a record was overwritten";
    records_[node][sequence] = record;
  }
  void IssueDropAll(NodeId node, std::uint64_t sequence) override { drop_all_[node] = sequence; }
  std::uint64_t Acknowledged(NodeId node) override { return acknowledged_[node]; }
  const fabric::HoldTable& Holds(NodeId node) override { return holds_[node].table(); }
  // RoundObserver
  void OnAcknowledged(const RoundSpec& round) override { completed_.push_back(round.key_hash); }
  void OnOwes(NodeId node, std::uint64_t sequence) override {
    EXPECT_EQ(sequence != 0, oic_.owing().Contains(node));
    if (sequence != 0) EXPECT_EQ(sequence, oic_.Issued(node));
  }
  void OnOwesKey(NodeId node, std::uint64_t key_hash, bool owes) override {
    owes ? owed_.Add(node, key_hash) : owed_.Remove(node, key_hash);
  }
  void OnOwesAll(NodeId node) override { owed_.AddAll(node); }
  void OnOwesNoKey(NodeId node) override { owed_.Clear(node); }
  void OnReleased(std::uint64_t extent) override {
    EXPECT_TRUE(released_.insert(extent).second) << "released twice";
  }

  void Round(std::uint64_t hash, std::uint64_t extent, std::initializer_list<NodeId> holders,
             NodeId writer = kNobody) {
    NodeSet set;
    for (const NodeId node : holders) set.Add(node);
    NodeSet others = set;
    others.Remove(writer);
    oic_.IssueRound({.key_hash = hash,
                     .version = ++version_,
                     .extent = extent,
                     .extent_bytes = 64,
                     .holders = set,
                     .writer = writer,
                     .counts = !others.empty()},
                    now_ns_);
  }
  // Until nothing moves; enough time goes by for hold tables to be looked at again.
  void PollAll() {
    now_ns_ += Oic::kLookIntervalNs;
    while (oic_.Poll(now_ns_) > 0) {
    }
  }
  void Acknowledge(NodeId node, std::uint64_t sequence) {
    acknowledged_[node] = sequence;
    while (oic_.Poll(now_ns_) > 0) {
    }
  }

  OwedKeys owed_;
  Oic oic_{this, this};
  fabric::TimeNs now_ns_ = 1000;
  std::uint64_t version_ = 0;
  std::map<NodeId, std::map<std::uint64_t, fabric::Invalidation>> records_;
  std::map<NodeId, std::uint64_t> drop_all_;
  std::map<NodeId, std::uint64_t> acknowledged_;
  std::map<NodeId, FakeHolds> holds_;
  std::vector<std::uint64_t> completed_;
  std::set<std::uint64_t> released_;
};

TEST_F(OicTest, EveryHolderGetsARecordThatNamesObjectVersionAndOldExtent) {
  Round(77, 640, {0, 2});
  ASSERT_EQ(records_[0].size(), 1u);
  ASSERT_EQ(records_[2].size(), 1u);
  EXPECT_EQ(records_[0][1].key_hash, 77u);
  EXPECT_EQ(records_[0][1].version, version_);
  EXPECT_EQ(records_[0][1].old_extent, 640u);
  EXPECT_EQ(oic_.Outstanding(0), 1u);
  EXPECT_EQ(oic_.Outstanding(1), 0u);
}

TEST_F(OicTest, AnExtentIsReleasedWhenTheLastHolderHasAcknowledged) {
  Round(77, 640, {0, 1, 2});
  Acknowledge(0, 1);
  Acknowledge(2, 1);
  EXPECT_TRUE(released_.empty());
  EXPECT_EQ(oic_.held_bytes(), 64u);
  Acknowledge(1, 1);
  EXPECT_TRUE(released_.contains(640));
  EXPECT_EQ(completed_, (std::vector<std::uint64_t>{77}));
  EXPECT_EQ(oic_.held_bytes(), 0u);
  EXPECT_EQ(oic_.open_rounds(), 0u);
}

TEST_F(OicTest, AcknowledgementsAreCumulativeOverOverlappingRounds) {
  Round(1, 64, {0, 1});
  Round(1, 128, {0});
  Round(2, 192, {0, 1});
  Acknowledge(0, 3);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{128}));
  Acknowledge(1, 1);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{64, 128}));
  Acknowledge(1, 2);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{64, 128, 192}));
}

TEST_F(OicTest, AWritersOwnRecordFreesMemoryAndConcernsNoObserver) {
  Round(1, 64, {3}, /*writer=*/3);
  EXPECT_TRUE(completed_.empty());
  Acknowledge(3, 1);
  EXPECT_TRUE(released_.contains(64));
  EXPECT_TRUE(completed_.empty());
  Round(1, 128, {2, 3}, /*writer=*/3);
  Acknowledge(2, 1);
  EXPECT_EQ(completed_.size(), 1u);  // the others are what counts
  EXPECT_FALSE(released_.contains(128));
  Acknowledge(3, 2);
  EXPECT_TRUE(released_.contains(128));
}

TEST_F(OicTest, EveryRecordConcernsTheSchedulerThoseOfOwnPutsToo) {
  Round(1, 64, {3}, /*writer=*/3);
  EXPECT_TRUE(oic_.Owes(3));
  EXPECT_EQ(oic_.Outstanding(3), 1u);
  Round(2, 128, {2, 3}, /*writer=*/2);
  Round(3, 192, {3}, /*writer=*/3);
  EXPECT_TRUE(oic_.Owes(2));
  Acknowledge(3, 2);
  EXPECT_TRUE(oic_.Owes(3));
  EXPECT_FALSE(released_.contains(192));
  Acknowledge(3, 3);
  EXPECT_FALSE(oic_.Owes(3));
  Round(4, 256, {0, 3});
  oic_.ForgetNode(3);
  acknowledged_[3] = 0;
  oic_.AttachNode(3);
  EXPECT_FALSE(oic_.Owes(3));
}

TEST_F(OicTest, WhatANodeOwesIsKnownByKeyAndNeverUnderstated) {
  const std::uint64_t a = 1ull << 20, b = 2ull << 20, c = 3ull << 20;
  Round(a, 64, {0, 1});
  Round(b, 128, {0});
  Round(a, 192, {0});
  EXPECT_TRUE(owed_.MayOwe(0, a));
  EXPECT_TRUE(owed_.MayOwe(0, b));
  EXPECT_FALSE(owed_.MayOwe(0, c));
  EXPECT_FALSE(owed_.MayOwe(1, b));
  Acknowledge(0, 2);
  EXPECT_TRUE(owed_.MayOwe(0, a)) << "once more";
  EXPECT_FALSE(owed_.MayOwe(0, b));
  Acknowledge(0, 3);
  EXPECT_FALSE(owed_.MayOwe(0, a));
  for (std::uint64_t i = 0; i <= kRecords; ++i) Round(b, 256 + i * 64, {0});
  EXPECT_TRUE(owed_.MayOwe(0, c)) << "a mark stands for anything";
  Acknowledge(0, kRecords + 3);  // of all the records, and not of the mark
  EXPECT_TRUE(owed_.MayOwe(0, c));
  Acknowledge(0, kRecords + 4);
  EXPECT_FALSE(owed_.MayOwe(0, b));
  EXPECT_FALSE(owed_.MayOwe(0, c));
  Round(b, 32, {0});
  EXPECT_TRUE(owed_.MayOwe(0, b));
  oic_.FenceNode(0);
  EXPECT_TRUE(owed_.MayOwe(0, c)) << "nothing is to start there before it is gone";
  oic_.ForgetNode(0);
  EXPECT_FALSE(owed_.MayOwe(0, b));
  EXPECT_FALSE(owed_.MayOwe(0, c));
  EXPECT_TRUE(owed_.MayOwe(1, a));
}

TEST_F(OicTest, AnExtentOnAHoldTableStaysUntilItIsTakenOff) {
  Round(1, 64, {0, 1});
  holds_[0].insert(64);
  Acknowledge(0, 1);
  Acknowledge(1, 1);
  EXPECT_EQ(completed_.size(), 1u);  // acknowledged all the same
  EXPECT_TRUE(released_.empty());
  PollAll();
  EXPECT_TRUE(released_.empty());
  holds_[0].clear();
  PollAll();
  EXPECT_TRUE(released_.contains(64));
}

TEST_F(OicTest, AFullRingBecomesOneMarkAndNothingElseWaits) {
  for (std::uint64_t i = 1; i <= kRecords + 10; ++i) Round(i, i * 64, {0, 1});
  EXPECT_EQ(records_[0].size(), kRecords);
  EXPECT_EQ(drop_all_[0], kRecords + 10);
  Acknowledge(1, kRecords + 10);  // node 1 has dropped everything as well
  EXPECT_TRUE(released_.empty());
  Acknowledge(0, kRecords - 1);  // had seen only records so far
  EXPECT_EQ(released_.size(), kRecords - 1);
  // As long as the mark is not acknowledged, further rounds move it.
  Round(9999, 9999 * 64, {0});
  EXPECT_EQ(drop_all_[0], kRecords + 11);
  Acknowledge(0, kRecords + 10);
  EXPECT_FALSE(released_.contains(9999 * 64));
  Acknowledge(0, kRecords + 11);
  EXPECT_EQ(released_.size(), kRecords + 11);
  // Records again.
  Round(5, 8888 * 64, {0});
  EXPECT_TRUE(records_[0].contains(kRecords + 12));
  Acknowledge(0, kRecords + 12);
  EXPECT_EQ(oic_.open_rounds(), 0u);
}

TEST_F(OicTest, ADeadNodeOwesNothing) {
  Round(1, 64, {0, 1});
  Round(2, 128, {0});
  holds_[1].insert(64);
  Acknowledge(1, 1);
  oic_.ForgetNode(0);
  PollAll();
  EXPECT_EQ(released_, (std::set<std::uint64_t>{128}));  // 1 still holds the other
  oic_.ForgetNode(1);
  PollAll();
  EXPECT_TRUE(released_.contains(64));
  EXPECT_EQ(completed_.size(), 2u);
  // The slot's next node begins anew.
  acknowledged_[0] = 0;
  oic_.AttachNode(0);
  EXPECT_EQ(oic_.Outstanding(0), 0u);
}

TEST_F(OicTest, ANodeThatDiesBehindAMarkReleasesEveryRound) {
  for (std::uint64_t i = 1; i <= kRecords + 10; ++i) Round(i, i * 64, {0});
  EXPECT_GT(drop_all_[0], 0u);
  oic_.ForgetNode(0);
  EXPECT_EQ(released_.size(), kRecords + 10);
  EXPECT_EQ(oic_.open_rounds(), 0u);
  acknowledged_[0] = 0;
  oic_.AttachNode(0);
  Round(5, 8888 * 64, {0});
  EXPECT_EQ(records_[0][1].old_extent, 8888u * 64);
  Acknowledge(0, 1);
  EXPECT_TRUE(released_.contains(8888 * 64));
}

TEST_F(OicTest, WhatStandsOnAHoldTableBehindAMarkStays) {
  for (std::uint64_t i = 1; i <= kRecords + 10; ++i) Round(i, i * 64, {0});
  holds_[0] = {64, (kRecords + 5) * 64};  // one of a record, one of the mark
  Acknowledge(0, kRecords + 10);
  EXPECT_EQ(released_.size(), kRecords + 8);
  EXPECT_EQ(oic_.held_bytes(), 128u);
  holds_[0].clear();
  PollAll();
  EXPECT_EQ(oic_.open_rounds(), 0u);
}

// Invariant 5. A ratio with a wide bound: before, every poll looked at every slot for every round.
TEST_F(OicTest, WhatANodeHoldsCostsTheOthersNothing) {
  const auto polls_ns = [&] {
    const auto began = std::chrono::steady_clock::now();
    for (int i = 0; i < 20'000; ++i) oic_.Poll(now_ns_);
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - began);
  };
  const double without = polls_ns().count();
  for (std::uint64_t i = 1; i <= 1000; ++i) {
    Round(i, i * 64, {0});
    holds_[0].insert(i * 64);
    Acknowledge(0, i);
  }
  EXPECT_EQ(oic_.open_rounds(), 1000u);
  const double with = polls_ns().count();
  EXPECT_LT(with, without * 30);
  holds_[0].clear();
  PollAll();
  EXPECT_EQ(oic_.open_rounds(), 0u);
}

// A node that takes off and lists without pause is looked at now and then only.
TEST_F(OicTest, ANodeThatChangesItsTableWithoutPauseIsNotLookedAtWithoutPause) {
  Round(1, 64, {0});
  holds_[0].insert(64);
  Acknowledge(0, 1);
  holds_[0].insert(128);
  holds_[0] = {64};  // changed
  oic_.Poll(now_ns_);
  holds_[0].clear();
  for (int i = 0; i < 3; ++i) oic_.Poll(now_ns_ + Oic::kLookIntervalNs - 1);
  EXPECT_TRUE(released_.empty());
  PollAll();
  EXPECT_EQ(released_, (std::set<std::uint64_t>{64}));
}

// Any interleaving of rounds, acknowledgements, holds, lies and deaths: an extent is released when,
// and only when, all its holders have acknowledged it, died, or let go of it.
TEST_F(OicTest, RandomRunsReleaseExactlyWhatNobodyCanRead) {
  std::mt19937_64 random(1);
  struct Truth {
    std::map<NodeId, std::uint64_t> owed;  // node -> sequence
  };
  std::map<std::uint64_t, Truth> truth;  // by extent
  std::map<NodeId, std::uint64_t> issued;
  std::uint64_t next_extent = 0;
  for (int step = 0; step < 30'000; ++step) {
    const auto node = static_cast<NodeId>(random() % 4);
    switch (random() % 16) {
      case 0: {  // dies, and the slot is used again
        oic_.ForgetNode(node);
        for (auto& [extent, one] : truth) one.owed.erase(node);
        holds_[node].clear();
        acknowledged_[node] = issued[node] = 0;
        oic_.AttachNode(node);
        break;
      }
      case 1:  // lies
        acknowledged_[node] = random() % 2 == 0 ? issued[node] + 1 + random() % 9 : 0;
        PollAll();
        acknowledged_[node] = issued[node] - oic_.Outstanding(node);
        break;
      case 2:
      case 3: {  // acknowledges some, and goes on reading what it happens to read
        const std::uint64_t from = acknowledged_[node];
        if (from == issued[node]) break;
        std::uint64_t to = from + 1 + random() % (issued[node] - from);
        if (drop_all_[node] > from) to = issued[node];
        for (auto& [extent, one] : truth) {
          const auto owed = one.owed.find(node);
          if (owed != one.owed.end() && owed->second <= to && random() % 4 == 0) {
            holds_[node].insert(extent);
          }
        }
        Acknowledge(node, to);
        for (auto& [extent, one] : truth) {
          const auto owed = one.owed.find(node);
          if (owed != one.owed.end() && owed->second <= to) one.owed.erase(owed);
        }
        break;
      }
      case 4:
        holds_[node].clear();
        break;
      default: {
        std::initializer_list<NodeId> some[] = {{0}, {1, 2}, {0, 1, 2, 3}, {3}};
        const auto& holders = some[random() % 4];
        const std::uint64_t extent = ++next_extent * 64;
        for (const NodeId holder : holders) truth[extent].owed[holder] = ++issued[holder];
        Round(extent, extent, holders, static_cast<NodeId>(random() % 4));
      }
    }
    PollAll();
    for (auto entry = truth.begin(); entry != truth.end();) {
      const auto& [extent, one] = *entry;
      bool is_held = !one.owed.empty();
      for (NodeId holder = 0; holder < 4; ++holder) is_held |= holds_[holder].contains(extent);
      ASSERT_EQ(released_.contains(extent), !is_held) << "extent " << extent << " step " << step;
      entry = is_held ? std::next(entry) : truth.erase(entry);
    }
    ASSERT_EQ(oic_.open_rounds(), truth.size());
    for (NodeId each = 0; each < 4; ++each) {
      ASSERT_EQ(oic_.Outstanding(each), issued[each] - acknowledged_[each]);
    }
  }
}

TEST_F(OicTest, ALyingAcknowledgementIsNotBelieved) {
  Round(1, 64, {0});
  Acknowledge(0, 5);  // beyond what was issued
  EXPECT_TRUE(released_.empty());
  Round(1, 128, {0});
  Acknowledge(0, 2);
  EXPECT_EQ(released_.size(), 2u);
  Round(1, 192, {0});
  Acknowledge(0, 1);  // backwards
  EXPECT_EQ(released_.size(), 2u);
  EXPECT_EQ(oic_.Outstanding(0), 1u);
}

// --- Fencing.

TEST_F(OicTest, AFencedNodeOwesNothingAndWhatItMayReadStaysUntilItIsGone) {
  Round(77, 640, {0, 1});
  Acknowledge(0, 1);
  EXPECT_TRUE(completed_.empty());
  oic_.FenceNode(1);
  EXPECT_EQ(completed_, (std::vector<std::uint64_t>{77})) << "nobody else owes anything";
  EXPECT_FALSE(oic_.Owes(1));
  EXPECT_TRUE(oic_.owing().empty());
  EXPECT_TRUE(released_.empty());
  EXPECT_EQ(oic_.HeldBytesOf(1), 64u);
  // What it shared when it was fenced, and is superseded later.
  const std::size_t records = records_[1].size();
  Round(78, 704, {1});
  EXPECT_EQ(records_[1].size(), records) << "it gets no more records";
  Acknowledge(1, 2);
  EXPECT_TRUE(released_.empty()) << "and its word counts no more";
  oic_.ForgetNode(1);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{640, 704}));
  EXPECT_EQ(oic_.held_bytes(), 0u);
  EXPECT_EQ(oic_.open_rounds(), 0u);
}

TEST_F(OicTest, AHolderThatIsFencedStaysAHolder) {
  Round(77, 640, {0});
  holds_[0].insert(640);
  Acknowledge(0, 1);
  oic_.FenceNode(0);
  holds_[0].clear();
  PollAll();
  EXPECT_TRUE(released_.empty());
  oic_.ForgetNode(0);
  EXPECT_TRUE(released_.contains(640));
}

TEST_F(OicTest, ItIsKnownSinceWhenANodeIsSilentAndWhatIsHeldForIt) {
  now_ns_ = 1000;
  Round(77, 640, {0, 1});
  now_ns_ = 2000;
  Round(78, 704, {0});
  EXPECT_EQ(oic_.OwingSince(0), 1000u);
  EXPECT_EQ(oic_.HeldBytesOf(0), 128u);
  EXPECT_EQ(oic_.HeldBytesOf(1), 64u);
  now_ns_ = 3000;
  Acknowledge(0, 1);
  EXPECT_EQ(oic_.OwingSince(0), 3000u) << "it has said something";
  EXPECT_EQ(oic_.HeldBytesOf(0), 64u);
  Acknowledge(0, 2);
  EXPECT_FALSE(oic_.owing().Contains(0));
  EXPECT_EQ(oic_.HeldBytesOf(0), 0u);
  EXPECT_EQ(oic_.HeldBytesOf(1), 64u);
}

// --- Evictions of directory entries.

TEST_F(OicTest, AnEvictionIsOverWhenNobodyReadsTheVersionInPlaceAndReleasesNothing) {
  oic_.IssueRound({.key_hash = 77,
                   .version = 6,
                   .extent = 640,
                   .holders = NodeSet::Of(0),
                   .counts = true,
                   .is_eviction = true},
                  now_ns_);
  EXPECT_EQ(records_[0][1].old_extent, 640u);
  holds_[0].insert(640);
  Acknowledge(0, 1);
  EXPECT_TRUE(completed_.empty()) << "it would be no sharer, and nobody would ask it again";
  holds_[0].clear();
  PollAll();
  EXPECT_EQ(completed_, (std::vector<std::uint64_t>{77}));
  EXPECT_TRUE(released_.empty()) << "the version is current";
}

}  // namespace
}  // namespace apta::daemon
