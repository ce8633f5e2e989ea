#include "daemon/home.h"
#include <functional>

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/daemon/home_fixture.h"

namespace apta::daemon {
namespace {

using absl::StatusCode;
using fabric::Op;
using fabric::Reason;

class HomeTest : public HomeFixture {};

TEST_F(HomeTest, AnObjectIsServedInPlaceWithTheVersionOfItsPut) {
  EXPECT_EQ(Get(1, "key").reason, Reason::kNoSuchObject);
  const Reply put = Put(0, "key", "value");
  ASSERT_EQ(put.code, 0);
  const Reply got = Get(1, "key");
  EXPECT_EQ(got.code, 0);
  EXPECT_EQ(got.version, put.version);
  EXPECT_EQ(got.extent_offset, put.extent_offset);
  EXPECT_EQ(Payload(got.extent_offset), "value");
  const Reply stat = Ask(2, Inline(Op::kStat, "key"));
  EXPECT_EQ(stat.value[0], 5u);
  EXPECT_EQ(stat.value[1], 2u);  // the writer and node 1; who asks is no sharer
  EXPECT_EQ(Get(1, "another").reason, Reason::kNoSuchObject);
}

TEST_F(HomeTest, APutTellsEverySharerBeforeItIsVisibleAndAnswersAfterwards) {
  const Version first = Put(0, "key", "old").version;
  const std::uint64_t old_extent = Get(1, "key").extent_offset;
  Get(2, "key");
  std::map<NodeId, fabric::Invalidation> told;
  gate_.on_issue = [&](NodeId node, const fabric::Invalidation& record) {
    EXPECT_EQ(Visible("key"), first) << "the new version was visible before everybody was told";
    EXPECT_TRUE(gate_.answers().empty()) << "the writer was answered first";
    told[node] = record;
  };
  const Reply put = Put(3, "key", "new");
  EXPECT_GT(put.version, first);
  EXPECT_EQ(Visible("key"), put.version);
  ASSERT_EQ(told.size(), 3u);
  for (const auto& [node, record] : told) {
    EXPECT_EQ(record.key_hash, fabric::KeyHash("key"));
    EXPECT_EQ(record.version, put.version);
    EXPECT_EQ(record.old_extent, old_extent);
  }
  EXPECT_EQ(home_->otc().sharers(fabric::KeyHash("key")), NodeSet::Of(3));
}

// The writer's record says when it has let go of the old extent, and concerns no state.
TEST_F(HomeTest, APutOfTheOnlySharerLeavesItsObjectInS) {
  Put(0, "key", "old");
  Put(0, "key", "new");
  EXPECT_EQ(home_->otc().state(fabric::KeyHash("key")), Otc::State::kS);
  EXPECT_EQ(LiveExtents(), 2u);
  gate_.AcknowledgeAll(0);
  Poll();
  EXPECT_EQ(LiveExtents(), 1u);
}

TEST_F(HomeTest, NothingWaitsForAnAcknowledgement) {
  Put(0, "key", "0");
  Get(1, "key");
  for (int round = 1; round <= 5; ++round) {
    EXPECT_EQ(Put(0, "key", std::to_string(round)).code, 0);
    EXPECT_EQ(home_->otc().state(fabric::KeyHash("key")), Otc::State::kSA);
    const Reply got = Get(2, "key");
    EXPECT_EQ(Payload(got.extent_offset), std::to_string(round));
  }
  for (NodeId node = 0; node < 3; ++node) gate_.AcknowledgeAll(node);
  Poll();
  EXPECT_EQ(home_->otc().state(fabric::KeyHash("key")), Otc::State::kS);
  EXPECT_EQ(LiveExtents(), 1u);
}

TEST_F(HomeTest, AnOldVersionStaysUntilItIsAcknowledgedAndNobodyHoldsIt) {
  Put(0, "key", "old");
  const std::uint64_t old_extent = Get(1, "key").extent_offset;
  Put(0, "key", "new");
  EXPECT_EQ(LiveExtents(), 2u);
  gate_.AcknowledgeAll(0);
  Poll();
  EXPECT_EQ(LiveExtents(), 2u);
  gate_.node(1).holds.insert(old_extent);
  gate_.AcknowledgeAll(1);
  Poll(3);
  EXPECT_EQ(LiveExtents(), 2u);
  EXPECT_EQ(Payload(old_extent), "old");
  EXPECT_EQ(home_->otc().state(fabric::KeyHash("key")), Otc::State::kS);  // acknowledged it is
  gate_.node(1).holds.clear();
  Poll();
  EXPECT_EQ(LiveExtents(), 1u);
}

TEST_F(HomeTest, ALyingAcknowledgementReleasesNothing) {
  Put(0, "key", "old");
  Get(1, "key");
  Put(0, "key", "new");
  gate_.AcknowledgeAll(0);
  for (const std::uint64_t lie : {std::uint64_t{2}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    gate_.node(1).acknowledged = lie;
    Poll();
    EXPECT_EQ(LiveExtents(), 2u);
  }
}

TEST_F(HomeTest, AStoppedNodesRingBecomesAMarkAndPutsGoOn) {
  const auto count = static_cast<int>(fabric::InvalidationRing<>::kRecords) + 100;
  for (int i = 0; i < count; ++i) {
    ASSERT_EQ(Put(0, "key", std::to_string(i)).code, 0);
    Get(1, "key");
    gate_.AcknowledgeAll(0);
    Poll();
  }
  EXPECT_EQ(gate_.node(1).drop_all, static_cast<std::uint64_t>(count - 1));
  EXPECT_EQ(LiveExtents(), static_cast<std::uint64_t>(count));  // it could read each of them
  gate_.AcknowledgeAll(1);
  Poll(20);
  EXPECT_EQ(LiveExtents(), 1u);
}

TEST_F(HomeTest, ADeletedObjectIsGoneAndItsSharersAreTold) {
  Put(0, "key", "value");
  Get(1, "key");
  const Reply deleted = Delete(2, "key");
  EXPECT_EQ(deleted.code, 0);
  EXPECT_EQ(gate_.node(0).records[1].version, deleted.version);
  EXPECT_EQ(gate_.node(1).records[1].version, deleted.version);
  EXPECT_EQ(gate_.node(2).issued, 0u);
  EXPECT_EQ(Visible("key"), 0u);
  EXPECT_EQ(Get(1, "key").reason, Reason::kNoSuchObject);
  EXPECT_EQ(Delete(2, "key").reason, Reason::kNoSuchObject);
  EXPECT_EQ(LiveExtents(), 1u);
  // Made again while its invalidations are outstanding.
  EXPECT_GT(Put(3, "key", "again").version, deleted.version);
  gate_.AcknowledgeAll(0);
  gate_.AcknowledgeAll(1);
  Poll();
  EXPECT_EQ(LiveExtents(), 1u);
  EXPECT_EQ(home_->otc().state(fabric::KeyHash("key")), Otc::State::kS);
}

TEST_F(HomeTest, APreconditionThatDoesNotHoldChangesNothing) {
  EXPECT_EQ(Put(0, "key", "value", 7).reason, Reason::kVersionMoved);
  const Version first = Put(0, "key", "value", 0).version;
  EXPECT_GT(first, 0u);
  const Reply refused = Put(1, "key", "other", 0);
  EXPECT_EQ(CodeOf(refused), StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused.value[0], first);
  EXPECT_EQ(Delete(1, "key", first + 1).reason, Reason::kVersionMoved);
  EXPECT_EQ(Visible("key"), first);
  EXPECT_EQ(LiveExtents(), 1u);
  EXPECT_EQ(gate_.node(0).issued, 0u);
  EXPECT_GT(Put(1, "key", "other", first).version, first);
}

TEST_F(HomeTest, ALargePutIsCopiedInSlicesBetweenOtherRequests) {
  Put(1, "small", "s");
  std::string value(1'000'000, ' ');
  for (std::size_t i = 0; i < value.size(); ++i) value[i] = static_cast<char>(i * 7 >> 3);
  Stage(0, 5, "large", value);
  Step(0, Staged(Op::kPut, "large", value.size(), fabric::kAnyVersion), 5);
  int slices = 1;
  while (gate_.answers().empty()) {
    EXPECT_EQ(Visible("large"), 0u);
    EXPECT_EQ(Get(2, "small").code, 0);
    const std::uint64_t before = gate_.node(0).lanes[5].drained_bytes;
    Stage(0, 5, "large", value);
    Poll();
    if (gate_.answers().empty()) {
      EXPECT_LE(gate_.node(0).lanes[5].drained_bytes - before, fabric::kHomeCopyBytes);
    }
    ASSERT_LT(++slices, 100);
  }
  EXPECT_GE(slices, 16);
  const auto answer = gate_.Take(0, 5);
  EXPECT_EQ(answer->reply.code, 0);
  EXPECT_EQ(Payload(answer->reply.extent_offset), value);
}

TEST_F(HomeTest, APreconditionIsLookedAtAgainWhenThePayloadIsWhole) {
  const Version first = Put(1, "key", "1").version;
  const std::string value(100'000, 'v');
  Stage(0, 5, "key", value.substr(0, 1000));
  Step(0, Staged(Op::kPut, "key", value.size(), first), 5);
  const Version second = Put(1, "key", "2").version;
  Stage(0, 5, "key", value);
  Poll(5);
  const auto answer = gate_.Take(0, 5);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->reply.reason, Reason::kVersionMoved);
  EXPECT_EQ(answer->reply.value[0], second);
  gate_.AcknowledgeAll(1);
  Poll();
  EXPECT_EQ(LiveExtents(), 1u);
}

TEST_F(HomeTest, AnEmptyObjectIsAnObject) {
  const Reply put = Put(0, "key", "");
  EXPECT_EQ(put.code, 0);
  EXPECT_EQ(Payload(Get(1, "key").extent_offset), "");
  const std::string long_key(1024, 'k');
  Stage(0, 1, long_key, "");
  EXPECT_EQ(Ask(0, Staged(Op::kPut, long_key, 0, fabric::kAnyVersion), 1).code, 0);
  EXPECT_GT(Visible(long_key), 0u);
}

TEST_F(HomeTest, AFullPoolSaysWhatIsHeldAndAsksThoseWhoHoldIt) {
  const std::string value(64 << 10, 'v');
  std::uint64_t made = 0;
  Reply reply;
  for (;; ++made) {
    const std::string key = "key " + std::to_string(made % 4);
    ResetLane(0, 0);
    Stage(0, 0, key, value);
    Step(0, Staged(Op::kPut, key, value.size(), fabric::kAnyVersion));
    while (gate_.answers().empty()) Poll();
    reply = Answer(0, 0);
    if (reply.code != 0) break;
    Get(1, key);  // old versions pile up for it
  }
  EXPECT_GT(made, 100u);
  EXPECT_EQ(CodeOf(reply), StatusCode::kResourceExhausted);
  EXPECT_EQ(reply.reason, Reason::kPoolFull);
  EXPECT_EQ(reply.value[0], value.size());
  EXPECT_GT(reply.value[2], reply.value[1]) << "nearly all of it is held";
  EXPECT_GE(gate_.node(1).nudges, 1);
  const std::uint64_t extents = LiveExtents();
  gate_.AcknowledgeAll(0);
  gate_.AcknowledgeAll(1);
  Poll(20);
  EXPECT_EQ(LiveExtents(), 4u);
  EXPECT_GT(extents, 100u);
  EXPECT_EQ(Put(0, "key 0", "fits").code, 0);
}

TEST_F(HomeTest, ANodeIsNudgedOnceForWhatItOwes) {
  Put(0, "key", "1");
  Get(1, "key");
  Put(0, "key", "2");
  for (int i = 0; i < 3; ++i) home_->NudgeOwing();
  EXPECT_EQ(gate_.node(1).nudges, 1);
  Get(1, "key");
  Put(0, "key", "3");
  home_->NudgeOwing();
  EXPECT_EQ(gate_.node(1).nudges, 2);
}

TEST_F(HomeTest, WhatCanNeverFitIsToldApartFromAFullPool) {
  const Reply reply = Ask(0, Staged(Op::kPut, "key", std::uint64_t{1} << 40, fabric::kAnyVersion));
  // Not staged yet, not even the key: the home has not looked at the size.
  EXPECT_EQ(reply.reason, Reason::kBadRequest);
  Stage(0, 0, "key", "");
  const Reply large = Ask(0, Staged(Op::kPut, "key", std::uint64_t{1} << 40, fabric::kAnyVersion));
  EXPECT_EQ(large.reason, Reason::kObjectTooLarge);
  EXPECT_EQ(LiveExtents(), 0u);
}

// --- The death of a node.

TEST_F(HomeTest, ADeadNodeIsNoSharerOwesNothingAndIsReportedOnce) {
  for (int i = 0; i < 3000; ++i) {
    const std::string key = "key " + std::to_string(i);
    Put(0, key, "v");
    Get(1, key);
  }
  Put(0, "key 0", "w");  // node 1 owes
  Get(1, "key 1");
  home_->ForgetNode(1);
  // At once, also where the directory still lists it.
  EXPECT_EQ(Put(0, "key 2", "w").code, 0);
  EXPECT_EQ(gate_.node(1).issued, 1u);
  EXPECT_TRUE(gate_.forgotten().empty());
  Poll(5);
  EXPECT_EQ(gate_.forgotten(), (std::vector<NodeId>{1}));
  for (int i = 0; i < 3000; ++i) {
    const NodeSet sharers = home_->otc().sharers(fabric::KeyHash("key " + std::to_string(i)));
    ASSERT_EQ(sharers, NodeSet::Of(0));
  }
  gate_.AcknowledgeAll(0);
  Poll();
  EXPECT_EQ(LiveExtents(), 3000u);
  gate_.node(1) = {};
  home_->AttachNode(1);
  EXPECT_EQ(Get(1, "key 0").code, 0);
  Put(0, "key 0", "x");
  EXPECT_EQ(gate_.node(1).records.size(), 1u);
}

TEST_F(HomeTest, AHalfMadePutDiesWithItsNode) {
  const std::string value(100'000, 'v');
  Stage(1, 3, "key", value.substr(0, 50'000));
  Step(1, Staged(Op::kPut, "key", value.size(), fabric::kAnyVersion), 3);
  Poll(3);
  EXPECT_EQ(LiveExtents(), 1u);
  home_->ForgetNode(1);
  Stage(1, 3, "key", value);
  Poll(5);
  EXPECT_TRUE(gate_.answers().empty());
  EXPECT_EQ(Visible("key"), 0u);
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(HomeTest, WhatADeadNodeWroteStays) {
  const Version version = Put(1, "key", "value").version;
  home_->ForgetNode(1);
  Poll(5);
  EXPECT_EQ(Get(0, "key").version, version);
  EXPECT_EQ(home_->otc().sharers(fabric::KeyHash("key")), NodeSet::Of(0));
}

// --- Drafts.

class TrustedHomeTest : public HomeFixture {
 protected:
  TrustedHomeTest() : HomeFixture("trusted") {}
};

TEST_F(HomeTest, AnIsolatedPoolHasNoDrafts) {
  EXPECT_EQ(Ask(0, Inline(Op::kCreate, "key", "", 100)).reason, Reason::kNotTrusted);
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(TrustedHomeTest, ADraftIsVisibleWhenItIsCommitted) {
  Put(1, "key", "old");
  const Reply created = Ask(0, Inline(Op::kCreate, "key", "", 3));
  ASSERT_EQ(created.code, 0);
  auto* header = reinterpret_cast<fabric::ExtentHeader*>(pool_->data() + created.extent_offset);
  std::memcpy(pool_->data() + created.extent_offset + header->payload_offset, "new", 3);
  EXPECT_EQ(Payload(Get(2, "key").extent_offset), "old");
  const Reply committed = Ask(0, Inline(Op::kCommit, "", "", created.extent_offset));
  EXPECT_EQ(committed.code, 0);
  EXPECT_EQ(committed.extent_offset, created.extent_offset);
  EXPECT_EQ(Payload(Get(2, "key").extent_offset), "new");
  EXPECT_EQ(gate_.node(1).records[1].version, committed.version);
  EXPECT_EQ(Ask(0, Inline(Op::kCommit, "", "", created.extent_offset)).reason,
            Reason::kNoSuchDraft);
}

TEST_F(TrustedHomeTest, ADraftWhoseHeaderWasOverwrittenIsRefused) {
  const auto header_of = [&](std::uint64_t extent) {
    return reinterpret_cast<fabric::ExtentHeader*>(pool_->data() + extent);
  };
  using Damage = std::function<void(fabric::ExtentHeader*)>;
  const std::vector<Damage> damages = {
      [](auto* header) { header->payload_bytes = 1 << 20; },
      [](auto* header) { header->payload_bytes = ~std::uint64_t{0}; },
      [](auto* header) { header->key_bytes = 0xffff; },
      [](auto* header) { header->key_bytes = 2; },
      [](auto* header) { header->key_hash ^= 1; },
      [](auto* header) { header->payload_offset = 0; },
      [](auto* header) { *reinterpret_cast<char*>(header + 1) = 'x'; },
      [](auto* header) { std::memset(header, 0xff, sizeof(*header)); },
  };
  for (const Damage& damage : damages) {
    const std::uint64_t draft = Ask(0, Inline(Op::kCreate, "key", "", 3)).extent_offset;
    damage(header_of(draft));
    EXPECT_EQ(Ask(0, Inline(Op::kCommit, "", "", draft)).reason, Reason::kBadRequest);
  }
  for (const Damage& damage : damages) {  // and an abandoned one is released whole
    const std::uint64_t draft = Ask(0, Inline(Op::kCreate, "key", "", 3)).extent_offset;
    damage(header_of(draft));
    EXPECT_TRUE(Step(0, Inline(Op::kAbort, "", "", draft)));
  }
  EXPECT_EQ(LiveExtents(), 0u);
  EXPECT_EQ(Visible("key"), 0u);
}

// Where a payload belongs is the home's own knowledge: a header that says otherwise would lead its
// copy anywhere in the memory server.
TEST_F(TrustedHomeTest, APayloadGoesWhereItBelongsWhateverItsHeaderSays) {
  const std::string value(100'000, 'v');
  Put(1, "neighbour", "whole");
  const Request put = Staged(Op::kPut, "key", value.size(), fabric::kAnyVersion);
  auto& lane = gate_.node(0).lanes[0];
  std::copy_n(reinterpret_cast<const std::byte*>("key"), 3, lane.staging.begin());
  lane.staged_bytes = fabric::StagedPayloadOffset(3);
  Step(0, put);
  // The upload has begun; its extent is the one that is not named by the index.
  for (std::uint64_t offset = pool_->superblock()->heap_offset;
       offset < pool_->superblock()->region_bytes; offset += 64) {
    auto* header = reinterpret_cast<fabric::ExtentHeader*>(pool_->data() + offset);
    if (header->payload_bytes == value.size()) header->payload_offset = 0xffff'fff0;
  }
  for (int turn = 0; turn < 10; ++turn) {
    Stage(0, 0, "key", value);
    Poll();
  }
  EXPECT_EQ(gate_.Take(0, 0)->reply.reason, Reason::kBadRequest) << "its header was overwritten";
  EXPECT_EQ(Payload(Get(1, "neighbour").extent_offset), "whole");
  EXPECT_EQ(LiveExtents(), 1u);
}

TEST_F(TrustedHomeTest, AnOverwrittenObjectHarmsNoOther) {
  Put(0, "other", "whole");
  for (int i = 0; i < 64; ++i) {
    const Reply put = Put(0, "key", "value");
    ASSERT_EQ(put.code, 0);
    auto* bytes = reinterpret_cast<unsigned char*>(pool_->data() + put.extent_offset);
    for (std::size_t at = 0; at < sizeof(fabric::ExtentHeader); ++at) {
      bytes[at] = static_cast<unsigned char>(i * 37 + static_cast<int>(at) * 11);
    }
    Get(1, "key");
    Delete(1, "key");
    gate_.AcknowledgeAll(0);
    gate_.AcknowledgeAll(1);
    Poll();
  }
  EXPECT_EQ(Payload(Get(1, "other").extent_offset), "whole");
}

TEST_F(TrustedHomeTest, ADraftBelongsToItsNodeAndGoesWithIt) {
  const std::uint64_t draft = Ask(0, Inline(Op::kCreate, "key", "", 3)).extent_offset;
  EXPECT_EQ(Ask(1, Inline(Op::kCommit, "", "", draft)).reason, Reason::kNoSuchDraft);
  EXPECT_FALSE(Step(1, Inline(Op::kAbort, "", "", draft)));
  EXPECT_FALSE(Step(0, Inline(Op::kRelease, "", "", draft)));
  EXPECT_EQ(LiveExtents(), 1u);
  const std::uint64_t other = Ask(0, Inline(Op::kCreate, "key", "", 3)).extent_offset;
  EXPECT_TRUE(Step(0, Inline(Op::kAbort, "", "", other)));
  EXPECT_FALSE(Step(0, Inline(Op::kAbort, "", "", other)));
  EXPECT_EQ(LiveExtents(), 1u);
  home_->ForgetNode(0);
  EXPECT_EQ(LiveExtents(), 0u);
  EXPECT_EQ(Ask(1, Inline(Op::kCreate, "key", "", ~std::uint64_t{0})).reason,
            Reason::kObjectTooLarge);
  EXPECT_TRUE(gate_.answers().empty()) << "a request without a reply was answered";
}

}  // namespace
}  // namespace apta::daemon
