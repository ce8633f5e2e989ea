#include "daemon/commit_group.h"

#include <gtest/gtest.h>

namespace apta::daemon {
namespace {

using Kind = GroupMessage::Kind;
using Order = CommitGroup::Order;
using State = CommitGroup::State;

TEST(CommitGroupTest, ShardsPrepareOneAfterTheOtherAndDoTheRestTogether) {
  CommitGroup group({1, 2, 5});
  EXPECT_EQ(group.Begin(), Order::kPrepare);
  EXPECT_EQ(group.next_shard(), 1);
  EXPECT_EQ(group.OnAnswer(Kind::kPrepared), Order::kPrepare);
  EXPECT_EQ(group.next_shard(), 2);
  EXPECT_EQ(group.OnAnswer(Kind::kPrepared), Order::kPrepare);
  EXPECT_EQ(group.next_shard(), 5);
  EXPECT_EQ(group.OnAnswer(Kind::kPrepared), Order::kPublish);
  EXPECT_EQ(group.state(), State::kPublishing);
  EXPECT_EQ(group.OnAnswer(Kind::kPublished), Order::kNothing);
  EXPECT_EQ(group.OnAnswer(Kind::kPublished), Order::kNothing);
  EXPECT_EQ(group.OnAnswer(Kind::kPublished), Order::kFlip) << "when the last has published";
  EXPECT_EQ(group.OnAnswer(Kind::kFlipped), Order::kNothing);
  EXPECT_EQ(group.OnAnswer(Kind::kFlipped), Order::kNothing);
  EXPECT_EQ(group.OnAnswer(Kind::kFlipped), Order::kFinish);
  EXPECT_EQ(group.state(), State::kCommitted);
}

TEST(CommitGroupTest, WhatIsLoggedIsPublishedWhenItIsDurable) {
  CommitGroup group({1, 2}, /*is_logged=*/true);
  EXPECT_EQ(group.Begin(), Order::kPrepare);
  EXPECT_EQ(group.OnAnswer(Kind::kPrepared), Order::kPrepare);
  EXPECT_EQ(group.OnAnswer(Kind::kPrepared), Order::kLog);
  EXPECT_EQ(group.state(), State::kLogging);
  EXPECT_EQ(group.OnAnswer(Kind::kLogged), Order::kPublish);
  EXPECT_EQ(group.state(), State::kPublishing);
}

TEST(CommitGroupTest, WhatTheLogRefusesIsAbortedEverywhere) {
  CommitGroup group({1, 2}, /*is_logged=*/true);
  group.Begin();
  group.OnAnswer(Kind::kPrepared);
  group.OnAnswer(Kind::kPrepared);
  EXPECT_EQ(group.OnAnswer(Kind::kUnlogged), Order::kAbort);
  EXPECT_EQ(group.state(), State::kRefused);
  EXPECT_EQ(group.refusing_shard(), -1);
}

TEST(CommitGroupTest, OneRefusalAbortsIt) {
  for (int prepared = 0; prepared < 3; ++prepared) {
    CommitGroup group({0, 1, 2});
    group.Begin();
    for (int i = 0; i < prepared; ++i) EXPECT_EQ(group.OnAnswer(Kind::kPrepared), Order::kPrepare);
    EXPECT_EQ(group.OnAnswer(Kind::kRefused), Order::kAbort);
    EXPECT_EQ(group.state(), State::kRefused);
    EXPECT_EQ(group.refusing_shard(), prepared);
  }
}

TEST(CommitGroupTest, AGroupOfNothingCommits) {
  CommitGroup group({});
  EXPECT_EQ(group.Begin(), Order::kFinish);
  EXPECT_EQ(group.state(), State::kCommitted);
}

TEST(CommitGroupDeathTest, AnAnswerToWhatWasNotSaidIsOurOwnMistake) {
  const Kind kinds[] = {Kind::kPrepared, Kind::kRefused, Kind::kPublished, Kind::kFlipped};
  for (const Kind answer : kinds) {
    CommitGroup ended({0});
    ended.Begin();
    ended.OnAnswer(Kind::kRefused);
    EXPECT_DEATH(ended.OnAnswer(answer), "invariant");
    CommitGroup preparing({0});
    preparing.Begin();
    if (answer != Kind::kPrepared && answer != Kind::kRefused) {
      EXPECT_DEATH(preparing.OnAnswer(answer), "invariant");
    }
    CommitGroup publishing({0});
    publishing.Begin();
    publishing.OnAnswer(Kind::kPrepared);
    if (answer != Kind::kPublished) EXPECT_DEATH(publishing.OnAnswer(answer), "invariant");
    publishing.OnAnswer(Kind::kPublished);
    if (answer != Kind::kFlipped) EXPECT_DEATH(publishing.OnAnswer(answer), "invariant");
  }
}

}  // namespace
}  // namespace apta::daemon
