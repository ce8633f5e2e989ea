// Commit groups at homes: what nodes keep back, one step in one shard, and several homes whose mail
// a test delivers.

#include "daemon/group_commits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "daemon/recovery.h"
#include "fabric/group_message.h"
#include "fmt/format.h"
#include "tests/daemon/home_fixture.h"

namespace apta::daemon {
namespace {

using absl::StatusCode;
using fabric::kAnyVersion;
using fabric::Op;
using fabric::Reason;

// Several homes of one pool; one gate for all, as nodes have one port for all.
class GroupFixture : public HomeFixture {
 protected:
  explicit GroupFixture(const PoolOptions& options = {.bytes = 16 << 20}, int shards = 1)
      : HomeFixture(options, shards) {
    for (int shard = 1; shard < shards; ++shard) {
      gates_.push_back(std::make_unique<FakeGate>());
      others_.push_back(std::make_unique<Home>(pool_.get(), shard, false, gates_.back().get()));
      for (NodeId node = 0; node < kNodes; ++node) others_.back()->AttachNode(node);
    }
  }
  Home& home(int shard) {
    return shard == 0 ? *home_ : *others_[static_cast<std::size_t>(shard) - 1];
  }
  int ShardOf(std::string_view key) const {
    return static_cast<int>(pool_->share(0).index.view().ShardOf(fabric::KeyHash(key)));
  }
  // A key of the shard.
  std::string KeyOf(int shard, const std::string& name) const {
    for (int i = 0;; ++i) {
      std::string key = name + std::to_string(i);
      if (ShardOf(key) == shard) return key;
    }
  }
  bool StepAt(int shard, NodeId node, Request request, std::uint16_t lane = 0) {
    request.lane = fabric::IsOneWay(request.op) ? fabric::kNoLane : lane;
    request.request_id = ++last_request_id_;
    return home(shard).Step(node, request, now_ns_);
  }
  FakeGate& gate(int shard) {
    return shard == 0 ? gate_ : *gates_[static_cast<std::size_t>(shard) - 1];
  }
  std::optional<Reply> ReplyTo(NodeId node, std::uint16_t lane) {
    for (int shard = 0; shard < pool_->shards(); ++shard) {
      if (const auto answer = gate(shard).Take(node, lane)) return answer->reply;
    }
    return std::nullopt;
  }
  // A home that has sent something, -1 = none.
  int Sender(std::size_t first = 0) {
    const auto shards = static_cast<std::size_t>(pool_->shards());
    for (std::size_t i = 0; i < shards; ++i) {
      const auto shard = static_cast<int>((first + i) % shards);
      if (!gate(shard).mail().empty()) return shard;
    }
    return -1;
  }
  GroupWrite Draft(NodeId node, std::string_view key, std::string_view value,
                   std::uint64_t if_version = kAnyVersion) {
    Request request = Inline(Op::kPut, key, value, kAnyVersion);
    request.flags = fabric::kKeepBack;
    StepAt(ShardOf(key), node, request);
    const auto reply = ReplyTo(node, 0);
    EXPECT_TRUE(reply && reply->code == 0);
    return {
        .key_hash = fabric::KeyHash(key), .draft = reply->extent_offset, .if_version = if_version};
  }
  static GroupWrite Deletion(std::string_view key, std::uint64_t if_version = kAnyVersion) {
    return {.key_hash = fabric::KeyHash(key), .if_version = if_version, .key = std::string(key)};
  }
  static Request GroupRequest(const std::vector<GroupWrite>& writes, Op op = Op::kCommitGroup,
                              std::uint64_t argument = 0) {
    std::vector<std::byte> payload;
    for (const GroupWrite& write : writes) fabric::AppendGroupWrite(write, &payload);
    EXPECT_LE(payload.size(), fabric::kInlineBytes);
    return Inline(op, "", {reinterpret_cast<const char*>(payload.data()), payload.size()},
                  argument);
  }
  // What it was answered, after all mail.
  Reply Commit(NodeId node, const std::vector<GroupWrite>& writes, int coordinator = 0) {
    StepAt(coordinator, node, GroupRequest(writes), 5);
    DeliverAll();
    const auto reply = ReplyTo(node, 5);
    EXPECT_TRUE(reply.has_value()) << "no answer";
    return reply.value_or(Reply{.code = 99});
  }
  // What a home has sent first.
  void Deliver(std::size_t sender = 0) {
    FakeGate& from = gate(Sender(sender));
    auto [shard, message] = std::move(from.mail().front());
    from.mail().pop_front();
    home(shard).OnGroupMessage(std::move(message), now_ns_);
  }
  void DeliverAll() {
    while (Sender() >= 0) Deliver();
  }
  Version VersionOf(std::string_view key) {
    StepAt(ShardOf(key), 3, Inline(Op::kGet, key), 9);
    const auto reply = ReplyTo(3, 9);
    return reply && reply->code == 0 ? reply->version : 0;
  }
  std::uint64_t AllLiveExtents() {
    std::uint64_t live = 0;
    for (int shard = 0; shard < pool_->shards(); ++shard) {
      live += pool_->share(shard).objects.live_extents();
    }
    return live;
  }
  std::uint64_t BadRequests() {
    std::uint64_t bad = 0;
    for (int shard = 0; shard < pool_->shards(); ++shard)
      bad += home(shard).counters().bad_requests;
    return bad;
  }

  std::vector<std::unique_ptr<FakeGate>> gates_;
  std::vector<std::unique_ptr<Home>> others_;
};

class GroupCommitsTest : public GroupFixture {};

TEST_F(GroupCommitsTest, InOneShardItIsOneStep) {
  const Version a = Put(0, "a", "old").version;
  Get(1, "a");
  Get(1, "gone");
  Put(1, "gone", "old");
  const std::vector<GroupWrite> writes = {Draft(0, "a", "new", a), Draft(0, "b", "new", 0),
                                          Deletion("gone"), Deletion("never there")};
  EXPECT_EQ(Visible("a"), a) << "kept back";
  EXPECT_EQ(Visible("b"), 0u);
  const std::uint64_t issued = gate_.node(1).issued;
  bool was_visible = false;
  gate_.on_issue = [&](NodeId, const fabric::Invalidation&) {
    was_visible = was_visible || Visible("a") != a || Visible("b") != 0;
  };
  ASSERT_TRUE(Step(0, GroupRequest(writes)));
  const Reply reply = Answer(0, 0);
  EXPECT_EQ(reply.code, 0);
  EXPECT_FALSE(was_visible) << "all invalidations come before the first slot";
  EXPECT_EQ(gate_.node(1).issued, issued + 2) << "of a and of gone";
  EXPECT_EQ(Visible("a"), reply.version);
  EXPECT_EQ(Visible("b"), reply.version);
  EXPECT_EQ(Visible("gone"), 0u);
  EXPECT_EQ(reply.value[0] & fabric::kUntracked, 0u);
  for (NodeId node = 0; node < kNodes; ++node) gate_.AcknowledgeAll(node);
  Poll(3);
  EXPECT_EQ(LiveExtents(), 2u);
  EXPECT_EQ(pool_->superblock()->groups_begun, pool_->superblock()->groups_ended);
}

TEST_F(GroupCommitsTest, AConditionThatDoesNotHoldLeavesNothing) {
  const Version a = Put(0, "a", "old").version;
  for (int failing = 0; failing < 2; ++failing) {
    const Reply reply = Commit(0, {Draft(0, "new", "x", failing == 0 ? 9 : 0),
                                   Draft(0, "a", "x", failing == 0 ? a : a + 1)});
    EXPECT_EQ(CodeOf(reply), StatusCode::kFailedPrecondition);
    EXPECT_EQ(reply.reason, Reason::kVersionMoved);
    EXPECT_EQ(reply.value[0], failing == 0 ? 0 : a);
    EXPECT_EQ(reply.value[1], failing == 0 ? 0u : 1u) << "which of them";
    EXPECT_EQ(Visible("a"), a);
    EXPECT_EQ(Visible("new"), 0u);
    EXPECT_EQ(LiveExtents(), 1u);
    EXPECT_EQ(pool_->share(0).live_objects, 1u);
  }
}

TEST_F(GroupCommitsTest, WhatADeadNodeKeptBackGoesWithIt) {
  Draft(0, "a", "x");
  Draft(0, "b", "y");
  EXPECT_EQ(LiveExtents(), 2u);
  home_->ForgetNode(0);
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(GroupCommitsTest, ADraftIsAbortedOnceByItsNode) {
  const GroupWrite draft = Draft(0, "a", "x");
  EXPECT_FALSE(Step(1, Inline(Op::kAbort, "", "", draft.draft))) << "another's";
  EXPECT_TRUE(Step(0, Inline(Op::kAbort, "", "", draft.draft)));
  EXPECT_FALSE(Step(0, Inline(Op::kAbort, "", "", draft.draft)));
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(GroupCommitsTest, GarbageIsRefusedAndCounted) {
  const GroupWrite mine = Draft(0, "a", "x");
  const GroupWrite others = Draft(1, "b", "x");
  const std::uint64_t object = Put(0, "c", "x").extent_offset;
  const auto refused = [&](const std::vector<GroupWrite>& writes, StatusCode code) {
    Step(0, GroupRequest(writes), 5);
    EXPECT_EQ(CodeOf(Answer(0, 5)), code);
    EXPECT_EQ(Visible("a"), 0u);
    EXPECT_EQ(Visible("b"), 0u);
  };
  std::uint64_t bad = BadRequests();
  // Not a sequence of entries.
  Step(0, Inline(Op::kCommitGroup, "", "seven b"), 5);
  EXPECT_EQ(CodeOf(Answer(0, 5)), StatusCode::kInvalidArgument);
  // Twice the same key; a key that is none, or not the hash's.
  refused({mine, mine}, StatusCode::kInvalidArgument);
  refused({mine, Deletion("a")}, StatusCode::kInvalidArgument);
  refused({Deletion(std::string("\0", 1))}, StatusCode::kInvalidArgument);
  GroupWrite wrong_hash = Deletion("c");
  ++wrong_hash.key_hash;
  refused({wrong_hash}, StatusCode::kInvalidArgument);
  EXPECT_EQ(BadRequests(), bad + 5);
  // More bytes than any group has.
  Request huge = Staged(Op::kCommitGroup, "", fabric::kMaxGroupBytes + 1);
  Step(0, huge, 5);
  EXPECT_EQ(CodeOf(Answer(0, 5)), StatusCode::kInvalidArgument);
  // Drafts of somebody else, of another key, of nobody, and objects.
  refused({others}, StatusCode::kFailedPrecondition);
  GroupWrite of_other_key = mine;
  ++of_other_key.key_hash;
  refused({of_other_key}, StatusCode::kFailedPrecondition);
  for (const std::uint64_t draft : {object, std::uint64_t{64}, ~std::uint64_t{0}}) {
    refused({{.key_hash = fabric::KeyHash("a"), .draft = draft}}, StatusCode::kFailedPrecondition);
  }
  EXPECT_EQ(Visible("c"), 1u);
  EXPECT_EQ(CodeOf(Commit(1, {others})), StatusCode::kOk) << "its own is untouched";
}

TEST_F(GroupCommitsTest, WhatANodeKeepsBackIsBounded) {
  // A quota of half the pool, in drafts of 1 MiB.
  Request request = Staged(Op::kPut, "a", 1 << 20, kAnyVersion);
  request.flags |= fabric::kKeepBack;
  int kept = 0;
  for (int i = 0; i < 20; ++i) {
    ResetLane(0, 7);
    Stage(0, 7, "a", std::string(1 << 20, 'x'));
    Step(0, request, 7);
    Poll(40);
    const auto reply = ReplyTo(0, 7);
    ASSERT_TRUE(reply);
    if (reply->code == 0) {
      ++kept;
      continue;
    }
    EXPECT_EQ(CodeOf(*reply), StatusCode::kResourceExhausted);
    EXPECT_EQ(reply->reason, Reason::kKeptBackFull);
  }
  EXPECT_GE(kept, 4);
  EXPECT_LE(kept, 8);
  EXPECT_EQ(Put(1, "b", "x").code, 0) << "others have room";
  EXPECT_EQ(LiveExtents(), static_cast<std::uint64_t>(kept) + 1);
}

class SyncGroupTest : public GroupFixture {
 protected:
  SyncGroupTest() : GroupFixture(PoolOptions{.bytes = 16 << 20, .coherence = "sync"}) {}
};

TEST_F(SyncGroupTest, ItWaitsForAllAcknowledgementsAndOthersWaitBehindIt) {
  const Version a = Put(0, "a", "old").version;
  const Version b = Put(0, "b", "old").version;
  for (NodeId node = 0; node < kNodes; ++node) gate_.AcknowledgeAll(node);
  Poll();
  Get(1, "a");
  Get(2, "b");
  Step(0, GroupRequest({Draft(0, "a", "new"), Draft(0, "b", "new")}), 5);
  Step(3, Inline(Op::kGet, "a"), 1);
  EXPECT_FALSE(ReplyTo(0, 5));
  EXPECT_FALSE(ReplyTo(3, 1)) << "asked for a busy key";
  gate_.AcknowledgeAll(1);
  Poll();
  EXPECT_FALSE(ReplyTo(0, 5));
  EXPECT_EQ(Visible("a"), a);
  gate_.AcknowledgeAll(2);
  Poll();
  const auto reply = ReplyTo(0, 5);
  ASSERT_TRUE(reply);
  EXPECT_EQ(Visible("a"), reply->version);
  EXPECT_EQ(Visible("b"), reply->version);
  EXPECT_GT(reply->version, b);
  const auto got = ReplyTo(3, 1);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->version, reply->version);
  gate_.AcknowledgeAll(0);
  Poll(3);
  EXPECT_EQ(LiveExtents(), 2u);
}

class ShardedGroupTest : public GroupFixture {
 protected:
  static constexpr int kShards = 3;
  ShardedGroupTest() : GroupFixture(PoolOptions{.bytes = 24 << 20}, kShards) {}
};

TEST_F(ShardedGroupTest, NoShardFlipsBeforeAllHavePublished) {
  std::vector<std::string> keys;
  std::vector<GroupWrite> writes;
  for (int shard = 0; shard < kShards; ++shard) {
    keys.push_back(KeyOf(shard, "key"));
    StepAt(shard, 1, Inline(Op::kPut, keys.back(), "old", kAnyVersion));  // node 1 shares it
    ReplyTo(1, 0);
    writes.push_back(Draft(0, keys.back(), "new"));
  }
  StepAt(2, 0, GroupRequest(writes), 5);  // any home may coordinate
  const auto visible = [&] {
    int count = 0;
    for (const std::string& key : keys) {
      const auto entry = pool_->share(0).index.view().LocateUnregistered(fabric::KeyHash(key), key);
      count += entry && entry->version > kShards;
    }
    return count;
  };
  std::uint64_t issued = 0;
  for (int shard = 0; shard < kShards; ++shard) {
    gate(shard).on_issue = [&](NodeId, const fabric::Invalidation&) { ++issued; };
  }
  while (Sender() >= 0) {
    EXPECT_TRUE(visible() == 0 || issued == kShards) << "visible before all were invalidated";
    const bool is_quiet = pool_->share(0).index.view().QuietGroups().has_value();
    EXPECT_TRUE(visible() == 0 || visible() == kShards || !is_quiet);
    Deliver();
  }
  EXPECT_EQ(visible(), kShards);
  const auto reply = ReplyTo(0, 5);
  ASSERT_TRUE(reply);
  for (const std::string& key : keys) EXPECT_EQ(VersionOf(key), reply->version);
}

TEST_F(ShardedGroupTest, RequestsForItsKeysWaitFromPrepareToFlip) {
  const std::string first = KeyOf(0, "first");
  const std::string last = KeyOf(2, "last");
  StepAt(0, 0, GroupRequest({Draft(0, first, "x"), Draft(0, last, "x")}), 5);
  // Prepared at home 0 alone.
  StepAt(0, 1, Inline(Op::kGet, first), 1);
  StepAt(0, 2, Inline(Op::kPut, first, "later", kAnyVersion), 2);
  EXPECT_FALSE(ReplyTo(1, 1));
  EXPECT_FALSE(ReplyTo(2, 2));
  StepAt(0, 1, Inline(Op::kPut, KeyOf(0, "other"), "x", kAnyVersion), 3);
  EXPECT_TRUE(ReplyTo(1, 3)) << "another key does not wait";
  DeliverAll();
  const auto committed = ReplyTo(0, 5);
  const auto got = ReplyTo(1, 1);
  const auto put = ReplyTo(2, 2);
  ASSERT_TRUE(committed && got && put);
  EXPECT_EQ(got->version, committed->version);
  EXPECT_GT(put->version, committed->version);
  EXPECT_EQ(VersionOf(last), committed->version);
}

TEST_F(ShardedGroupTest, OneRefusalUndoesWhatOthersHavePrepared) {
  const std::string first = KeyOf(0, "first");
  const std::string last = KeyOf(2, "last");
  const Reply reply = Commit(0, {Draft(0, first, "x"), Draft(0, last, "x", 5)});
  EXPECT_EQ(reply.reason, Reason::kVersionMoved);
  EXPECT_EQ(reply.value[1], 1u);
  EXPECT_EQ(VersionOf(first), 0u);
  EXPECT_EQ(AllLiveExtents(), 0u);
  EXPECT_EQ(Commit(0, {Draft(0, first, "x"), Draft(0, last, "x", 0)}).code, 0)
      << "its keys are free again";
}

TEST_F(ShardedGroupTest, ANodeThatDiesBeforeAllIsPreparedTakesItsGroupWithIt) {
  const std::string first = KeyOf(0, "first");
  const std::string last = KeyOf(2, "last");
  StepAt(0, 0, GroupRequest({Draft(0, first, "x"), Draft(0, last, "x")}), 5);
  for (int shard = 0; shard < kShards; ++shard) {
    home(shard).ForgetNode(0);
    home(shard).AttachNode(0);  // another process, in the same slot, with a draft of its own
  }
  DeliverAll();
  EXPECT_FALSE(ReplyTo(0, 5)) << "whoever has that lane now did not ask";
  EXPECT_EQ(VersionOf(first), 0u);
  EXPECT_EQ(VersionOf(last), 0u);
  EXPECT_EQ(AllLiveExtents(), 0u);
  EXPECT_EQ(Commit(0, {Draft(0, first, "y")}).code, 0) << "its keys are free again";
}

TEST_F(ShardedGroupTest, WhatIsPreparedEverywhereCommitsWithoutItsNode) {
  const std::string first = KeyOf(0, "first");
  const std::string last = KeyOf(2, "last");
  StepAt(0, 0, GroupRequest({Draft(0, first, "x"), Draft(0, last, "x")}), 5);
  Deliver();  // prepared at home 2
  for (int shard = 0; shard < kShards; ++shard) home(shard).ForgetNode(0);
  DeliverAll();
  EXPECT_NE(VersionOf(first), 0u);
  EXPECT_EQ(VersionOf(first), VersionOf(last));
  EXPECT_EQ(AllLiveExtents(), 2u);
  for (const std::string& key : {first, last}) {
    const NodeSet sharers = home(ShardOf(key)).otc().sharers(fabric::KeyHash(key));
    EXPECT_FALSE(sharers.Contains(0)) << "the dead share nothing";
  }
}

// Groups of random keys, coordinated anywhere, their mail delivered in any order that keeps that of
// each pair of homes; nodes that die. All end, and each is whole or not there.
TEST_F(ShardedGroupTest, HoweverTheyMeetAllEndAndEachIsWhole) {
  std::mt19937 random(7);
  std::vector<std::string> keys;
  for (int i = 0; i < 6; ++i) keys.push_back(KeyOf(i % kShards, fmt::format("k{}-", i)));
  for (int round = 0; round < 200; ++round) {
    std::vector<std::vector<std::size_t>> groups;
    for (NodeId node = 0; node < 3; ++node) {
      std::vector<std::size_t> members;
      std::vector<GroupWrite> writes;
      for (std::size_t i = 0; i < keys.size() && writes.size() < 6; ++i) {
        if (random() % 2 == 0) continue;
        members.push_back(i);
        writes.push_back(Draft(node, keys[i], fmt::format("{} of {}", round, node)));
      }
      groups.push_back(members);
      StepAt(static_cast<int>(random() % kShards), node, GroupRequest(writes), 5);
    }
    const bool dies = random() % 4 == 0;
    int steps = 0;
    while (Sender() >= 0) {
      Deliver(random() % kShards);
      if (dies && ++steps == 3) {
        for (int each = 0; each < kShards; ++each) {
          home(each).ForgetNode(2);
          home(each).Poll(now_ns_);
          home(each).AttachNode(2);
        }
      }
    }
    std::map<Version, int> written;
    for (const std::string& key : keys) {
      if (const Version version = VersionOf(key); version != 0) ++written[version];
    }
    for (NodeId node = 0; node < 3; ++node) {
      const auto reply = ReplyTo(node, 5);
      if (node == 2 && dies) continue;
      ASSERT_TRUE(reply.has_value()) << "round " << round << ": waits for ever";
      ASSERT_EQ(reply->code, 0);
    }
    for (int shard = 0; shard < kShards; ++shard) {
      for (NodeId node = 0; node < kNodes; ++node) gate(shard).AcknowledgeAll(node);
      for (int i = 0; i < 3; ++i) home(shard).Poll(now_ns_);
    }
    ASSERT_EQ(AllLiveExtents(),
              std::accumulate(written.begin(), written.end(), 0ul, [](auto sum, const auto& entry) {
                return sum + static_cast<unsigned>(entry.second);
              }));
  }
}

// Killed between any two messages: the region as the next memory server finds it.
class RecordedGroupTest : public GroupFixture {
 protected:
  RecordedGroupTest() : GroupFixture({.bytes = 16 << 20, .durability = "region"}, 3) {
    const std::uint64_t bytes = pool_->region().size_bytes();
    image_.reset(static_cast<std::byte*>(aligned_alloc(fabric::kHugePageBytes, bytes)));
  }
  // What recovery finds, by key.
  std::map<std::string, Version> Recovered(const std::vector<std::string>& keys) {
    std::memcpy(image_.get(), pool_->data(), pool_->region().size_bytes());
    const auto shares = MakeShares(image_.get());
    const Recovery found = Recover(image_.get(), shares, true);
    EXPECT_EQ(found.damaged, 0u) << (found.findings.empty() ? "" : found.findings.front());
    EXPECT_GE(found.last_version, pool_->superblock()->last_version.load());
    std::map<std::string, Version> versions;
    for (const std::string& key : keys) {
      const auto entry = shares[0]->index.view().LocateUnregistered(fabric::KeyHash(key), key);
      if (entry) versions[key] = entry->version;
    }
    return versions;
  }

  std::unique_ptr<std::byte, decltype(&free)> image_{nullptr, &free};
};

TEST_F(RecordedGroupTest, AKillBetweenAnyTwoMessagesLeavesAllOfItOrNothing) {
  const std::string a = KeyOf(0, "a"), b = KeyOf(1, "b"), c = KeyOf(2, "c"), d = KeyOf(2, "d");
  const std::vector<std::string> keys = {a, b, c, d};
  for (const std::string& key : {b, d}) {
    StepAt(ShardOf(key), 0, Inline(Op::kPut, key, "old", kAnyVersion));
    DeliverAll();
    ASSERT_TRUE(ReplyTo(0, 0));
  }
  const auto before = Recovered(keys);
  ASSERT_EQ(before.size(), 2u);
  const std::vector<GroupWrite> writes = {Draft(0, a, "new"), Draft(0, b, "new"),
                                          Draft(0, c, "new"), Deletion(d)};
  EXPECT_EQ(Recovered(keys), before);
  StepAt(1, 0, GroupRequest({writes[0], writes[1]}), 5);  // and one behind it for the same key
  StepAt(0, 1, GroupRequest({Draft(1, b, "last"), Deletion(a)}), 6);
  std::set<std::map<std::string, Version>> seen;
  std::size_t sender = 0;
  while (Sender() >= 0) {
    Deliver(sender++);
    const auto found = Recovered(keys);
    EXPECT_TRUE(found == before || (found.contains(a) && found.at(a) == found.at(b)) ||
                (!found.contains(a) && found.at(b) > before.at(b)));
    seen.insert(found);
  }
  EXPECT_GE(seen.size(), 2u);
  EXPECT_EQ(ReplyTo(0, 5)->code, 0);
  EXPECT_EQ(ReplyTo(1, 6)->code, 0);
  EXPECT_EQ(Commit(0, {writes[2], writes[3]}, 0).code, 0);
  const auto after = Recovered(keys);
  EXPECT_TRUE(after.contains(c) && !after.contains(d));
  for (int shard = 0; shard < 3; ++shard) {
    EXPECT_EQ(pool_->superblock()->home[shard].group_intents, 0u);
  }
}

}  // namespace
}  // namespace apta::daemon
