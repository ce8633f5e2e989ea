// What a run may not outgrow: transitions, data, branches, the queue of calls.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fmt/format.h"
#include "tests/compute/workflow/driver.h"

namespace apta::workflow {
namespace {

using ::testing::HasSubstr;

TEST(BoundsTest, ALoopWithoutAnEndEnds) {
  Driver run(Machine(R"("A":{"Type":"Pass","Next":"B"},"B":{"Type":"Choice","Default":"A",
      "Choices":[{"Variable":"$.stop","IsPresent":true,"Next":"C"}]},"C":{"Type":"Succeed"})"));
  EXPECT_EQ(run.Error("{}"), "States.Runtime");
  EXPECT_THAT(run.cause(), HasSubstr("100000 state transitions"));
  EXPECT_EQ(run.Error(R"({"stop":1})"), "none");
}

TEST(BoundsTest, DataThatGrowsWithoutEndIsAnError) {
  const auto loop = [](const std::string& parameters) {
    return Machine(R"("A":{"Type":"Pass","Parameters":{)" + parameters + R"(},"Next":"B"},
        "B":{"Type":"Choice","Default":"A","Choices":[
        {"Variable":"$.stop","IsPresent":true,"Next":"C"}]},"C":{"Type":"Succeed"})");
  };
  Driver deeper(loop(R"("a.$":"$")"));
  EXPECT_EQ(deeper.Error("{}"), "States.DataLimitExceeded");
  Driver longer(
      loop(R"json("a.$":"States.Format('{}{}{}{}{}{}{}{}',$.a,$.a,$.a,$.a,$.a,$.a,$.a,$.a)")json"));
  EXPECT_EQ(longer.Error(R"({"a":"xxxxxxxx"})"), "States.DataLimitExceeded");
}

TEST(BoundsTest, RetriesAreTransitions) {
  Driver run(OneTask(R"(,"Retry":[{"ErrorEquals":["States.ALL"],"MaxAttempts":99999999}])"));
  run.On("f", [](const TaskCall&) { return absl::AbortedError(""); });
  run.LimitTransitions(10);
  EXPECT_EQ(run.Error(), "States.Runtime");
  EXPECT_THAT(run.cause(), HasSubstr("10 state transitions"));
  EXPECT_EQ(run.calls().size(), 10u);
}

// `count` branches of a Parallel, each with one state.
std::string Branches(int count, const std::string& state) {
  std::string branches;
  for (int i = 0; i < count; ++i) {
    branches += fmt::format(R"({}{{"StartAt":"S{}","States":{{"S{}":{{{},"End":true}}}}}})",
                            i == 0 ? "" : ",", i, i, state);
  }
  return One(R"("Type":"Parallel","End":true,"Branches":[)" + branches + "]");
}
const std::string kMegabyte = '"' + std::string(1'000'000, 'x') + '"';

TEST(BoundsTest, BranchesOfAParallelShareItsInputAndBeginAsThereIsRoom) {
  Driver run(Branches(5000, R"("Type":"Pass","Result":1)"));
  run.LimitData(2'000'000);
  EXPECT_EQ(run.Output(kMegabyte), Json(5000, Json(1)));
  EXPECT_LE(run.most_branches(), Execution::kMaxBranches);
}

TEST(BoundsTest, WhatAllItsBranchesHoldIsTheRuns) {
  const std::string each = R"("Type":"Map","End":true,"Iterator":{"StartAt":"I","States":{
      "I":{"Type":"Pass","End":true,"Parameters":{"e.$":"$$.Execution.Input[0]"}}}})";
  Driver results(One(each));
  Json items(10'000, Json(0));
  items[0] = std::string(100'000, 'x');
  Driver copies(Branches(100, R"("Type":"Pass")"));
  std::string doubling;
  for (int i = 0; i < 40; ++i) {
    doubling += fmt::format(R"("{}":{{"Type":"Pass","Next":"{}",
        "Parameters":{{"a.$":"$","b.$":"$"}}}},)",
                            i == 0 ? "A" : fmt::format("S{}", i), fmt::format("S{}", i + 1));
  }
  Driver doubled(Machine(doubling + R"("S40":{"Type":"Succeed"})"));
  const std::tuple<Driver*, std::string, std::string> cases[] = {
      {&results, items.dump(), "I"}, {&copies, kMegabyte, "A"}, {&doubled, "{}", "S14"}};
  for (const auto& [run, input, state] : cases) {
    run->LimitData(8'000'000);
    EXPECT_EQ(run->Error(input), "States.DataLimitExceeded");
    EXPECT_EQ(run->failed_state(), state);
    EXPECT_THAT(run->cause(), HasSubstr("bytes that are left"));
  }
}

TEST(BoundsTest, AnInputThatIsTooLargeFailsTheRunAtItsStart) {
  Driver run(One(R"("Type":"Pass","End":true)"));
  run.LimitData(100'000);
  EXPECT_EQ(run.Error(kMegabyte), "States.DataLimitExceeded");
  EXPECT_EQ(run.failed_state(), "A");
}

TEST(BoundsTest, WhatAStateHeldIsFreeOnceItIsCaught) {
  Driver run(Machine(R"("A":{"Type":"Pass","Parameters":{"a.$":"$","b.$":"$"},"Next":"M"},
      "M":{"Type":"Map","ItemsPath":"$.a","End":true,"Iterator":{"StartAt":"I","States":{"I":{
        "Type":"Pass","Parameters":{"e.$":"$$.Execution.Input"},"End":true}}},
        "Catch":[{"ErrorEquals":["States.DataLimitExceeded"],"ResultPath":null,"Next":"N"}]},
      "N":{"Type":"Pass","InputPath":"$.b","End":true})"));
  run.LimitData(100'000);
  const Json items(100, std::string(100, 'x'));
  EXPECT_EQ(run.Output(items.dump()), items);
}

TEST(BoundsTest, ATaskWaitsUntilItsInputFits) {
  Driver run(Branches(4, R"("Type":"Task","Resource":"f")"));
  run.On(
      "f", [](const TaskCall&) { return "1"; }, absl::Seconds(1));
  run.LimitData(2'500'000);
  EXPECT_EQ(run.Output(kMegabyte), Read("[1,1,1,1]"));
  EXPECT_EQ(run.most_under_way(), 1u);
  run.LimitData(1'500'000);
  EXPECT_EQ(run.Error(kMegabyte), "States.DataLimitExceeded");
}

TEST(BoundsTest, AChainOfAThousandStatesIsRun) {
  std::string chain;
  for (int i = 0; i < 1000; ++i) {
    chain += fmt::format(R"({}"{}":{{"Type":"Task","Resource":"add",{}}})", i == 0 ? "" : ",",
                         i == 0 ? "A" : fmt::format("S{}", i),
                         i == 999 ? R"("End":true)" : fmt::format(R"("Next":"S{}")", i + 1));
  }
  Driver run(Machine(chain));
  run.On("add", [](const TaskCall& call) { return std::to_string(std::stoi(call.input) + 1); });
  EXPECT_EQ(run.Output("0"), 1000);
  EXPECT_EQ(run.most_branches(), 1u);
}

TEST(BoundsTest, AMapOfTenThousandItemsKeepsFewBranches) {
  Driver run(One(R"("Type":"Map","End":true,"Iterator":{"StartAt":"I","States":{
      "I":{"Type":"Task","Resource":"f","Next":"J"},"J":{"Type":"Succeed"}}})"));
  run.On("f", Echo, absl::Seconds(1));
  Json items = Json::array();
  for (int i = 0; i < 10'000; ++i) items.push_back(i);
  EXPECT_EQ(run.Output(items.dump()), items);
  EXPECT_LE(run.most_branches(), Execution::kMaxBranches);
  EXPECT_EQ(run.calls().size(), 10'000u);
}

TEST(BoundsTest, MapsInMapsGetOnWithFewBranches) {
  Driver run(One(R"("Type":"Map","End":true,"Iterator":{"StartAt":"I","States":{"I":{
      "Type":"Map","End":true,"Iterator":{"StartAt":"J","States":{"J":{"Type":"Task","Resource":"f",
      "End":true}}}}}})"));
  run.On("f", Echo, absl::Seconds(1));
  const Json items(3000, Json({1, 2, 3}));
  EXPECT_EQ(run.Output(items.dump()), items);
  EXPECT_LE(run.most_branches(), 2 * Execution::kMaxBranches);
}

// ---- a queue that is full -------------------------------------------------------------------

class RefusalTest : public ::testing::Test {
 protected:
  // Two tasks at once.
  const Definition definition_ = *ParseDefinition(One(R"("Type":"Parallel","End":true,"Branches":[
      {"StartAt":"L","States":{"L":{"Type":"Task","Resource":"f","TimeoutSeconds":9,"End":true}}},
      {"StartAt":"R","States":{"R":{"Type":"Task","Resource":"f","End":true}}}])"));
  const absl::Status full_ = absl::ResourceExhaustedError("4096 invocations wait");
  Execution run_{&definition_, Json(), {.name = "test"}, kStart};
};

TEST_F(RefusalTest, CallsAreHeldBackUntilOneEnds) {
  run_.Advance(kStart);
  const auto left = run_.TakeTask(kStart);
  const auto right = run_.TakeTask(kStart);
  ASSERT_TRUE(left && right);
  run_.OnTaskRefused(right->id, full_, kStart);
  EXPECT_FALSE(run_.TakeTask(kStart + absl::Hours(1))) << "another call is under way";
  EXPECT_EQ(run_.next_deadline(), absl::InfiniteFuture());
  run_.OnTaskEnded(left->id, "1", kStart);
  const auto again = run_.TakeTask(kStart);
  ASSERT_TRUE(again);
  run_.OnTaskEnded(right->id, "9", kStart);
  EXPECT_FALSE(run_.has_ended()) << "the refused call has been answered";
  run_.OnTaskEnded(again->id, "2", kStart);
  EXPECT_TRUE(run_.has_ended());
  EXPECT_EQ(run_.output(), Read("[1,2]"));
}

TEST_F(RefusalTest, WithNoneUnderWayItIsTriedAgainAfterAWhileUntilItsTimeout) {
  run_.Advance(kStart);
  absl::Time now = kStart;
  absl::Duration longest;
  int calls = 0;
  while (!run_.has_ended()) {
    while (const auto call = run_.TakeTask(now)) {
      run_.OnTaskRefused(call->id, full_, now);
      ++calls;
    }
    run_.Advance(now);
    if (run_.has_ended()) break;
    ASSERT_GT(run_.next_deadline(), now);
    longest = std::max(longest, run_.next_deadline() - now);
    now = run_.next_deadline();
  }
  EXPECT_EQ(run_.error()->name, "RESOURCE_EXHAUSTED");
  EXPECT_EQ(longest, absl::Milliseconds(500));
  EXPECT_GE(now - kStart, absl::Seconds(9));
  EXPECT_LT(now - kStart, absl::Seconds(10));
  EXPECT_LT(calls, 60);
}

}  // namespace
}  // namespace apta::workflow
