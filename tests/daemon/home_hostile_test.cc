// What a home does with requests and port words that no correct node writes.

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/daemon/home_fixture.h"

namespace apta::daemon {
namespace {

using absl::StatusCode;
using fabric::kAnyVersion;
using fabric::Op;
using fabric::Reason;

class HomeHostileTest : public HomeFixture {
 protected:
  // Refused, counted, and nothing has changed.
  void ExpectRefused(const Request& request, std::uint16_t lane, bool is_answered) {
    const std::uint64_t bad = home_->counters().bad_requests;
    const std::uint64_t extents = LiveExtents();
    EXPECT_FALSE(Step(0, request, lane));
    EXPECT_EQ(home_->counters().bad_requests, bad + 1);
    EXPECT_EQ(LiveExtents(), extents);
    EXPECT_EQ(gate_.answers().size(), is_answered ? 1u : 0u);
    for (const auto& answer : gate_.answers()) {
      EXPECT_EQ(CodeOf(answer.reply), StatusCode::kInvalidArgument);
    }
    gate_.answers().clear();
  }
};

TEST_F(HomeHostileTest, EveryFieldOutOfRangeIsRefused) {
  const auto with = [](Op op, auto&& change) {
    Request request = Inline(op, "key");
    change(&request);
    return request;
  };
  // Where nobody could be answered, nobody is.
  ExpectRefused(with(Op{0}, [](Request*) {}), 0, false);
  ExpectRefused(with(Op{fabric::kMaxOp + 1}, [](Request*) {}), 0, false);
  ExpectRefused(with(Op{255}, [](Request*) {}), 0, false);
  ExpectRefused(Inline(Op::kGet, "key"), fabric::kLanes, false);
  ExpectRefused(Inline(Op::kGet, "key"), fabric::kNoLane, false);
  // Bodies that do not fit, or are not where they are said to be.
  constexpr std::uint64_t kMost = fabric::kMaxPayloadBytes;
  for (const std::uint64_t bytes :
       {std::uint64_t{fabric::kInlineBytes}, std::uint64_t{1} << 47, kMost - 2, kMost}) {
    ExpectRefused(with(Op::kPut, [&](Request* r) { r->payload_bytes = bytes & kMost; }), 1, true);
  }
  ExpectRefused(with(Op::kGet, [](Request* r) { r->key_bytes = 209; }), 1, true);
  ExpectRefused(with(Op::kGet, [](Request* r) { r->key_bytes = 0xffff; }), 1, true);
  ExpectRefused(Staged(Op::kGet, std::string(1025, 'k'), 0), 1, true);
  ExpectRefused(Staged(Op::kPut, "key", (std::uint64_t{1} << 48) + 1), 1, true);
  ExpectRefused(Staged(Op::kPut, "key", 10), 1, true);  // and nothing is staged
  // Keys.
  ExpectRefused(Inline(Op::kGet, ""), 1, true);
  ExpectRefused(Inline(Op::kPut, std::string_view("a\0b", 3)), 1, true);
  ExpectRefused(Inline(Op::kRegister, ""), 1, true);
  for (const Op op : {Op::kCommit, Op::kReady, Op::kUnready, Op::kWait, Op::kPoll}) {
    ExpectRefused(Inline(op, "a key where there is none"), 1, true);
  }
}

TEST_F(HomeHostileTest, OneWayRequestsHaveNeitherLaneNorBodyNorAnswer) {
  for (const Op op : {Op::kAbort, Op::kRelease, Op::kForget}) {
    Request request = Inline(op, "", "", 4096);
    request.lane = 3;
    EXPECT_FALSE(home_->Step(0, request, now_ns_));
    request.lane = fabric::kNoLane;
    request.key_bytes = 1;
    EXPECT_FALSE(home_->Step(0, request, now_ns_));
    request.key_bytes = 0;
    request.payload_bytes = fabric::kMaxPayloadBytes;
    EXPECT_FALSE(home_->Step(0, request, now_ns_));
    request.payload_bytes = 0;
    request.flags = fabric::kBodyStaged;
    EXPECT_FALSE(home_->Step(0, request, now_ns_));
  }
  EXPECT_TRUE(gate_.answers().empty());
  EXPECT_EQ(home_->counters().bad_requests, 12u);
}

TEST_F(HomeHostileTest, WhatWasNeverLentCannotBeReleased) {
  const std::uint64_t extent = Put(1, "key", "value").extent_offset;
  for (const std::uint64_t lie : {extent, std::uint64_t{0}, extent + 64, ~std::uint64_t{0}}) {
    EXPECT_FALSE(Step(0, Inline(Op::kRelease, "", "", lie)));
    EXPECT_FALSE(Step(0, Inline(Op::kAbort, "", "", lie)));
  }
  EXPECT_EQ(Payload(Get(1, "key").extent_offset), "value");
}

TEST_F(HomeHostileTest, ALaneWithABodyOnItsWayTakesNothingElse) {
  Stage(0, 2, "key", std::string(1000, 'v'));
  Step(0, Staged(Op::kPut, "key", 50'000, kAnyVersion), 2);
  ExpectRefused(Inline(Op::kGet, "key"), 2, true);
  ExpectRefused(Staged(Op::kPut, "key", 10, kAnyVersion), 2, true);
  EXPECT_EQ(Ask(0, Inline(Op::kGet, "key"), 3).reason, Reason::kNoSuchObject);
  // Other nodes have lanes of their own.
  EXPECT_EQ(Ask(1, Inline(Op::kPut, "key", "v", kAnyVersion), 2).code, 0);
  Stage(0, 2, "key", std::string(50'000, 'v'));
  Poll();
  EXPECT_EQ(gate_.Take(0, 2)->reply.code, 0);
  EXPECT_EQ(Ask(0, Inline(Op::kGet, "key"), 2).code, 0);  // free again
}

TEST_F(HomeHostileTest, AStagedCounterThatGoesBackwardsOrTooFarIsNotBelieved) {
  const std::string value(300'000, 'v');
  FakeGate::Lane& lane = gate_.node(0).lanes[2];
  Stage(0, 2, "key", value.substr(0, 20'000));
  Step(0, Staged(Op::kPut, "key", value.size(), kAnyVersion), 2);
  const std::uint64_t drained = lane.drained_bytes;
  EXPECT_GT(drained, 0u);
  for (const std::uint64_t less : {drained, drained - 1, std::uint64_t{0}}) {
    lane.staged_bytes = less;
    Poll();
    EXPECT_EQ(lane.drained_bytes, drained);
  }
  // More than the body: what the ring of bytes holds is taken, garbage for garbage, and no more
  // than the body.
  lane.staged_bytes = ~std::uint64_t{0};
  for (int i = 0; i < 100 && gate_.answers().empty(); ++i) {
    const std::uint64_t before = lane.drained_bytes;
    Poll();
    ASSERT_LE(lane.drained_bytes, before + fabric::kHomeCopyBytes);
  }
  const auto answer = gate_.Take(0, 2);
  ASSERT_TRUE(answer);
  EXPECT_EQ(Payload(answer->reply.extent_offset).size(), value.size());
  EXPECT_EQ(LiveExtents(), 1u);
}

// The key is copied out before it is looked at, and not looked at again.
TEST_F(HomeHostileTest, AKeyThatChangesAfterwardsIsTheOneThatWasChecked) {
  Stage(0, 2, "key", std::string(1000, 'v'));
  Step(0, Staged(Op::kPut, "key", 50'000, kAnyVersion), 2);
  gate_.node(0).lanes[2].staging[0] = std::byte{0};
  gate_.node(0).lanes[2].staging[1] = std::byte{'x'};
  gate_.node(0).lanes[2].staged_bytes = ~std::uint64_t{0};
  Poll(3);
  EXPECT_EQ(gate_.Take(0, 2)->reply.code, 0);
  EXPECT_GT(Visible("key"), 0u);
}

class TwoShardsTest : public HomeHostileTest {
 protected:
  TwoShardsTest() : second_(nullptr) {
    auto pool = Pool::Open({.bytes = 16 << 20}, 2);
    pool_of_two_ = *std::move(pool);
    home_.emplace(pool_of_two_.get(), 0, true, &gate_);
    second_ = std::make_unique<Home>(pool_of_two_.get(), 1, false, &gate_);
    for (NodeId node = 0; node < kNodes; ++node) {
      home_->AttachNode(node);
      second_->AttachNode(node);
    }
  }
  ~TwoShardsTest() override {
    home_.reset();
    second_.reset();
  }

  std::unique_ptr<Pool> pool_of_two_;
  std::unique_ptr<Home> second_;
};

TEST_F(TwoShardsTest, AKeyHasOneHome) {
  const fabric::IndexView& view = pool_of_two_->share(0).index.view();
  int served[2] = {0, 0};
  for (int i = 0; i < 100; ++i) {
    const std::string key = "key " + std::to_string(i);
    const std::uint32_t right = view.ShardOf(fabric::KeyHash(key));
    for (const std::uint32_t shard : {0u, 1u}) {
      Home& home = shard == 0 ? *home_ : *second_;
      Request request = Inline(Op::kPut, key, "v", kAnyVersion);
      request.lane = 1;
      EXPECT_EQ(home.Step(0, request, now_ns_), shard == right) << key;
      const Reason reason = gate_.Take(0, 1)->reply.reason;
      EXPECT_EQ(reason, shard == right ? Reason::kNone : Reason::kBadRequest);
      served[shard] += shard == right;
    }
  }
  EXPECT_GT(served[0], 0);
  EXPECT_GT(served[1], 0);
}

TEST_F(TwoShardsTest, FunctionsLiveInTheFirstShardAlone) {
  for (const Op op : {Op::kRegister, Op::kReady, Op::kUnready, Op::kCall, Op::kStart, Op::kWait,
                      Op::kPoll, Op::kForget}) {
    const bool wants_key = op == Op::kRegister || op == Op::kCall || op == Op::kStart;
    Request request = Inline(op, wants_key ? "f" : "");
    request.lane = fabric::IsOneWay(op) ? fabric::kNoLane : 1;
    EXPECT_FALSE(second_->Step(0, request, now_ns_));
  }
}

// Whatever four nodes send, and whatever stands in their ports: when they are gone, what is left in
// the heap is what the index names.
TEST_F(HomeHostileTest, RandomRequestsLeaveNothingBehind) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    std::vector<std::uint64_t> seen = {0, 64, 4096};  // arguments worth trying
    for (int step = 0; step < 5000; ++step) {
      const auto node = static_cast<NodeId>(random() % kNodes);
      const bool is_wild = random() % 8 == 0;
      const auto op = static_cast<Op>(is_wild ? random() % 256 : 1 + random() % fabric::kMaxOp);
      const auto lane = static_cast<std::uint16_t>(is_wild ? random() : random() % 8);
      const bool wants_key =
          op <= Op::kCreate || op == Op::kRegister || op == Op::kCall || op == Op::kStart;
      const std::string key = wants_key ? "key " + std::to_string(random() % 20) : "";
      const std::uint64_t argument =
          random() % 4 == 0 ? random() >> random() % 64
          : op == Op::kPut  ? kAnyVersion
          : op == Op::kRegister
              ? fabric::FunctionLimits{.max_concurrency = 8, .max_attempts = 2}.Pack()
              : seen[random() % seen.size()];
      Request request = random() % 2 == 0
                            ? Inline(op, key, std::string(random() % 100, 'p'), argument)
                            : Staged(op, key, random() % 100'000, argument);
      if (is_wild) {
        for (int i = 0; i < 4; ++i) {
          reinterpret_cast<std::byte*>(&request)[random() % 48] = static_cast<std::byte>(random());
        }
      } else if (random() % 16 != 0 && (request.flags & fabric::kBodyStaged) != 0) {
        Stage(node, lane, key, "");
      }
      request.flags = static_cast<std::uint8_t>(request.flags ^ (random() % 32 << 3));
      Step(node, request, lane);
      FakeGate::Node& memory = gate_.node(node);
      for (auto& [index, shared] : memory.lanes) {
        if (random() % 4 == 0) shared.staged_bytes = random() >> random() % 64;
      }
      if (random() % 8 == 0) memory.acknowledged = random() % 4 ? memory.issued : random();
      if (random() % 64 == 0) memory.holds.insert(seen[random() % seen.size()]);
      if (random() % 64 == 0) memory.holds.clear();
      for (const FakeGate::Answered& answer : gate_.answers()) {
        if (answer.reply.extent_offset != 0) seen.push_back(answer.reply.extent_offset);
        if (answer.reply.value[0] != 0) seen.push_back(answer.reply.value[0]);
      }
      gate_.answers().clear();
      if (seen.size() > 200) seen.resize(100);
      now_ns_ += random() % 1'000'000;
      if (random() % 2 == 0) Poll();
      if (random() % 500 == 0) {  // dies, and its slot is taken by another
        home_->ForgetNode(node);
        while (gate_.forgotten().empty()) Poll();
        gate_.forgotten().clear();
        gate_.node(node) = {};
        home_->AttachNode(node);
      }
    }
    for (NodeId node = 0; node < kNodes; ++node) home_->ForgetNode(node);
    Poll(20);
    EXPECT_EQ(gate_.forgotten().size(), kNodes);
    std::uint64_t objects = 0;
    pool_->share(0).index.view().ForEachSlot(
        [&](const fabric::IndexSlot& slot) { objects += slot.load() != 0; });
    EXPECT_EQ(LiveExtents(), objects);
    EXPECT_EQ(home_->oic().open_rounds(), 0u);
    EXPECT_EQ(home_->oic().held_bytes(), 0u);
    EXPECT_EQ(home_->otc().live_entries(), 0u);
    EXPECT_EQ(home_->executor()->known_functions(), 0u);
    gate_.forgotten().clear();
    for (NodeId node = 0; node < kNodes; ++node) {
      gate_.node(node) = {};
      home_->AttachNode(node);
    }
  }
}

}  // namespace
}  // namespace apta::daemon
