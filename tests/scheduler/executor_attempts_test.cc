// Attempts that fail, are lost, or commit what they have written: one counts.

#include <gtest/gtest.h>

#include "tests/scheduler/executor_fixture.h"

namespace apta::scheduler {
namespace {

using absl::StatusCode;
using fabric::Reason;

class ExecutorAttemptsTest : public ExecutorFixture {};

TEST_F(ExecutorAttemptsTest, ALostInvocationRunsAgainElsewhereAndCountsOnce) {
  Host(1);
  const InvocationId id = Call(9);
  Host(2);
  em_.ForgetNode(1);
  em_.Poll(1);
  ASSERT_EQ(delivered_.size(), 2u);
  EXPECT_EQ(delivered_[1].first, 2);
  EXPECT_EQ(fabric::InvocationOf(delivered_[1].second.id), id);
  EXPECT_EQ(delivered_[1].second.attempt, 2u);
  Finish(0, {70});  // from beyond the grave: ignored
  EXPECT_TRUE(answers_.empty());
  EXPECT_TRUE(released_.contains(70));
  Finish(1, {71});
  EXPECT_EQ(answers_.size(), 1u);
}

// What an attempt has written commits with its result, which may take more than a step.
TEST_F(ExecutorAttemptsTest, WhatHasBegunToCommitIsDecided) {
  Host(1);
  Host(2);
  Call(5, 1000);
  ASSERT_TRUE(em_.BeginCommit(delivered_[0].first, delivered_[0].second.id));
  EXPECT_FALSE(em_.BeginCommit(delivered_[0].first, delivered_[0].second.id)) << "once";
  em_.Poll(2000);  // past its deadline
  em_.ForgetNode(delivered_[0].first);
  em_.Poll(2001);
  EXPECT_TRUE(answers_.empty());
  EXPECT_EQ(delivered_.size(), 1u) << "nobody else runs it";
  em_.EndCommit(delivered_[0].second.id, StatusCode::kOk, {70}, 2002);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.payload.extent, 70u);
  EXPECT_TRUE(released_.contains(5));
}

TEST_F(ExecutorAttemptsTest, AnAttemptThatCountsNoMoreCommitsNothing) {
  Host(1);
  Host(2);
  Call(5, 1000);
  const auto [node, delivery] = delivered_[0];
  EXPECT_FALSE(em_.BeginCommit(3 - node, delivery.id)) << "it runs elsewhere";
  em_.ForgetNode(node);
  EXPECT_FALSE(em_.BeginCommit(node, delivery.id)) << "it was lost";
  em_.Poll(1);
  ASSERT_EQ(delivered_.size(), 2u);
  em_.Poll(1000);
  EXPECT_EQ(answers_.size(), 1u);
  EXPECT_FALSE(em_.BeginCommit(delivered_[1].first, delivered_[1].second.id))
      << "past its deadline";
}

TEST_F(ExecutorAttemptsTest, ANodeThatDiesBeforeItCouldCommitHasLostItsAttempt) {
  Host(1);
  Host(2);
  Call(5, 1000);
  ASSERT_TRUE(em_.BeginCommit(delivered_[0].first, delivered_[0].second.id));
  em_.ForgetNode(delivered_[0].first);
  em_.LoseCommit(delivered_[0].second.id, 10);
  em_.Poll(11);
  ASSERT_EQ(delivered_.size(), 2u);
  EXPECT_EQ(delivered_[1].second.attempt, 2u);
  em_.Poll(1000);
  ASSERT_EQ(answers_.size(), 1u) << "its deadline counts again";
  EXPECT_EQ(answers_[0].second.reason, Reason::kDeadline);
}

TEST_F(ExecutorAttemptsTest, ACallerMayDieWhileItsInvocationCommits) {
  Host(1);
  Call(5, 1000);
  ASSERT_TRUE(em_.BeginCommit(1, delivered_[0].second.id));
  em_.ForgetNode(0);
  em_.EndCommit(delivered_[0].second.id, StatusCode::kOk, {70}, 2002);
  EXPECT_TRUE(released_.contains(70));
  EXPECT_TRUE(released_.contains(5));
  EXPECT_FALSE(em_.has_queued());
}

TEST_F(ExecutorAttemptsTest, AttemptsAreLimited) {
  for (NodeId node = 1; node <= 3; ++node) Host(node, 1, {.max_attempts = 2});
  Call(9);
  em_.ForgetNode(delivered_[0].first);
  em_.Poll(1);
  em_.ForgetNode(delivered_[1].first);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.reason, Reason::kNodeLost);
  EXPECT_EQ(answers_[0].second.attempts, 2u);
  ASSERT_EQ(history_.size(), 2u);
  EXPECT_EQ(history_[0].node, "one");
  EXPECT_EQ(history_[1].node, "two");
  EXPECT_EQ(history_[1].end, FailedAttempt::End::kNodeGone);
  EXPECT_TRUE(released_.contains(9));
}

TEST_F(ExecutorAttemptsTest, AnErrorIsAnAttemptThatFailedAndTheLastOneIsTheCallers) {
  for (NodeId node = 1; node <= 3; ++node) Host(node, 2, {.max_concurrency = 2});
  Call(9);
  Finish(0, {61}, StatusCode::kNotFound);
  EXPECT_TRUE(released_.contains(61)) << "a message that nobody will read";
  em_.Poll(1);
  ASSERT_EQ(delivered_.size(), 2u);
  EXPECT_NE(delivered_[1].first, delivered_[0].first) << "another node is tried first";
  EXPECT_EQ(delivered_[1].second.attempt, 2u);
  em_.ForgetNode(delivered_[1].first);
  em_.Poll(2);
  ASSERT_EQ(delivered_.size(), 3u);
  EXPECT_TRUE(answers_.empty());
  Finish(2, {63}, StatusCode::kAborted);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.code, StatusCode::kAborted);
  EXPECT_EQ(answers_[0].second.reason, Reason::kFunctionFailed);
  EXPECT_EQ(answers_[0].second.payload.extent, 63u);
  ASSERT_EQ(history_.size(), 3u);
  EXPECT_EQ(history_[0].end, FailedAttempt::End::kError);
  EXPECT_EQ(history_[0].code, StatusCode::kNotFound);
  EXPECT_EQ(history_[1].end, FailedAttempt::End::kNodeGone);
  EXPECT_EQ(history_[2].code, StatusCode::kAborted);
  EXPECT_TRUE(released_.contains(9));
}

TEST_F(ExecutorAttemptsTest, AnAttemptAfterAnErrorMayEndItWell) {
  Host(1, 2);
  Call(9);
  Finish(0, {61}, StatusCode::kInternal);
  em_.Poll(1);
  ASSERT_EQ(delivered_.size(), 2u) << "on the only node there is";
  Finish(1, {62});
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.code, StatusCode::kOk);
  EXPECT_EQ(answers_[0].second.attempts, 2u);
}

TEST_F(ExecutorAttemptsTest, WhatCannotBeCommittedIsAnAttemptThatFailed) {
  Host(1, 2, {.max_attempts = 2});
  Call(9);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(answers_.empty());
    ASSERT_EQ(delivered_.size(), i + 1);
    ASSERT_TRUE(em_.BeginCommit(1, delivered_[i].second.id));
    em_.EndCommit(delivered_[i].second.id, StatusCode::kResourceExhausted, {60 + i}, 10);
    em_.Poll(11);
  }
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.code, StatusCode::kResourceExhausted);
  EXPECT_EQ(history_.size(), 2u);
}

TEST_F(ExecutorAttemptsTest, ACallerMayTakeTheFirstErrorAsTheEnd) {
  Host(1, 2);
  Call(CallSpec{.waiter = Waiter{0, 9, 1}, .input = {9}, .errors_are_final = true});
  Finish(0, {61}, StatusCode::kNotFound);
  em_.Poll(1);
  EXPECT_EQ(delivered_.size(), 1u);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].second.payload.extent, 61u);
}

TEST_F(ExecutorAttemptsTest, NodesOfOneNameAreToldApart) {
  name_[1] = name_[2] = "twin";
  const FunctionLimits limits{.max_concurrency = 2, .max_attempts = 2};
  Host(1, 2, limits);
  Host(2, 1, limits);
  Call(CallSpec{.caller = 0, .waiter = Waiter{0, 5, 1}, .node_name = "twin"});
  for (std::size_t i = 0; i < 2; ++i) {
    em_.Poll(0);
    ASSERT_EQ(delivered_.size(), i + 1);
    EXPECT_EQ(delivered_[i].first, i + 1) << "another node first";
    Finish(i, {}, absl::StatusCode::kInternal);
  }
  ASSERT_EQ(history_.size(), 2u);
  EXPECT_EQ(history_[0].node, "twin (node 1)");
  EXPECT_EQ(history_[1].node, "twin (node 2)");
}

}  // namespace
}  // namespace apta::scheduler
