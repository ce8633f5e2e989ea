#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <vector>

#include "scheduler/placement.h"
#include "tests/scheduler/executor_fixture.h"

namespace apta::scheduler {
namespace {

using absl::StatusCode;
using fabric::Reason;

class ExecutorManagerTest : public ExecutorFixture {};

TEST_F(ExecutorManagerTest, AnInvocationGoesToAnIdleWorkerAndItsResultToTheCaller) {
  Host(1);
  Call(5);
  ASSERT_EQ(delivered_.size(), 1u);
  EXPECT_EQ(delivered_[0].first, 1);
  EXPECT_EQ(delivered_[0].second.attempt, 1u);
  EXPECT_EQ(delivered_[0].second.input.extent, 5u);
  Finish(0, {77});
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
  for (std::uint16_t lane = 1; lane <= 4; ++lane) Call(lane);
  EXPECT_EQ(delivered_.size(), 2u);
  Finish(0);
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
  EXPECT_EQ(waited_for_, "1 node: no free thread");
  EXPECT_EQ(released_, (std::set<std::uint64_t>{2}));
}

TEST_F(ExecutorManagerTest, WhereAFunctionsLimitHoldsManyBackTheFirstIsTheNextAndNobodyLooks) {
  Host(1, 10, {.max_concurrency = 1});
  constexpr std::uint16_t kCalls = 5000;  // more than one poll would look at
  for (std::uint16_t lane = 1; lane <= kCalls; ++lane) Call(lane, 1'000'000);
  em_.Poll(0);
  EXPECT_FALSE(em_.IsDue(0)) << "until something changes";
  for (std::size_t i = 0; i < 9; ++i) {
    Finish(i);
    em_.Poll(0);
    ASSERT_EQ(delivered_.size(), i + 2);
    EXPECT_EQ(delivered_[i + 1].second.input.extent, i + 2);
  }
}

TEST_F(ExecutorManagerTest, ThoseThatOnlySomeNodesCanRunDoNotHoldBackTheFirstOfTheOthers) {
  Host(1, 1);
  Host(2, 1);
  Call(1);
  Call(2);
  for (std::uint16_t lane = 10; lane < 3000; ++lane) {
    Call(CallSpec{.caller = 0, .waiter = Waiter{0, lane, 1}, .input = {lane}, .node_name = "two"});
  }
  Call(3000);
  Call(3001);
  Finish(0);
  Ready(1);
  em_.Poll(0);  // as far as one poll looks
  for (int i = 0; i < 10 && em_.IsDue(0); ++i) em_.Poll(0);
  ASSERT_EQ(delivered_.size(), 3u);
  EXPECT_EQ(delivered_[2].second.input.extent, 3000u);
  EXPECT_FALSE(em_.IsDue(0));
  Finish(1);
  Ready(2);
  em_.Poll(0);
  ASSERT_EQ(delivered_.size(), 4u);
  EXPECT_EQ(delivered_[3].second.input.extent, 10u);
}

TEST_F(ExecutorManagerTest, TheInputOfARunningInvocationOutlivesItsDeadline) {
  Host(1);
  Call(1, 1000);
  em_.Poll(1000);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.code, StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(released_.empty()) << "the function still reads its input in place";
  Finish(0, {88});
  EXPECT_EQ(released_, (std::set<std::uint64_t>{1, 88}));
  EXPECT_EQ(answers_.size(), 1u);
}

TEST_F(ExecutorManagerTest, AFunctionsOwnDeadlineCounts) {
  Host(1, 1, {.deadline_ms = 1});
  Call(1, 1'000'000'000'000);
  EXPECT_EQ(em_.next_deadline_ns(), 1'000'000u);
}

TEST_F(ExecutorManagerTest, WithoutANodeThatHasItAnInvocationWaitsForOneUntilItsDeadline) {
  Host(1);
  Call(1, 1000);
  Call(2, 2000);
  em_.ForgetNode(1);
  EXPECT_TRUE(answers_.empty());
  EXPECT_FALSE(em_.FindFunction("f").has_value());
  em_.Poll(1000);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.reason, Reason::kDeadline);
  EXPECT_EQ(history_.size(), 1u) << "it was lost once";
  EXPECT_EQ(waited_for_, "no node has it any more");
  Host(2);
  em_.Poll(1001);
  ASSERT_EQ(delivered_.size(), 2u);
  Finish(1);
  EXPECT_EQ(answers_.size(), 2u);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{1, 2}));
  EXPECT_FALSE(em_.has_queued());
}

TEST_F(ExecutorManagerTest, AStartedInvocationIsWaitedForPolledAndForgotten) {
  Host(1, 2, {.max_concurrency = 2});
  const InvocationId kept = Call(CallSpec{.input = {1}});
  const InvocationId dropped = Call(CallSpec{.input = {2}});
  EXPECT_EQ(em_.Poll(NodeId{0}, kept), false);
  EXPECT_EQ(em_.Poll(NodeId{5}, kept), std::nullopt);  // not its caller
  EXPECT_FALSE(em_.Wait({5, 0, 1}, kept));
  Finish(0, {50});
  EXPECT_EQ(em_.Poll(NodeId{0}, kept), true);
  EXPECT_TRUE(em_.Wait({0, 7, 1}, kept));
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.payload.extent, 50u);
  EXPECT_FALSE(em_.Wait({0, 7, 1}, kept));  // taken
  em_.Forget(0, dropped);
  Finish(1, {51});
  EXPECT_EQ(released_, (std::set<std::uint64_t>{1, 2, 51}));
}

TEST_F(ExecutorManagerTest, WhoWaitsBeforeTheEndIsAnsweredThen) {
  Host(1);
  const InvocationId id = Call(CallSpec{.input = {1}});
  EXPECT_TRUE(em_.Wait({0, 7, 1}, id));
  EXPECT_FALSE(em_.Wait({0, 8, 1}, id));  // one waits
  EXPECT_TRUE(answers_.empty());
  em_.Poll(1000);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].first, 7);
  EXPECT_EQ(answers_[0].second.reason, Reason::kDeadline);
  Finish(0);
  EXPECT_EQ(em_.Poll(NodeId{0}, id), std::nullopt);
}

TEST_F(ExecutorManagerTest, ADeadlineThatNobodyHasWaitedForIsThereToBeTaken) {
  Host(1);
  const InvocationId id = Call(CallSpec{.input = {1}});
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
  Call(CallSpec{.caller = 1, .waiter = Waiter{1, 9, 1}, .input = {1}});
  Call(CallSpec{.caller = 1, .input = {2}});
  em_.ForgetNode(1);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{1, 2}));
  EXPECT_EQ(em_.known_functions(), 0u);
  EXPECT_EQ(em_.next_deadline_ns(), ~TimeNs{0});
}

TEST_F(ExecutorManagerTest, ACallersDeathCancelsItsInvocations) {
  Host(1);
  Call(1);
  Call(2);  // waits
  em_.ForgetNode(0);
  EXPECT_FALSE(em_.has_queued());
  EXPECT_EQ(released_, (std::set<std::uint64_t>{2}));
  Finish(0, {60});
  EXPECT_TRUE(answers_.empty());
  EXPECT_EQ(released_, (std::set<std::uint64_t>{1, 2, 60}));
  EXPECT_EQ(em_.next_deadline_ns(), ~TimeNs{0});
}

TEST_F(ExecutorManagerTest, WorkersThatStopAreAnsweredAlsoWhenTheyAskLater) {
  Host(1);
  em_.Unready(1);
  EXPECT_EQ(answers_.size(), 1u);
  Ready(1);
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(answers_[1].second.reason, Reason::kCancelled);
  EXPECT_FALSE(em_.FindFunction("f").has_value());
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
  em_.ForgetNode(1);
  EXPECT_EQ(em_.known_functions(), 1u);  // of an invocation that waits for another node
  em_.Poll(1000);
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
  std::uint64_t extent = 0;
  const auto fill = [&](NodeId caller) {
    CallSpec spec{.caller = caller, .function = *em_.FindFunction("f"), .deadline_ns = 1000};
    while (true) {
      spec.input = {++extent};
      const Reason reason = em_.Call(spec, 0).reason;
      if (reason != Reason::kNone) return reason;
    }
  };
  EXPECT_EQ(fill(0), Reason::kCallerQueueFull);
  EXPECT_EQ(extent, ExecutorManager::kMaxQueuedOfCaller + 2);  // one runs
  EXPECT_EQ(fill(2), Reason::kQueueFull);                      // another caller had room
  EXPECT_EQ(extent, ExecutorManager::kMaxQueued + 3);
  EXPECT_EQ(released_.size(), 2u);
  em_.Poll(1000);
  EXPECT_FALSE(em_.has_queued());
  EXPECT_EQ(released_.size(), extent - 1);  // one runs
}

TEST_F(ExecutorManagerTest, TheSameFunctionOnTwoNodesHasEachNodesLimits) {
  Host(1, 2, {.max_concurrency = 1, .deadline_ms = 1});
  Host(2, 2, {.max_concurrency = 2, .deadline_ms = 2});
  EXPECT_EQ(em_.Register(1, "f", {.max_concurrency = 1, .deadline_ms = 1}),
            Reason::kAlreadyRegistered);
  EXPECT_EQ(em_.Register(1, "f", {.max_concurrency = 2}), Reason::kOtherLimits);
  for (std::uint16_t lane = 1; lane <= 4; ++lane) Call(lane, 1'000'000'000);
  ASSERT_EQ(delivered_.size(), 3u);
  for (const auto& [node, delivery] : delivered_) EXPECT_EQ(delivery.left_ns, node * 1'000'000u);
}

TEST_F(ExecutorManagerTest, AnAttemptPastItsDeadlineIsMadeAgainElsewhereAndCountsNoMore) {
  Host(1, 2, {.max_concurrency = 2, .deadline_ms = 1});
  Call(9, 1'000'000'000);
  Host(2, 2, {.max_concurrency = 2, .deadline_ms = 1});
  em_.Poll(1'000'000);
  ASSERT_EQ(delivered_.size(), 2u);
  EXPECT_EQ(delivered_[1].first, 2) << "not where the first is stuck";
  EXPECT_EQ(em_.LoadOf(1).stuck, 1u);
  Finish(0, {70});  // too late
  EXPECT_TRUE(answers_.empty());
  EXPECT_EQ(released_, (std::set<std::uint64_t>{70}));
  EXPECT_EQ(em_.LoadOf(1).stuck, 0u);
  Finish(1, {71});
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.payload.extent, 71u);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{9, 70}));
  EXPECT_EQ(em_.next_deadline_ns(), ~TimeNs{0});
}

TEST_F(ExecutorManagerTest, AttemptsThatAreAllPastTheirDeadlineEndWithTheirHistory) {
  Host(1, 9, {.max_concurrency = 9, .max_attempts = 2, .deadline_ms = 1});
  Call(9, 1'000'000'000);
  em_.Poll(1'000'000);
  ASSERT_EQ(delivered_.size(), 2u) << "the same node, if there is no other";
  em_.Poll(2'000'000);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.reason, Reason::kAttemptDeadline);
  ASSERT_EQ(history_.size(), 2u);
  EXPECT_EQ(history_[0].end, FailedAttempt::End::kDeadline);
  EXPECT_TRUE(released_.empty()) << "two threads read the input";
  Finish(0);
  Finish(1);
  EXPECT_EQ(released_, (std::set<std::uint64_t>{9}));
}

TEST_F(ExecutorManagerTest, ANodeFullOfStuckThreadsGetsNothing) {
  Host(1, 20, {.max_concurrency = 20, .max_attempts = 1, .deadline_ms = 1});
  for (std::uint16_t lane = 0; lane < fabric::kMaxStuckThreads; ++lane) Call(lane);
  em_.Poll(1'000'000);
  delivered_.clear();
  now_ns_ = 1'000'000;
  Call(50, 2'000'000);
  EXPECT_TRUE(delivered_.empty());
  em_.Poll(2'000'000);
  EXPECT_EQ(waited_for_, "1 node: full of attempts past their deadline");
  EXPECT_EQ(em_.LoadOf(1).stuck, fabric::kMaxStuckThreads);
}

TEST_F(ExecutorManagerTest, AWaitingAttemptTakesNoThreadAndDoesNotCount) {
  Host(1, /*workers=*/9, {.max_concurrency = 1, .threads = 1});
  Call(1);
  Call(2);
  ASSERT_EQ(delivered_.size(), 1u) << "one thread";
  // The first calls the function itself: that link runs at once, before the second is placed.
  for (std::size_t depth = 0; depth < 6; ++depth) {
    Call(CallSpec{.caller = 1,
                  .waiter = Waiter{1, static_cast<std::uint16_t>(50 + depth), 1},
                  .parent = delivered_.back().second.id});
    em_.Poll(1);
    ASSERT_EQ(delivered_.size(), depth + 2);
  }
  EXPECT_EQ(em_.LoadOf(1).waiting, 6u);
  for (std::size_t i = delivered_.size(); i-- > 0;) Finish(i);
  em_.Poll(2);
  EXPECT_EQ(em_.LoadOf(1).waiting, 0u);
}

TEST_F(ExecutorManagerTest, ANodeHasALaneForEachThatRunsAndOthersForThoseThatWait) {
  Host(1, /*workers=*/0, {.max_concurrency = 60'000});
  Call(1);
  // A chain: each link waits for the next one.
  for (int link = 0; link < 2 * fabric::kWaitLanes; ++link) {
    Ready(1);
    em_.Poll(1);
    Call(CallSpec{.caller = 1, .waiter = Waiter{1, 50, 1}, .parent = delivered_.back().second.id});
  }
  EXPECT_EQ(delivered_.size(), static_cast<std::size_t>(fabric::kLanes + fabric::kWaitLanes));
}

TEST_F(ExecutorManagerTest, AnAttemptThatDoesNotCountMayCallNothing) {
  Host(1, 3, {.max_concurrency = 3, .max_attempts = 1, .deadline_ms = 1});
  Call(1, 1'000'000'000);
  em_.Poll(1'000'000);
  const auto called =
      em_.Call({.caller = 1, .function = *em_.FindFunction("f"), .parent = delivered_[0].second.id},
               1'000'001);
  EXPECT_EQ(called.reason, Reason::kCancelled);
}

TEST_F(ExecutorManagerTest, OnlyAcknowledgementsOfDeclaredReadsCount) {
  Host(1);
  owing_key_.insert({1, 7});
  const std::uint64_t owed[] = {6, 7};
  const std::uint64_t other[] = {8};
  Call(CallSpec{.input = {1}});
  Call(CallSpec{.input = {2}, .reads = owed, .declares_reads = true});
  EXPECT_TRUE(delivered_.empty());
  EXPECT_TRUE(asked_.contains(1));
  Call(CallSpec{.input = {3}, .reads = other, .declares_reads = true});
  em_.Poll(1);
  ASSERT_EQ(delivered_.size(), 1u) << "past those that wait for acknowledgements";
  EXPECT_EQ(delivered_[0].second.input.extent, 3u);
}

TEST_F(ExecutorManagerTest, ANamedNodeIsWaitedForAndHoldsNobodyUp) {
  Host(1);
  Host(2);
  EXPECT_TRUE(em_.FindFunction("f", "two").has_value());
  EXPECT_FALSE(em_.FindFunction("f", "three").has_value());
  for (std::uint64_t i = 1; i <= 3; ++i) Call(CallSpec{.input = {i}, .node_name = "two"});
  Call(CallSpec{.input = {4}});
  em_.Poll(1);
  ASSERT_EQ(delivered_.size(), 2u);
  EXPECT_EQ(delivered_[0].first, 2);
  EXPECT_EQ(delivered_[1].first, 1);
  EXPECT_EQ(delivered_[1].second.input.extent, 4u);
}

TEST_F(ExecutorManagerTest, BytesOfDeclaredReadsDecideThenPredecessorsThenLoad) {
  for (NodeId node = 1; node <= 3; ++node) Host(node, 9, {.max_concurrency = 9});
  const std::uint64_t reads[] = {7, 8};
  cached_ = {{{1, 7}, 100}, {{2, 7}, 100}, {{2, 8}, 1}};
  const InvocationId id =
      Call(CallSpec{.reads = reads, .declares_reads = true, .workflow = 5, .explain = true});
  EXPECT_EQ(delivered_[0].first, 2);
  Call(CallSpec{.workflow = 5});
  EXPECT_EQ(delivered_[1].first, 2) << "where the workflow ran";
  Call(CallSpec{.workflow = 6});
  EXPECT_EQ(delivered_[2].first, 1) << "another workflow: where there is least load";
  Call(CallSpec{.caller = 2, .parent = delivered_[0].second.id});
  EXPECT_EQ(delivered_[3].first, 2) << "what an invocation calls is of its workflow";
  const Explanation* why = em_.Explain(0, id);
  ASSERT_NE(why, nullptr);
  EXPECT_EQ(why->because, Because::kLocalBytes);
  EXPECT_EQ(why->considered[*why->chosen].node, "two");
  EXPECT_EQ(why->considered[0].candidate.local_bytes, 100u);
  EXPECT_EQ(em_.Explain(3, id), nullptr) << "not its caller";
}

TEST_F(ExecutorManagerTest, AThousandWaitingForAcknowledgementsStartWhenTheyComeAndInOrder) {
  Host(1, 0, {.max_concurrency = 2000});
  owing_.insert(1);
  for (std::uint16_t i = 1; i <= 1000; ++i) Call(i);
  for (int i = 0; i < 1000; ++i) Ready(1);
  em_.Poll(1);
  EXPECT_TRUE(delivered_.empty());
  owing_.clear();
  em_.Poll(2);
  EXPECT_EQ(delivered_.size(), static_cast<std::size_t>(fabric::kLanes)) << "a lane each";
  for (std::size_t i = 0; i < delivered_.size(); ++i) {
    EXPECT_EQ(delivered_[i].second.input.extent, i + 1);
  }
}

}  // namespace
}  // namespace apta::scheduler
