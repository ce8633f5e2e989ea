#include "daemon/otc.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>
#include <vector>

namespace apta::daemon {
namespace {

using State = Otc::State;

NodeSet Nodes(std::initializer_list<NodeId> nodes) {
  NodeSet set;
  for (const NodeId node : nodes) set.Add(node);
  return set;
}

constexpr std::uint64_t kHash = 0x1234'5678'9abc'def0;

class OtcTest : public ::testing::Test {
 protected:
  OtcTest() {
    for (NodeId node = 0; node < 256; ++node) everybody_.Add(node);
  }
  // Who held the version that the commit superseded.
  NodeSet Put(std::uint64_t key_hash, NodeId writer) {
    return otc_.Put(key_hash, writer, everybody_).holders;
  }
  NodeSet Delete(std::uint64_t key_hash, NodeId writer = 255) {
    return otc_.Delete(key_hash, writer, everybody_).holders;
  }

  NodeSet everybody_;
  Otc otc_{1024};
};

TEST_F(OtcTest, AGetMakesItsNodeASharer) {
  EXPECT_EQ(otc_.state(kHash), State::kI);
  EXPECT_TRUE(otc_.Get(kHash, 3));
  otc_.Get(kHash, 200);
  otc_.Get(kHash, 3);
  EXPECT_EQ(otc_.state(kHash), State::kS);
  EXPECT_EQ(otc_.sharers(kHash), Nodes({3, 200}));
}

TEST_F(OtcTest, APutLeavesItsWriterAsTheOnlySharerAndNamesWhoHeldTheOldVersion) {
  EXPECT_EQ(Put(kHash, 1), Nodes({}));
  otc_.Get(kHash, 2);
  EXPECT_EQ(Put(kHash, 3), Nodes({1, 2}));
  EXPECT_EQ(otc_.sharers(kHash), Nodes({3}));
  EXPECT_EQ(Put(kHash, 3), Nodes({3}));
}

TEST_F(OtcTest, OnlyNodesThatAnswerMakeAnObjectWait) {
  otc_.Get(kHash, 1);
  otc_.Get(kHash, 2);
  const Otc::Superseded put = otc_.Put(kHash, 2, Nodes({2, 3}));  // 1 was fenced
  EXPECT_EQ(put.holders, Nodes({1, 2}));
  EXPECT_FALSE(put.counts);
  EXPECT_TRUE(put.tracked);
  EXPECT_EQ(otc_.state(kHash), State::kS);
}

TEST_F(OtcTest, ADeleteLeavesNoSharerAndAnEntryOnlyWhileItIsAcknowledged) {
  otc_.Get(kHash, 2);
  EXPECT_EQ(Delete(kHash, 2), Nodes({2}));
  EXPECT_EQ(otc_.state(kHash), State::kI);
  EXPECT_EQ(otc_.live_entries(), 0u);
  otc_.Get(kHash, 1);
  EXPECT_EQ(Delete(kHash, 2), Nodes({1}));
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.live_entries(), 0u);
}

TEST_F(OtcTest, OverlappingRoundsKeepAnEntryInSaUntilTheLastIsAcknowledged) {
  otc_.Get(kHash, 1);
  (void)Put(kHash, 2);
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  otc_.Get(kHash, 3);  // served while acknowledgements are outstanding
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  EXPECT_EQ(Put(kHash, 4), Nodes({2, 3}));  // so is a put
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.state(kHash), State::kS);
  EXPECT_EQ(otc_.sharers(kHash), Nodes({4}));
}

TEST_F(OtcTest, AnAcknowledgementThatNobodyWaitsForIsABug) {
  otc_.Get(kHash, 1);
  EXPECT_DEATH(otc_.AckComplete(kHash), "invariant");
  EXPECT_DEATH(otc_.AckComplete(1), "invariant");
}

// --- Eviction.

TEST_F(OtcTest, AnEvictedEntryIsFreedWhenItsSharersHaveAcknowledged) {
  otc_.Get(kHash, 1);
  otc_.Get(kHash, 2);
  EXPECT_EQ(otc_.Evict(kHash, 1, everybody_), Nodes({1, 2}));
  EXPECT_EQ(otc_.state(kHash), State::kSI);
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.state(kHash), State::kI);
  EXPECT_EQ(otc_.live_entries(), 0u);
  EXPECT_EQ(otc_.ForgetNode(1, Otc::kScanStart, 1), 0u) << "it is in no sharer set";
}

TEST_F(OtcTest, GetDuringEvictionIsNotStalled) {
  otc_.Get(kHash, 1);
  (void)otc_.Evict(kHash, 1, everybody_);
  EXPECT_TRUE(otc_.Get(kHash, 3));
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  EXPECT_EQ(otc_.sharers(kHash), Nodes({1, 3})) << "1 may still read the version in place";
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.state(kHash), State::kS);
}

TEST_F(OtcTest, PutDuringEvictionIsNotStalled) {
  otc_.Get(kHash, 1);
  (void)otc_.Evict(kHash, 1, everybody_);
  EXPECT_EQ(Put(kHash, 3), Nodes({1})) << "its extent waits for 1 as well";
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  EXPECT_EQ(otc_.sharers(kHash), Nodes({3}));
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.state(kHash), State::kS);
}

TEST_F(OtcTest, DeleteDuringEvictionIsNotStalled) {
  otc_.Get(kHash, 1);
  (void)otc_.Evict(kHash, 1, everybody_);
  EXPECT_EQ(Delete(kHash), Nodes({1}));
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  otc_.AckComplete(kHash);
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.live_entries(), 0u);
}

TEST_F(OtcTest, AnEntryOfTheDeadAloneIsFreedAtOnce) {
  otc_.Get(kHash, 1);
  EXPECT_EQ(otc_.Evict(kHash, 1, Nodes({2})), Nodes({}));
  EXPECT_EQ(otc_.live_entries(), 0u);
}

TEST_F(OtcTest, ADeathDuringEvictionLeavesItsRoundsAlone) {
  otc_.Get(kHash, 1);
  (void)otc_.Evict(kHash, 1, everybody_);
  EXPECT_EQ(otc_.ForgetNode(1, Otc::kScanStart, 1'000'000), 0u);
  EXPECT_EQ(otc_.state(kHash), State::kSI);
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.live_entries(), 0u);
}

TEST_F(OtcTest, WhatWasUsedSincePickVictimPassedGetsASecondChance) {
  Otc small(4);
  for (std::uint64_t i = 1; i <= 3; ++i) small.Get(i << 60, 1);
  EXPECT_FALSE(small.IsCrowded());
  small.Get(std::uint64_t{4} << 60, 1);
  EXPECT_TRUE(small.IsCrowded());
  const std::optional<std::uint64_t> victim = small.PickVictim(1000);
  ASSERT_TRUE(victim.has_value());
  small.Get(*victim, 2);  // used again
  const std::optional<std::uint64_t> other = small.PickVictim(1000);
  ASSERT_TRUE(other.has_value());
  EXPECT_NE(*other, *victim);
  (void)small.Evict(*other, 1, everybody_);
  EXPECT_FALSE(small.IsCrowded()) << "what is going makes room already";
  EXPECT_FALSE(small.Get(std::uint64_t{5} << 60, 1)) << "but not at once";
  EXPECT_FALSE(small.Put(std::uint64_t{5} << 60, 1, everybody_).tracked);
  small.AckComplete(*other);
  EXPECT_TRUE(small.Get(std::uint64_t{5} << 60, 1));
}

TEST_F(OtcTest, WhatIsOutstandingIsNotEvicted) {
  Otc small(2);
  for (std::uint64_t i = 1; i <= 2; ++i) {
    small.Get(i << 60, 1);
    (void)small.Put(i << 60, 2, everybody_);
  }
  EXPECT_TRUE(small.IsCrowded());
  EXPECT_FALSE(small.PickVictim(1000).has_value());
}

TEST_F(OtcTest, ADeadNodeLeavesEverySharerSet) {
  std::mt19937_64 random(1);
  std::map<std::uint64_t, bool> others;  // hash -> has another sharer
  for (int i = 0; i < 800; ++i) {
    const std::uint64_t hash = random() | 1;
    otc_.Get(hash, 7);
    others[hash] = i % 2 == 0;
    if (i % 2 == 0) otc_.Get(hash, 9);
  }
  for (std::uint64_t at = Otc::kScanStart; (at = otc_.ForgetNode(7, at, 10)) != 0;) {
    otc_.Get(random() | 1, 9);  // others go on meanwhile, and entries move
  }
  for (const auto& [hash, has_other] : others) {
    EXPECT_EQ(otc_.sharers(hash), has_other ? Nodes({9}) : Nodes({}));
  }
  EXPECT_EQ(otc_.ForgetNode(9, Otc::kScanStart, 1'000'000), 0u);
  EXPECT_EQ(otc_.live_entries(), 0u);
}

TEST_F(OtcTest, ADeathInSaLeavesTheOutstandingRoundsAlone) {
  otc_.Get(kHash, 1);
  (void)Put(kHash, 2);
  EXPECT_EQ(otc_.ForgetNode(2, Otc::kScanStart, 1'000'000), 0u);
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  EXPECT_EQ(otc_.sharers(kHash), Nodes({}));
  otc_.AckComplete(kHash);  // the OIC says so when the last of the round has died or acknowledged
  EXPECT_EQ(otc_.state(kHash), State::kI);
  EXPECT_EQ(otc_.live_entries(), 0u);
}

// Whoever was told that it may keep a copy is named by the next put, or was by an eviction.
TEST_F(OtcTest, AFullDirectoryStaysInclusive) {
  Otc small(56);
  std::mt19937_64 random(2);
  std::map<std::uint64_t, NodeSet> truth;
  std::vector<std::uint64_t> rounds;
  int untracked = 0;
  int evictions = 0;
  const auto check_told = [&](std::uint64_t hash, const NodeSet& told) {
    NodeSet forgotten = truth[hash];
    forgotten.Remove(told);
    ASSERT_TRUE(forgotten.empty()) << "a sharer that nobody would have told";
    truth[hash] = {};
  };
  for (int i = 0; i < 50'000; ++i) {
    const std::uint64_t hash = (random() % 200 + 1) << 50;
    const auto node = static_cast<NodeId>(random() % 20);
    if (random() % 2 == 0) {
      if (small.Get(hash, node)) {
        truth[hash].Add(node);
      } else {
        ++untracked;
      }
    } else {
      const Otc::Superseded put = small.Put(hash, node, everybody_);
      check_told(hash, put.holders);
      if (put.tracked) truth[hash] = NodeSet::Of(node);
      if (put.counts) rounds.push_back(hash);
    }
    if (small.IsCrowded()) {
      if (const auto victim = small.PickVictim(64)) {
        check_told(*victim, small.Evict(*victim, 1, everybody_));
        rounds.push_back(*victim);
        ++evictions;
      }
    }
    if (!rounds.empty() && random() % 2 == 0) {
      std::swap(rounds[random() % rounds.size()], rounds.back());
      small.AckComplete(rounds.back());
      rounds.pop_back();
    }
    ASSERT_LE(small.live_entries(), 56u);
  }
  EXPECT_GT(untracked, 0);
  EXPECT_GT(evictions, 1000);
}

TEST_F(OtcTest, RandomEntriesAreFoundAfterErasures) {
  std::mt19937_64 random(3);
  std::map<std::uint64_t, NodeSet> truth;
  for (int i = 0; i < 100'000; ++i) {
    // Hashes with equal upper bits: long probe sequences.
    const std::uint64_t hash = (random() % 30 << 58) | (random() % 20 + 1);
    if (random() % 3 != 0 && truth.size() < 700) {
      otc_.Get(hash, 5);
      truth[hash] = Nodes({5});
    } else {
      (void)Delete(hash, 5);
      truth.erase(hash);
    }
    const std::uint64_t probe = (random() % 30 << 58) | (random() % 20 + 1);
    ASSERT_EQ(otc_.sharers(probe), truth.contains(probe) ? Nodes({5}) : Nodes({}));
  }
  EXPECT_EQ(otc_.live_entries(), truth.size());
}

}  // namespace
}  // namespace apta::daemon
