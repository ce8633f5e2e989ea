// Runs of workflows: data, states, errors.
#include "compute/workflow/execution.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fmt/format.h"
#include "tests/compute/workflow/driver.h"

namespace apta::workflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- data -----------------------------------------------------------------------------------

TEST(ExecutionTest, DataFlowsThroughAPassAsItsFieldsSay) {
  const std::tuple<std::string, std::string, std::string> cases[] = {
      {"", R"({"a":1})", R"({"a":1})"},
      {R"(,"Result":7)", R"({"a":1})", "7"},
      {R"(,"Result":7,"ResultPath":"$.r")", R"({"a":1})", R"({"a":1,"r":7})"},
      {R"(,"Result":7,"ResultPath":"$.r.s")", R"({"a":1})", R"({"a":1,"r":{"s":7}})"},
      {R"(,"Result":7,"ResultPath":null)", R"({"a":1})", R"({"a":1})"},
      {R"(,"InputPath":"$.a")", R"({"a":1})", "1"},
      {R"(,"InputPath":null)", R"({"a":1})", "{}"},
      {R"(,"OutputPath":"$.a")", R"({"a":1})", "1"},
      {R"(,"OutputPath":null)", R"({"a":1})", "{}"},
      {R"(,"InputPath":"$.l[*].n")", R"({"l":[{"n":1},{"n":2}]})", "[1,2]"},
      {R"(,"Parameters":{"x.$":"$.a","y":2})", R"({"a":1})", R"({"x":1,"y":2})"},
      {R"(,"InputPath":"$.a","Parameters":{"x.$":"$.b"},"ResultPath":"$.c","OutputPath":"$.c.x")",
       R"({"a":{"b":5}})", "5"},
      {R"(,"Parameters":{"n.$":"$$.Execution.Name","s.$":"$$.State.Name",
           "i.$":"$$.Execution.Input.a","r.$":"$$.State.RetryCount"})",
       R"({"a":1})", R"({"n":"test","s":"A","i":1,"r":0})"},
  };
  for (const auto& [fields, input, output] : cases) {
    EXPECT_EQ(Driver(One(R"("Type":"Pass","End":true)" + fields)).Output(input), Read(output))
        << fields;
  }
}

TEST(ExecutionTest, WhatCannotBeDoneWithTheDataIsAnErrorByItsName) {
  const std::tuple<std::string, std::string, std::string> cases[] = {
      {R"(,"InputPath":"$.x")", "{}", "States.Runtime"},
      {R"(,"OutputPath":"$.x")", "{}", "States.Runtime"},
      {R"(,"Parameters":{"a.$":"$.x"})", "{}", "States.ParameterPathFailure"},
      {R"json(,"Parameters":{"a.$":"States.MathAdd('x',1)"})json", "{}", "States.IntrinsicFailure"},
      {R"(,"Result":1,"ResultPath":"$.a.b")", R"({"a":1})", "States.ResultPathMatchFailure"},
      {R"(,"Result":1,"ResultPath":"$.a[1]")", R"({"a":[0]})", "States.ResultPathMatchFailure"},
  };
  for (const auto& [fields, input, error] : cases) {
    Driver run(One(R"("Type":"Pass","End":true)" + fields));
    EXPECT_EQ(run.Error(input), error) << fields;
    EXPECT_EQ(run.failed_state(), "A");
  }
}

TEST(ExecutionTest, AFunctionGetsItsInputAsJsonAndItsResultGoesOn) {
  Driver run(OneTask(R"(,"Parameters":{"n.$":"$.a","apta.reads.$":"$.keys","apta.node":"c1"},
      "ResultSelector":{"got.$":"$.sum"},"ResultPath":"$.r","TimeoutSecondsPath":"$.t")"));
  run.On("f", [](const TaskCall&) { return R"({"sum":3,"more":4})"; });
  EXPECT_EQ(run.Output(R"({"a":1,"keys":["k1","k2"],"t":7})"),
            Read(R"({"a":1,"keys":["k1","k2"],"t":7,"r":{"got":3}})"));
  ASSERT_EQ(run.calls().size(), 1u);
  EXPECT_EQ(run.calls()[0].input, R"({"n":1})");
  EXPECT_THAT(run.calls()[0].reads, ElementsAre("k1", "k2"));
  EXPECT_EQ(run.calls()[0].node, "c1");
  EXPECT_EQ(run.calls()[0].timeout, absl::Seconds(7));
}

TEST(ExecutionTest, ParametersThatOnlyPlaceATaskLeaveItsInput) {
  Driver run(OneTask(R"(,"Parameters":{"apta.reads":"k","apta.node.$":"$.where"})"));
  run.On("f", Echo);
  EXPECT_EQ(run.Output(R"({"where":"c2"})"), Read(R"({"where":"c2"})"));
  EXPECT_THAT(run.calls()[0].reads, ElementsAre("k"));
  EXPECT_EQ(run.calls()[0].node, "c2");
  EXPECT_EQ(run.calls()[0].timeout, absl::Seconds(60));
  EXPECT_EQ(Driver(OneTask(R"(,"Parameters":{"apta.node.$":"$.where"})")).Error(R"({"where":3})"),
            "States.IntrinsicFailure");
}

TEST(ExecutionTest, AResultIsJsonOrNothing) {
  Driver nothing(OneTask());
  nothing.On("f", [](const TaskCall&) { return ""; });
  EXPECT_EQ(nothing.Output(), Json());
  Driver text(OneTask());
  text.On("f", [](const TaskCall&) { return "no json"; });
  EXPECT_EQ(text.Error(), "INTERNAL");
  EXPECT_THAT(text.cause(), HasSubstr("function f returned 7 bytes that are not JSON"));
}

// ---- states ---------------------------------------------------------------------------------

TEST(ExecutionTest, AChoiceTakesTheFirstRuleThatHolds) {
  const std::string machine = Machine(R"("A":{"Type":"Choice","Choices":[
      {"Variable":"$.n","NumericLessThan":1,"Next":"Low"},
      {"Variable":"$.n","NumericLessThan":5,"Next":"Mid"}],"Default":"High"},
      "Low":{"Type":"Pass","Result":"low","End":true},
      "Mid":{"Type":"Pass","Result":"mid","End":true},
      "High":{"Type":"Pass","Result":"high","End":true})");
  EXPECT_EQ(Driver(machine).Output(R"({"n":0})"), "low");
  EXPECT_EQ(Driver(machine).Output(R"({"n":1})"), "mid");
  EXPECT_EQ(Driver(machine).Output(R"({"n":9})"), "high");
  EXPECT_EQ(Driver(machine).Error("{}"), "States.Runtime");
  const std::string narrow = Machine(R"("A":{"Type":"Choice","Choices":[
      {"Variable":"$.n","IsNull":true,"Next":"B"}]},"B":{"Type":"Succeed"})");
  EXPECT_EQ(Driver(narrow).Error(R"({"n":1})"), "States.NoChoiceMatched");
}

TEST(ExecutionTest, WaitsLastAsLongAsTheySay) {
  const std::tuple<std::string, std::string, double> cases[] = {
      {R"("Seconds":90)", "{}", 90},
      {R"("Seconds":0)", "{}", 0},
      {R"("SecondsPath":"$.s")", R"({"s":5})", 5},
      {R"("Timestamp":"2023-11-14T22:13:30Z")", "{}", 10},
      {R"("Timestamp":"2001-01-01T00:00:00Z")", "{}", 0},
      {R"("TimestampPath":"$.t")", R"({"t":"2023-11-14T22:14:20.5Z"})", 60.5},
  };
  for (const auto& [field, input, seconds] : cases) {
    Driver run(One(R"("Type":"Wait","End":true,)" + field));
    EXPECT_EQ(run.Output(input), Read(input));
    EXPECT_DOUBLE_EQ(run.seconds(), seconds) << field;
  }
  for (const std::string input : {R"({})", R"({"s":-1})", R"({"s":"1"})", R"({"s":1.5})"}) {
    EXPECT_EQ(Driver(One(R"("Type":"Wait","End":true,"SecondsPath":"$.s")")).Error(input),
              "States.Runtime");
  }
  EXPECT_EQ(Driver(One(R"("Type":"Wait","End":true,"TimestampPath":"$.t")")).Error(R"({"t":"x"})"),
            "States.Runtime");
}

TEST(ExecutionTest, AFailStateSaysWhy) {
  Driver fixed(One(R"("Type":"Fail","Error":"Mine","Cause":"because")"));
  EXPECT_EQ(fixed.Error(), "Mine");
  EXPECT_EQ(fixed.cause(), "because");
  Driver dynamic(
      One(R"json("Type":"Fail","ErrorPath":"$.e","CausePath":"States.Format('n={}',$.n)")json"));
  EXPECT_EQ(dynamic.Error(R"({"e":"Yours","n":3})"), "Yours");
  EXPECT_EQ(dynamic.cause(), "n=3");
}

TEST(ExecutionTest, BranchesOfAParallelRunAtOnceAndComeBackInOrder) {
  Driver run(One(R"("Type":"Parallel","ResultPath":"$.r","End":true,"Branches":[
      {"StartAt":"L","States":{"L":{"Type":"Task","Resource":"slow","End":true}}},
      {"StartAt":"R","States":{"R":{"Type":"Task","Resource":"fast","Next":"S"},
                               "S":{"Type":"Succeed","OutputPath":"$.x"}}}])"));
  run.On(
      "slow", [](const TaskCall&) { return "1"; }, absl::Seconds(3));
  run.On("fast", Echo, absl::Seconds(1));
  EXPECT_EQ(run.Output(R"({"x":5})"), Read(R"({"x":5,"r":[1,5]})"));
  EXPECT_DOUBLE_EQ(run.seconds(), 3);
  EXPECT_THAT(run.log(), ElementsAre(">A", ">A[0]/L", ">A[1]/R", "<A[1]/R", ">A[1]/S", "<A[1]/S",
                                     "<A[0]/L", "<A"));
}

TEST(ExecutionTest, AFailingBranchEndsTheOthers) {
  const std::string parallel = R"("Type":"Parallel","Branches":[
      {"StartAt":"L","States":{"L":{"Type":"Wait","Seconds":100,"End":true}}},
      {"StartAt":"N","States":{"N":{"Type":"Task","Resource":"slow","End":true}}},
      {"StartAt":"R","States":{"R":{"Type":"Fail","Error":"Bad"}}}])";
  Driver run(One(parallel + R"(,"End":true)"));
  run.On("slow", Echo, absl::Seconds(50));
  EXPECT_EQ(run.Error(), "Bad");
  EXPECT_EQ(run.failed_state(), "R");
  EXPECT_DOUBLE_EQ(run.seconds(), 0);
  for (const std::string name : {"Bad", "States.BranchFailed", "States.ALL"}) {
    Driver caught(Machine(R"("A":{)" + parallel + R"(,"Next":"B","Catch":[{"ErrorEquals":[")" +
                          name + R"("],"ResultPath":"$.e","Next":"B"}]},"B":{"Type":"Wait",
                          "Seconds":200,"End":true})"));
    caught.On("slow", Echo, absl::Seconds(50));
    EXPECT_EQ(caught.Output(R"({"x":1})"), Read(R"({"x":1,"e":{"Error":"Bad","Cause":""}})"));
    EXPECT_DOUBLE_EQ(caught.seconds(), 200) << "the late result of slow counted";
  }
}

TEST(ExecutionTest, AMapWorksOnEachItem) {
  const std::string iterator = R"("StartAt":"I","States":{"I":{"Type":"Task","Resource":"f",
      "End":true}})";
  Driver run(One(R"("Type":"Map","End":true,"ItemsPath":"$.l","ResultPath":"$.r","ItemSelector":
      {"i.$":"$$.Map.Item.Index","v.$":"$$.Map.Item.Value","k.$":"$.k"},"ItemProcessor":{)" +
                 iterator + "}"));
  run.On("f", Echo, absl::Seconds(1));
  EXPECT_EQ(run.Output(R"({"l":["a","b"],"k":9})"),
            Read(R"({"l":["a","b"],"k":9,"r":[{"i":0,"v":"a","k":9},{"i":1,"v":"b","k":9}]})"));
  EXPECT_DOUBLE_EQ(run.seconds(), 1);
  Driver plain(One(R"("Type":"Map","End":true,"Iterator":{)" + iterator + "}"));
  plain.On("f", Echo);
  EXPECT_EQ(plain.Output("[1,[2],{}]"), Read("[1,[2],{}]"));
  EXPECT_EQ(plain.Output("[]"), Read("[]"));
  EXPECT_EQ(plain.Error("{}"), "States.Runtime");
  EXPECT_EQ(plain.Error(R"("text")"), "States.Runtime");
}

TEST(ExecutionTest, AnItemsStatesSeeTheItem) {
  Driver run(One(R"("Type":"Map","End":true,"Iterator":{"StartAt":"I","States":{
      "I":{"Type":"Pass","Next":"J"},
      "J":{"Type":"Pass","End":true,"Parameters":{"i.$":"$$.Map.Item.Index"}}}})"));
  EXPECT_EQ(run.Output("[7,8]"), Read(R"([{"i":0},{"i":1}])"));
}

TEST(ExecutionTest, MaxConcurrencyHoldsItemsBack) {
  for (const auto& [field, most, seconds] :
       {std::tuple(R"("MaxConcurrency":3)", 3u, 4.0), std::tuple(R"("MaxConcurrency":0)", 10u, 1.0),
        std::tuple(R"("MaxConcurrencyPath":"$.m")", 5u, 2.0)}) {
    Driver run(One(std::string(field) + R"(,"Type":"Map","End":true,"ItemsPath":"$.l","Iterator":
        {"StartAt":"I","States":{"I":{"Type":"Task","Resource":"f","End":true}}})"));
    run.On("f", Echo, absl::Seconds(1));
    EXPECT_EQ(run.Output(R"({"l":[0,1,2,3,4,5,6,7,8,9],"m":5})"), Read("[0,1,2,3,4,5,6,7,8,9]"));
    EXPECT_EQ(run.most_under_way(), most) << field;
    EXPECT_DOUBLE_EQ(run.seconds(), seconds) << field;
  }
}

TEST(ExecutionTest, AnItemThatFailsEndsItsMapAndNoMoreAreBegun) {
  Driver run(One(R"("Type":"Map","End":true,"MaxConcurrency":1,"Iterator":
      {"StartAt":"I","States":{"I":{"Type":"Task","Resource":"f","End":true}}})"));
  run.OnFails("f", {absl::OkStatus(), absl::NotFoundError("gone")});
  EXPECT_EQ(run.Error("[1,2,3,4]"), "NOT_FOUND");
  EXPECT_EQ(run.calls().size(), 2u);
}

// ---- errors ---------------------------------------------------------------------------------

TEST(ExecutionTest, RetriesComeAfterGrowingDelays) {
  const absl::Status down = absl::UnavailableError("down");
  struct Case {
    std::string fields;
    std::vector<double> delays;
  };
  const Case cases[] = {
      {"", {1, 2, 4}},
      {R"(,"IntervalSeconds":3)", {3, 6, 12}},
      {R"(,"IntervalSeconds":3,"BackoffRate":1,"MaxAttempts":5)", {3, 3, 3, 3, 3}},
      {R"(,"IntervalSeconds":3,"MaxDelaySeconds":5)", {3, 5, 5}},
      {R"(,"BackoffRate":1.5,"MaxAttempts":4)", {1, 1.5, 2.25, 3.375}},
      {R"(,"MaxAttempts":0)", {}},
  };
  for (const auto& [fields, delays] : cases) {
    Driver run(OneTask(R"(,"Retry":[{"ErrorEquals":["UNAVAILABLE"])" + fields + "}]"));
    run.OnFails("f", std::vector(delays.size() + 1, down));
    EXPECT_EQ(run.Error(), "UNAVAILABLE") << fields;
    EXPECT_EQ(run.delays(), delays) << fields;
    double sum = 0;
    for (const double delay : delays) sum += delay;
    EXPECT_DOUBLE_EQ(run.seconds(), sum);
    Driver recovers(OneTask(R"(,"Retry":[{"ErrorEquals":["UNAVAILABLE"])" + fields + "}]"));
    recovers.OnFails("f", std::vector(delays.size(), down));
    EXPECT_EQ(recovers.Output(R"({"x":1})"), Read(R"({"x":1})"));
  }
}

TEST(ExecutionTest, JitterIsAShareOfTheDelay) {
  Driver run(OneTask(R"(,"Retry":[{"ErrorEquals":["States.ALL"],"IntervalSeconds":100,
      "BackoffRate":1,"MaxAttempts":50,"JitterStrategy":"FULL"}])"));
  run.OnFails("f", std::vector(50, absl::Status(absl::InternalError("x"))));
  EXPECT_EQ(run.Output("{}"), Json::object());
  const auto [least, most] = std::minmax_element(run.delays().begin(), run.delays().end());
  EXPECT_GE(*least, 0);
  EXPECT_LT(*least, 20);
  EXPECT_GT(*most, 80);
  EXPECT_LE(*most, 100);
}

TEST(ExecutionTest, EachRetrierCountsForItselfAndAgainInEachState) {
  Driver run(Machine(R"("A":{"Type":"Task","Resource":"f","Next":"B","Retry":[
      {"ErrorEquals":["NOT_FOUND"],"MaxAttempts":1},{"ErrorEquals":["States.ALL"],"MaxAttempts":2,
       "IntervalSeconds":10}]},
      "B":{"Type":"Task","Resource":"g","End":true,"Retry":[{"ErrorEquals":["NOT_FOUND"],
       "MaxAttempts":1}]})"));
  const absl::Status lost = absl::NotFoundError("");
  run.OnFails("f", {lost, absl::AbortedError(""), absl::AbortedError("")});
  run.OnFails("g", {lost});
  EXPECT_EQ(run.Output(), Json::object());
  EXPECT_THAT(run.delays(), ElementsAre(1, 10, 20, 1));
}

TEST(ExecutionTest, NamesOfErrorsMatchAsTheSpecificationSays) {
  const absl::Status timeout = absl::DeadlineExceededError("");
  const absl::Status lost = absl::NotFoundError("");
  const std::tuple<std::string, absl::Status, bool> cases[] = {
      {"States.ALL", lost, true},        {"States.ALL", timeout, true},
      {"States.TaskFailed", lost, true}, {"States.TaskFailed", timeout, false},
      {"States.Timeout", timeout, true}, {"States.Timeout", lost, false},
      {"NOT_FOUND", lost, true},         {"DEADLINE_EXCEEDED", timeout, true},
      {"not_found", lost, false},        {"States.BranchFailed", lost, false},
  };
  for (const auto& [name, status, matches] : cases) {
    Driver run(
        Machine(R"("A":{"Type":"Task","Resource":"f","Next":"B","Catch":[{"ErrorEquals":[")" +
                name + R"("],"Next":"C"}]},"B":{"Type":"Succeed"},"C":{"Type":"Succeed"})"));
    run.OnFails("f", {status});
    EXPECT_EQ(run.Error(), matches          ? "none"
                           : status == lost ? "NOT_FOUND"
                                            : "States.Timeout")
        << name;
  }
}

TEST(ExecutionTest, ACatchPutsTheErrorWhereItSays) {
  const std::pair<std::string, std::string> cases[] = {
      {"", R"({"Error":"NOT_FOUND","Cause":"gone"})"},
      {R"(,"ResultPath":"$.e")", R"({"x":1,"e":{"Error":"NOT_FOUND","Cause":"gone"}})"},
      {R"(,"ResultPath":null)", R"({"x":1})"},
  };
  for (const auto& [fields, output] : cases) {
    Driver run(Machine(R"("A":{"Type":"Task","Resource":"f","Next":"B","Retry":[
        {"ErrorEquals":["States.ALL"],"MaxAttempts":1}],"Catch":[
        {"ErrorEquals":["ABORTED"],"Next":"B"},{"ErrorEquals":["States.ALL"],"Next":"C")" +
                       fields + R"(}]},"B":{"Type":"Fail"},"C":{"Type":"Succeed"})"));
    run.OnFails("f", {absl::NotFoundError("gone"), absl::NotFoundError("gone")});
    EXPECT_EQ(run.Output(R"({"x":1})"), Read(output));
    EXPECT_THAT(run.log(), ElementsAre(">A", "~A", "!A", ">C", "<C"));
  }
}

TEST(ExecutionTest, AParallelStateIsRetriedAsAWhole) {
  Driver run(One(R"("Type":"Parallel","End":true,"Retry":[{"ErrorEquals":["ABORTED"]}],"Branches":[
      {"StartAt":"L","States":{"L":{"Type":"Task","Resource":"f","End":true}}},
      {"StartAt":"R","States":{"R":{"Type":"Task","Resource":"g","End":true}}}])"));
  run.On("f", Echo);
  run.OnFails("g", {absl::AbortedError(""), absl::AbortedError("")});
  EXPECT_EQ(run.Output("3"), Read("[3,3]"));
  EXPECT_EQ(run.calls().size(), 6u);
}

TEST(ExecutionTest, ARunThatTakesTooLongTimesOutWhateverCatches) {
  Driver run(R"({"StartAt":"A","TimeoutSeconds":5,"States":{"A":{"Type":"Task","Resource":"f",
      "End":true,"TimeoutSeconds":3,"Retry":[{"ErrorEquals":["States.ALL"],"MaxAttempts":99}],
      "Catch":[{"ErrorEquals":["States.ALL"],"Next":"B"}]},"B":{"Type":"Succeed"}}})");
  run.On("f", Echo, absl::Seconds(100));
  EXPECT_EQ(run.Error(), "States.Timeout");
  EXPECT_DOUBLE_EQ(run.seconds(), 5);
  EXPECT_THAT(run.cause(), HasSubstr("TimeoutSeconds, 5"));
}

}  // namespace
}  // namespace apta::workflow
