#include "daemon/otc.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

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
  Otc otc_{1024};
};

TEST_F(OtcTest, AGetMakesItsNodeASharer) {
  EXPECT_EQ(otc_.state(kHash), State::kI);
  otc_.Get(kHash, 3);
  otc_.Get(kHash, 200);
  otc_.Get(kHash, 3);
  EXPECT_EQ(otc_.state(kHash), State::kS);
  EXPECT_EQ(otc_.sharers(kHash), Nodes({3, 200}));
}

TEST_F(OtcTest, APutLeavesItsWriterAsTheOnlySharerAndNamesWhoHeldTheOldVersion) {
  EXPECT_EQ(otc_.Put(kHash, 1), Nodes({}));
  otc_.Get(kHash, 2);
  EXPECT_EQ(otc_.Put(kHash, 3), Nodes({1, 2}));
  EXPECT_EQ(otc_.sharers(kHash), Nodes({3}));
  EXPECT_EQ(otc_.Put(kHash, 3), Nodes({3}));
}

TEST_F(OtcTest, ADeleteLeavesNoSharerAndNoEntry) {
  otc_.Get(kHash, 2);
  EXPECT_EQ(otc_.Delete(kHash), Nodes({2}));
  EXPECT_EQ(otc_.state(kHash), State::kI);
  EXPECT_EQ(otc_.live_entries(), 0u);
}

TEST_F(OtcTest, OverlappingRoundsKeepAnEntryInSaUntilTheLastIsAcknowledged) {
  otc_.Get(kHash, 1);
  (void)otc_.Put(kHash, 2);
  otc_.RoundIssued(kHash);
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  otc_.Get(kHash, 3);  // served while acknowledgements are outstanding
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  EXPECT_EQ(otc_.Put(kHash, 4), Nodes({2, 3}));  // so is a put
  otc_.RoundIssued(kHash);
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.state(kHash), State::kS);
  EXPECT_EQ(otc_.sharers(kHash), Nodes({4}));
}

TEST_F(OtcTest, AnEntryWithoutSharersStaysUntilItsRoundsAreAcknowledged) {
  otc_.Get(kHash, 1);
  (void)otc_.Delete(kHash);
  otc_.RoundIssued(kHash);
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  otc_.AckComplete(kHash);
  EXPECT_EQ(otc_.live_entries(), 0u);
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
  (void)otc_.Put(kHash, 2);
  otc_.RoundIssued(kHash);
  EXPECT_EQ(otc_.ForgetNode(2, Otc::kScanStart, 1'000'000), 0u);
  EXPECT_EQ(otc_.state(kHash), State::kSA);
  EXPECT_EQ(otc_.sharers(kHash), Nodes({}));
  otc_.AckComplete(kHash);  // the OIC says so when the last of the round has died or acknowledged
  EXPECT_EQ(otc_.state(kHash), State::kI);
  EXPECT_EQ(otc_.live_entries(), 0u);
}

TEST_F(OtcTest, AnAcknowledgementOfWhatFoundNoEntryChangesNothing) {
  Otc full(64);
  for (std::uint64_t i = 1; full.live_entries() < 56; ++i) full.Get(i << 57 | i, 1);
  const std::uint64_t late = 0x7777'0000'0000'0001;
  full.Get(late, 3);
  EXPECT_EQ(full.state(late), State::kI);
  EXPECT_EQ(full.Put(late, 4), Nodes({3}));  // tracked coarsely
  full.RoundIssued(late);
  full.AckComplete(late);
  EXPECT_EQ(full.state(late), State::kI);
  EXPECT_EQ(full.sharers(late), Nodes({3, 4}));
  EXPECT_EQ(full.Delete(late), Nodes({3, 4}));
  // A node leaves the coarse set when it dies.
  EXPECT_EQ(full.ForgetNode(3, Otc::kScanStart, 1), 0u);
  EXPECT_EQ(full.sharers(late), Nodes({4}));
}

TEST_F(OtcTest, AFullDirectoryStaysInclusive) {
  Otc small(64);
  std::mt19937_64 random(2);
  std::map<std::uint64_t, NodeSet> truth;
  for (int i = 0; i < 5000; ++i) {
    const std::uint64_t hash = (random() % 200 + 1) << 50;
    const auto node = static_cast<NodeId>(random() % 20);
    if (random() % 2 == 0) {
      small.Get(hash, node);
      truth[hash].Add(node);
    } else {
      const NodeSet told = small.Put(hash, node);
      NodeSet forgotten = truth[hash];
      forgotten.Remove(told);
      ASSERT_TRUE(forgotten.empty()) << "a sharer that nobody would have told";
      truth[hash] = NodeSet::Of(node);
    }
  }
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
      (void)otc_.Delete(hash);
      truth.erase(hash);
    }
    const std::uint64_t probe = (random() % 30 << 58) | (random() % 20 + 1);
    ASSERT_EQ(otc_.sharers(probe), truth.contains(probe) ? Nodes({5}) : Nodes({}));
  }
  EXPECT_EQ(otc_.live_entries(), truth.size());
}

}  // namespace
}  // namespace apta::daemon
