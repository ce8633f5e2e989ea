// A home of a pool with a log: what is answered, visible and deferred before and after a record is
// durable. The test is the log.

#include <gtest/gtest.h>

#include <cerrno>
#include <deque>
#include <string>
#include <vector>

#include "daemon/journal.h"
#include "fabric/group_message.h"
#include "tests/daemon/home_fixture.h"

namespace apta::daemon {
namespace {

using absl::StatusCode;
using fabric::kAnyVersion;
using fabric::Op;
using fabric::Reason;

class TestJournal : public Journal {
 public:
  void Append(LogRecord record) override { records.push_back(std::move(record)); }
  void Applied(int, LogTicket ticket) override { applied.push_back(ticket); }
  LogTotals Totals() const override { return {}; }

  std::deque<LogRecord> records;  // that have no outcome yet
  std::vector<LogTicket> applied;
};

class HomeLogTest : public HomeFixture {
 protected:
  explicit HomeLogTest(const std::string& coherence = "strict")
      : HomeFixture(PoolOptions{.bytes = 16 << 20, .coherence = coherence}, 1, &JournalOf(this)) {}
  // Made before the fixture, which needs it.
  static TestJournal& JournalOf(HomeLogTest*) {
    static TestJournal journal;
    journal = {};
    return journal;
  }
  TestJournal& journal() { return static_cast<TestJournal&>(*pool_->journal()); }

  bool HasAnswer(NodeId node, std::uint16_t lane) {
    for (const FakeGate::Answered& answer : gate_.answers()) {
      if (answer.to.node == node && answer.to.lane == lane) return true;
    }
    return false;
  }
  Reply Taken(NodeId node, std::uint16_t lane) {
    const auto answer = gate_.Take(node, lane);
    EXPECT_TRUE(answer.has_value()) << "no answer";
    return answer ? answer->reply : Reply{.code = 99};
  }
  // The oldest record has become durable, or not.
  void EndOne(int error = 0, bool is_certain = true) {
    ASSERT_FALSE(journal().records.empty());
    const LogTicket ticket = journal().records.front().ticket;
    journal().records.pop_front();
    home_->OnLogged({{.ticket = ticket, .error = error, .is_certain = is_certain}}, now_ns_);
  }
  // When everybody has let go of old versions.
  std::uint64_t LiveExtentsInTheEnd() {
    for (NodeId node = 0; node < kNodes; ++node) gate_.AcknowledgeAll(node);
    Poll(2);
    return LiveExtents();
  }
  Version PutDurably(NodeId node, std::string_view key, std::string_view value) {
    Step(node, Inline(Op::kPut, key, value, kAnyVersion));
    EndOne();
    return Taken(node, 0).version;
  }
};

TEST_F(HomeLogTest, APutIsAnsweredAndVisibleWhenItIsDurable) {
  const Version first = PutDurably(0, "k", "old");
  EXPECT_EQ(journal().applied.size(), 1u);
  Step(0, Inline(Op::kPut, "k", "new", kAnyVersion));
  ASSERT_EQ(journal().records.size(), 1u);
  const LogRecord& record = journal().records.front();
  ASSERT_EQ(record.writes.size(), 1u);
  EXPECT_EQ(record.writes[0].key, "k");
  EXPECT_EQ(AsText(record.writes[0].payload), "new");
  EXPECT_EQ(record.version, first + 1);
  EXPECT_FALSE(HasAnswer(0, 0));
  EXPECT_EQ(Visible("k"), first);
  // Who gets meanwhile does not wait, and is told later.
  const Reply got = Get(1, "k");
  EXPECT_EQ(got.version, first);
  EXPECT_EQ(Payload(got.extent_offset), "old");
  EndOne();
  const Reply put = Taken(0, 0);
  EXPECT_EQ(CodeOf(put), StatusCode::kOk);
  EXPECT_EQ(put.version, first + 1);
  EXPECT_EQ(Visible("k"), first + 1);
  EXPECT_EQ(Payload(put.extent_offset), "new");
  ASSERT_EQ(gate_.node(1).records.size(), 1u);
  EXPECT_EQ(gate_.node(1).records.begin()->second.version, first + 1);
  EXPECT_EQ(journal().applied.size(), 2u);
}

TEST_F(HomeLogTest, ChangesOfOneObjectTakeEffectInOrder) {
  Step(0, Inline(Op::kPut, "k", "1", 0), 0);
  Step(1, Inline(Op::kPut, "k", "2", 0), 1);
  Step(2, Inline(Op::kDelete, "k", "", kAnyVersion), 2);
  Step(0, Inline(Op::kPut, "other", "x", kAnyVersion), 3);
  ASSERT_EQ(journal().records.size(), 2u) << "only what is of another object goes on";
  EndOne();
  EXPECT_EQ(CodeOf(Taken(0, 0)), StatusCode::kOk);
  EXPECT_EQ(Taken(1, 1).reason, Reason::kVersionMoved) << "by what is durable now";
  EXPECT_FALSE(HasAnswer(2, 2));
  ASSERT_EQ(journal().records.size(), 2u);
  EXPECT_TRUE(journal().records.back().writes.front().is_delete);
  EndOne();
  EndOne();
  EXPECT_EQ(CodeOf(Taken(2, 2)), StatusCode::kOk);
  EXPECT_EQ(CodeOf(Taken(0, 3)), StatusCode::kOk);
  EXPECT_EQ(Visible("k"), 0u);
  EXPECT_EQ(LiveExtentsInTheEnd(), 1u);
}

TEST_F(HomeLogTest, WhatTheLogRefusesHasNotHappened) {
  const Version kept = PutDurably(0, "k", "kept");
  Step(0, Inline(Op::kPut, "k", "new", kAnyVersion), 0);
  Step(1, Inline(Op::kPut, "new", "x", kAnyVersion), 1);
  Step(2, Inline(Op::kPut, "k", "behind", kAnyVersion), 2);
  EndOne(EIO, /*is_certain=*/false);
  EndOne(ENOSPC);
  const Reply unknown = Taken(0, 0);
  EXPECT_EQ(CodeOf(unknown), StatusCode::kUnavailable);
  EXPECT_EQ(unknown.reason, Reason::kLogFailed);
  const Reply full = Taken(1, 1);
  EXPECT_EQ(CodeOf(full), StatusCode::kResourceExhausted);
  EXPECT_EQ(full.value[0], static_cast<std::uint64_t>(ENOSPC));
  EXPECT_EQ(Visible("k"), kept);
  EXPECT_EQ(Visible("new"), 0u);
  ASSERT_EQ(journal().records.size(), 1u) << "the one behind has its turn";
  EndOne();
  EXPECT_GT(Taken(2, 2).version, kept);
  EXPECT_EQ(LiveExtentsInTheEnd(), 1u);
}

TEST_F(HomeLogTest, WhatANodeHadAskedForIsMadeWhenTheNodeIsGone) {
  Step(0, Inline(Op::kPut, "k", "last", kAnyVersion));
  home_->ForgetNode(0);
  Poll(10);
  EndOne();
  EXPECT_FALSE(HasAnswer(0, 0));
  EXPECT_NE(Visible("k"), 0u);
  // It is nobody's copy.
  EXPECT_EQ(CodeOf(Get(1, "k")), StatusCode::kOk);
  EXPECT_EQ(Ask(1, Inline(Op::kStat, "k")).value[1], 1u);
  EXPECT_EQ(LiveExtentsInTheEnd(), 1u);
}

TEST_F(HomeLogTest, AGroupIsOneRecord) {
  PutDurably(0, "gone", "x");
  std::vector<std::byte> payload;
  for (const char* key : {"a", "b"}) {
    Request request = Inline(Op::kPut, key, "grouped", kAnyVersion);
    request.flags |= fabric::kKeepBack;
    const Reply draft = Ask(0, request);
    fabric::AppendGroupWrite(
        {.key_hash = fabric::KeyHash(key), .draft = draft.extent_offset, .key = {}}, &payload);
  }
  fabric::AppendGroupWrite({.key_hash = fabric::KeyHash("gone"), .key = "gone"}, &payload);
  EXPECT_TRUE(journal().records.empty()) << "a draft is nothing yet";
  Step(0, Inline(Op::kCommitGroup, "", AsText(payload)));
  ASSERT_EQ(journal().records.size(), 1u);
  EXPECT_EQ(journal().records.front().writes.size(), 3u);
  EXPECT_EQ(Visible("a"), 0u);
  EndOne();
  const Reply reply = Taken(0, 0);
  EXPECT_EQ(Visible("a"), reply.version);
  EXPECT_EQ(Visible("b"), reply.version);
  EXPECT_EQ(Visible("gone"), 0u);
}

class HomeLogSyncTest : public HomeLogTest {
 protected:
  HomeLogSyncTest() : HomeLogTest("sync") {}
};

TEST_F(HomeLogSyncTest, InModeSyncSharersAreAskedWhenItIsDurable) {
  PutDurably(0, "k", "old");
  EXPECT_EQ(CodeOf(Get(1, "k")), StatusCode::kOk);
  Step(0, Inline(Op::kPut, "k", "new", kAnyVersion));
  EXPECT_TRUE(gate_.node(1).records.empty());
  EndOne();
  EXPECT_EQ(gate_.node(1).records.size(), 1u);
  EXPECT_FALSE(HasAnswer(0, 0)) << "the sharer has not acknowledged";
  Step(2, Inline(Op::kGet, "k"), 2);
  EXPECT_FALSE(HasAnswer(2, 2)) << "gets wait from there on";
  EXPECT_EQ(journal().applied.size(), 1u);
  gate_.AcknowledgeAll(1);
  Poll(2);
  const Reply put = Taken(0, 0);
  EXPECT_EQ(CodeOf(put), StatusCode::kOk);
  EXPECT_EQ(Taken(2, 2).version, put.version);
  EXPECT_EQ(journal().applied.size(), 2u);
}

}  // namespace
}  // namespace apta::daemon
