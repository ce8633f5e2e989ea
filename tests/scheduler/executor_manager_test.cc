#include "scheduler/executor_manager.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

#include "scheduler/placement.h"

namespace apta::scheduler {
namespace {

using absl::StatusCode;
using fabric::Reason;

class ExecutorManagerTest : public ::testing::Test, public Environment {
 protected:
  bool OwesAcknowledgement(NodeId node) const override { return owing_.contains(node); }
  void AskForAcknowledgements(NodeId node) override { asked_.insert(node); }
  void Deliver(const Waiter& worker, const Delivery& delivery) override {
    EXPECT_FALSE(owing_.contains(worker.node)) << "started on a node that may be stale";
    delivered_.emplace_back(worker.node, delivery);
  }
  void Answer(const Waiter& waiter, const Outcome& outcome) override {
    answers_.emplace_back(waiter.lane, outcome);
  }
  void Release(Payload payload) override {
    if (payload.extent != 0) EXPECT_TRUE(released_.insert(payload.extent).second);
  }

  void Host(NodeId node, int workers = 1, FunctionLimits limits = {}) {
    EXPECT_EQ(em_.Register(node, "f", limits), Reason::kNone);
    for (int i = 0; i < workers; ++i) Ready(node);
  }
  void Ready(NodeId node) { em_.Ready({node, next_lane_++, 1}); }
  // A call of node 0, answered in `lane`; its input stands in an extent of that number.
  InvocationId Call(std::uint16_t lane, TimeNs deadline_ns = 1000) {
    const auto id =
        em_.Call(0, Waiter{0, lane, 1}, *em_.FindFunction("f"), {lane}, deadline_ns, now_ns_);
    EXPECT_TRUE(id.has_value());
    return id.value_or(0);
  }

  ExecutorManager em_{this};
  std::uint16_t next_lane_ = 0;  // of workers
  TimeNs now_ns_ = 0;
  std::set<NodeId> owing_;
  std::set<NodeId> asked_;
  std::vector<std::pair<NodeId, Delivery>> delivered_;
  std::vector<std::pair<int, Outcome>> answers_;  // by lane of the caller
  std::set<std::uint64_t> released_;
};

TEST_F(ExecutorManagerTest, AnInvocationGoesToAnIdleWorkerAndItsResultToTheCaller) {
  Host(1);
  const InvocationId id = Call(5);
  ASSERT_EQ(delivered_.size(), 1u);
  EXPECT_EQ(delivered_[0].first, 1);
  EXPECT_EQ(delivered_[0].second.attempt, 1u);
  EXPECT_EQ(delivered_[0].second.input.extent, 5u);
  em_.Finish(1, id, StatusCode::kOk, {77});
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].first, 5);
  EXPECT_EQ(answers_[0].second.payload.extent, 77u);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{5}));
}

TEST_F(ExecutorManagerTest, NothingStartsOnANodeThatOwesAnAcknowledgement) {
  Host(1);
  owing_.insert(1);
  Call(5);
  EXPECT_TRUE(delivered_.empty());
  EXPECT_TRUE(asked_.contains(1));
  owing_.clear();
  EXPECT_EQ(em_.Poll(1), 1);  // for acknowledgements, not for a timer
  EXPECT_EQ(delivered_.size(), 1u);
}

TEST_F(ExecutorManagerTest, AnotherNodeRunsItWhileOneOwes) {
  Host(1);
  Host(2);
  owing_.insert(1);
  Call(5);
  ASSERT_EQ(delivered_.size(), 1u);
  EXPECT_EQ(delivered_[0].first, 2);
}

TEST_F(ExecutorManagerTest, InvocationsWaitForWorkersAndConcurrencyInOrder) {
  Host(1, /*workers=*/3, {.max_concurrency = 2});
  const InvocationId first = Call(1);
  Call(2);
  Call(3);
  Call(4);
  EXPECT_EQ(delivered_.size(), 2u);
  em_.Finish(1, first, StatusCode::kOk, {});
  em_.Poll(1);
  ASSERT_EQ(delivered_.size(), 3u);
  EXPECT_EQ(delivered_[2].second.input.extent, 3u);
}

TEST_F(ExecutorManagerTest, ADeadlineInTheQueueEndsIt) {
  Host(1, 1);
  Call(1, 1000);
  Call(2, 500);
  em_.Poll(499);
  EXPECT_TRUE(answers_.empty());
  EXPECT_EQ(em_.next_deadline_ns(), 500u);
  em_.Poll(500);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].first, 2);
  EXPECT_EQ(answers_[0].second.reason, Reason::kDeadline);
  EXPECT_EQ(answers_[0].second.attempts, 0u);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{2}));
}

TEST_F(ExecutorManagerTest, TheInputOfARunningInvocationOutlivesItsDeadline) {
  Host(1);
  const InvocationId id = Call(1, 1000);
  em_.Poll(1000);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.code, StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(released_.empty()) << "the function still reads its input in place";
  em_.Finish(1, id, StatusCode::kOk, {88});
  EXPECT_EQ(released_, (std::set<std::uint64_t>{1, 88}));
  EXPECT_EQ(answers_.size(), 1u);
}

TEST_F(ExecutorManagerTest, AFunctionsOwnDeadlineCounts) {
  Host(1, 1, {.deadline_ms = 1});
  Call(1, 1'000'000'000'000);
  EXPECT_EQ(em_.next_deadline_ns(), 1'000'000u);
}

TEST_F(ExecutorManagerTest, ALostInvocationRunsAgainElsewhereAndCountsOnce) {
  Host(1);
  const InvocationId id = Call(9);
  Host(2);
  em_.ForgetNode(1);
  em_.Poll(1);
  ASSERT_EQ(delivered_.size(), 2u);
  EXPECT_EQ(delivered_[1].first, 2);
  EXPECT_EQ(delivered_[1].second.id, id);
  EXPECT_EQ(delivered_[1].second.attempt, 2u);
  em_.Finish(1, id, StatusCode::kOk, {70});  // from beyond the grave: ignored
  EXPECT_TRUE(answers_.empty());
  EXPECT_TRUE(released_.contains(70));
  em_.Finish(2, id, StatusCode::kOk, {71});
  EXPECT_EQ(answers_.size(), 1u);
}

TEST_F(ExecutorManagerTest, AttemptsAreLimited) {
  for (NodeId node = 1; node <= 3; ++node) Host(node, 1, {.max_attempts = 2});
  Call(9);
  em_.ForgetNode(delivered_[0].first);
  em_.Poll(1);
  em_.ForgetNode(delivered_[1].first);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.reason, Reason::kNodeLost);
  EXPECT_EQ(answers_[0].second.attempts, 2u);
  EXPECT_TRUE(released_.contains(9));
}

TEST_F(ExecutorManagerTest, WithoutANodeThatHasItAnInvocationEndsAtOnce) {
  Host(1);
  Call(1);
  Call(2);
  em_.ForgetNode(1);
  EXPECT_EQ(answers_.size(), 2u);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{1, 2}));
  EXPECT_FALSE(em_.FindFunction("f").has_value());
  EXPECT_FALSE(em_.has_queued());
}

TEST_F(ExecutorManagerTest, AStartedInvocationIsWaitedForPolledAndForgotten) {
  Host(1, 2, {.max_concurrency = 2});
  const FunctionId f = *em_.FindFunction("f");
  const InvocationId kept = *em_.Call(0, std::nullopt, f, {1}, 1000, 0);
  const InvocationId dropped = *em_.Call(0, std::nullopt, f, {2}, 1000, 0);
  EXPECT_EQ(em_.Poll(NodeId{0}, kept), false);
  EXPECT_EQ(em_.Poll(NodeId{5}, kept), std::nullopt);  // not its caller
  EXPECT_FALSE(em_.Wait({5, 0, 1}, kept));
  em_.Finish(1, kept, StatusCode::kOk, {50});
  EXPECT_EQ(em_.Poll(NodeId{0}, kept), true);
  EXPECT_TRUE(em_.Wait({0, 7, 1}, kept));
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.payload.extent, 50u);
  EXPECT_FALSE(em_.Wait({0, 7, 1}, kept));  // taken
  em_.Forget(0, dropped);
  em_.Finish(1, dropped, StatusCode::kOk, {51});
  EXPECT_EQ(released_, (std::set<std::uint64_t>{1, 2, 51}));
}

TEST_F(ExecutorManagerTest, WhoWaitsBeforeTheEndIsAnsweredThen) {
  Host(1);
  const InvocationId id =
      *em_.Call(0, std::nullopt, *em_.FindFunction("f"), {1}, /*deadline_ns=*/1000, 0);
  EXPECT_TRUE(em_.Wait({0, 7, 1}, id));
  EXPECT_FALSE(em_.Wait({0, 8, 1}, id));  // one waits
  EXPECT_TRUE(answers_.empty());
  em_.Poll(1000);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].first, 7);
  EXPECT_EQ(answers_[0].second.reason, Reason::kDeadline);
  em_.Finish(1, id, StatusCode::kOk, {});
  EXPECT_EQ(em_.Poll(NodeId{0}, id), std::nullopt);
}

TEST_F(ExecutorManagerTest, ADeadlineThatNobodyHasWaitedForIsThereToBeTaken) {
  Host(1);
  const InvocationId id = *em_.Call(0, std::nullopt, *em_.FindFunction("f"), {1}, 1000, 0);
  em_.Poll(1000);
  EXPECT_EQ(em_.Poll(NodeId{0}, id), true);
  em_.ForgetNode(1);
  EXPECT_TRUE(released_.contains(1));
  EXPECT_TRUE(em_.Wait({0, 7, 1}, id));
  EXPECT_EQ(answers_.size(), 1u);
  EXPECT_EQ(em_.known_functions(), 0u);
}

TEST_F(ExecutorManagerTest, ANodeThatCallsItselfAndDiesLeavesNothing) {
  Host(1);
  EXPECT_TRUE(em_.Call(1, Waiter{1, 9, 1}, *em_.FindFunction("f"), {1}, 1000, 0).has_value());
  EXPECT_TRUE(em_.Call(1, std::nullopt, *em_.FindFunction("f"), {2}, 1000, 0).has_value());
  em_.ForgetNode(1);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{1, 2}));
  EXPECT_EQ(em_.known_functions(), 0u);
  EXPECT_EQ(em_.next_deadline_ns(), ~TimeNs{0});
}

TEST_F(ExecutorManagerTest, ACallersDeathForgetsItsInvocations) {
  Host(1);
  const InvocationId id = Call(1);
  em_.ForgetNode(0);
  em_.Finish(1, id, StatusCode::kOk, {60});
  EXPECT_TRUE(answers_.empty());
  EXPECT_EQ(released_, (std::set<std::uint64_t>{1, 60}));
}

TEST_F(ExecutorManagerTest, WorkersThatStopAreAnsweredAlsoWhenTheyAskLater) {
  Host(1);
  em_.Unready(1);
  EXPECT_EQ(answers_.size(), 1u);
  Ready(1);
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(answers_[1].second.reason, Reason::kCancelled);
  EXPECT_EQ(em_.Register(1, "f", {}), Reason::kAlreadyRegistered);  // serves again
  Ready(1);
  EXPECT_EQ(answers_.size(), 2u);
}

TEST_F(ExecutorManagerTest, ALaneThatAsksAgainIsOneWorker) {
  Host(1, 0, {.max_concurrency = 9});
  for (int i = 0; i < 100; ++i) em_.Ready({1, 3, 1});
  Call(1);
  Call(2);
  EXPECT_EQ(delivered_.size(), 1u);
}

TEST_F(ExecutorManagerTest, LostInvocationsKeepTheirOrder) {
  Host(1, /*workers=*/3, {.max_concurrency = 3});
  Host(2, /*workers=*/0, {.max_concurrency = 9});
  Call(1);
  Call(2);
  Call(3);
  Call(4);
  em_.ForgetNode(1);
  for (int i = 0; i < 4; ++i) Ready(2);
  delivered_.clear();
  em_.Poll(1);
  ASSERT_EQ(delivered_.size(), 4u);
  for (std::uint64_t i = 0; i < 4; ++i) EXPECT_EQ(delivered_[i].second.input.extent, i + 1);
}

TEST_F(ExecutorManagerTest, NamesOfFunctionsGoWithTheirLastNodeAndInvocation) {
  for (int i = 0; i < 100'000; ++i) {
    EXPECT_EQ(em_.Register(1, "function " + std::to_string(i), {}), Reason::kNone);
    em_.ForgetNode(1);
  }
  EXPECT_FALSE(em_.FindFunction("function 5").has_value());
  EXPECT_EQ(em_.known_functions(), 0u);
  Host(1);
  Call(1);
  em_.ForgetNode(1);  // the function's last node and its last invocation at once
  EXPECT_EQ(answers_.size(), 1u);
  EXPECT_EQ(em_.known_functions(), 0u);
  EXPECT_EQ(em_.Register(1, "a", {}), Reason::kNone);
  EXPECT_EQ(em_.Register(1, "b", {}), Reason::kNone);
  EXPECT_NE(em_.FindFunction("a"), em_.FindFunction("b"));
}

// A call's input may be on its way while the last node that has the function dies.
TEST_F(ExecutorManagerTest, AnIdentifierNeverMeansAnotherFunction) {
  Host(1);
  const FunctionId f = *em_.FindFunction("f");
  EXPECT_TRUE(em_.IsOffered(f));
  em_.ForgetNode(1);
  EXPECT_EQ(em_.Register(1, "g", {}), Reason::kNone);
  EXPECT_NE(em_.FindFunction("g"), f);
  EXPECT_FALSE(em_.IsOffered(f));
}

TEST_F(ExecutorManagerTest, AFullQueueRefusesAndReleases) {
  Host(1);
  const FunctionId f = *em_.FindFunction("f");
  std::uint64_t extent = 0;
  while (em_.Call(0, std::nullopt, f, {++extent}, 1000, 0).has_value()) {
  }
  EXPECT_EQ(extent, ExecutorManager::kMaxQueued + 2);  // one runs
  EXPECT_EQ(released_, (std::set<std::uint64_t>{extent}));
}

TEST(PlacementTest, TheEligibleCandidateThatRunsLeastIsChosen) {
  const Candidate base = {.node = 1,
                          .owes_acknowledgement = false,
                          .idle_workers = 1,
                          .running = 0,
                          .max_concurrency = 1,
                          .running_in_all = 5};
  std::vector<Candidate> all(5, base);
  all[0].owes_acknowledgement = true;
  all[1].idle_workers = 0;
  all[2].running = 1;
  EXPECT_EQ(Place(absl::MakeConstSpan(all.data(), 3)), std::nullopt);
  EXPECT_EQ(Place(all), 3u);
  all[4].running_in_all = 4;
  EXPECT_EQ(Place(all), 4u);
}

}  // namespace
}  // namespace apta::scheduler
