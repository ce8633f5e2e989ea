// Runs of workflows in virtual time: functions are lambdas, and nothing waits.
#include "compute/workflow/execution.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "compute/workflow/parser.h"
#include "fmt/format.h"

namespace apta::workflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const absl::Time kStart = absl::FromUnixSeconds(1'700'000'000);

Json Read(std::string_view text) {
  const absl::StatusOr<Json> json = ParseJson(text);
  EXPECT_TRUE(json.ok()) << text << ": " << json.status();
  return json.ok() ? *json : Json();
}

// Drives one run: calls a task as soon as it is to be had, lets its time pass, answers it.
class Driver {
 public:
  using Function = std::function<absl::StatusOr<std::string>(const TaskCall&)>;
  struct Timed {
    Function function;
    absl::Duration takes = absl::ZeroDuration();
  };

  explicit Driver(const std::string& definition) {
    absl::StatusOr<Definition> parsed = ParseDefinition(definition);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    if (parsed.ok()) definition_ = *std::move(parsed);
  }

  void On(const std::string& name, Function function, absl::Duration takes = {}) {
    functions_[name] = {std::move(function), takes};
  }
  // Fails with these statuses, in order; OK or behind their end: gives back its input.
  void OnFails(const std::string& name, std::vector<absl::Status> failures) {
    On(name,
       [failures,
        count = std::size_t{0}](const TaskCall& call) mutable -> absl::StatusOr<std::string> {
         const std::size_t now = count++;
         if (now < failures.size() && !failures[now].ok()) return failures[now];
         return call.input;
       });
  }

  void Run(const std::string& input = "{}") {
    Execution run(&definition_, Read(input),
                  {.name = "test",
                   .seed = 1,
                   .max_transitions = max_transitions_,
                   .max_data_bytes = max_data_bytes_},
                  kStart);
    std::multimap<absl::Time, std::pair<TaskId, absl::StatusOr<std::string>>> under_way;
    now_ = kStart;
    while (true) {
      run.Advance(now_);
      for (auto call = run.TakeTask(now_); call; call = run.TakeTask(now_)) {
        calls_.push_back(*call);
        const Timed& timed = functions_.at(*call->function);
        absl::StatusOr<std::string> result = timed.takes > call->timeout
                                                 ? absl::DeadlineExceededError("too slow")
                                                 : timed.function(*call);
        under_way.emplace(now_ + std::min(timed.takes, call->timeout),
                          std::pair(call->id, std::move(result)));
        most_under_way_ = std::max(most_under_way_, under_way.size());
      }
      most_branches_ = std::max(most_branches_, run.branches());
      for (StateEvent& event : run.TakeEvents()) Note(event);
      if (run.has_ended()) break;
      absl::Time next = run.next_deadline();
      if (!under_way.empty()) next = std::min(next, under_way.begin()->first);
      ASSERT_NE(next, absl::InfiniteFuture()) << "nothing will ever happen";
      now_ = std::max(now_, next);
      while (!under_way.empty() && under_way.begin()->first <= now_) {
        auto ended = under_way.extract(under_way.begin());
        run.OnTaskEnded(ended.mapped().first, std::move(ended.mapped().second), now_);
      }
    }
    output_ = run.output();
    error_ = run.error();
    failed_state_ = run.failed_state();
  }
  void LimitTransitions(std::int64_t max) { max_transitions_ = max; }
  void LimitData(std::size_t max_bytes) { max_data_bytes_ = max_bytes; }
  // Of a run that succeeds.
  Json Output(const std::string& input = "{}") {
    Run(input);
    EXPECT_FALSE(error_) << error_->name << ": " << error_->cause;
    return output_;
  }
  // Of one that fails.
  std::string Error(const std::string& input = "{}") {
    Run(input);
    return error_ ? error_->name : "none";
  }

  double seconds() const { return absl::ToDoubleSeconds(now_ - kStart); }
  std::string cause() const { return error_ ? error_->cause : ""; }
  const std::string& failed_state() const { return failed_state_; }
  const std::vector<TaskCall>& calls() const { return calls_; }
  const std::vector<std::string>& log() const { return log_; }
  const std::vector<double>& delays() const { return delays_; }
  std::size_t most_under_way() const { return most_under_way_; }
  std::size_t most_branches() const { return most_branches_; }

 private:
  void Note(const StateEvent& event) {
    constexpr std::string_view kKinds[] = {">", "~", "!", "x", "<"};
    log_.push_back(fmt::format("{}{}{}{}", kKinds[static_cast<std::size_t>(event.kind)],
                               event.branch, event.branch.empty() ? "" : "/", event.state));
    if (event.kind == StateEvent::Kind::kRetrying) {
      delays_.push_back(absl::ToDoubleSeconds(event.delay));
    }
  }

  Definition definition_;
  std::int64_t max_transitions_ = 100'000;
  std::size_t max_data_bytes_ = kMaxDataBytes;
  std::map<std::string, Timed> functions_;
  absl::Time now_;
  Json output_;
  std::optional<RunError> error_;
  std::string failed_state_;
  std::vector<TaskCall> calls_;
  std::vector<std::string> log_;
  std::vector<double> delays_;
  std::size_t most_under_way_ = 0;
  std::size_t most_branches_ = 0;
};

std::string Machine(const std::string& states) {
  return fmt::format(R"({{"StartAt":"A","States":{{{}}}}})", states);
}
std::string One(const std::string& fields) { return Machine("\"A\":{" + fields + "}"); }
std::string OneTask(const std::string& fields = "") {
  return One(R"("Type":"Task","Resource":"f","End":true)" + fields);
}
absl::StatusOr<std::string> Echo(const TaskCall& call) { return call.input; }

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

// ---- bounds ---------------------------------------------------------------------------------

TEST(ExecutionTest, ALoopWithoutAnEndEnds) {
  Driver run(Machine(R"("A":{"Type":"Pass","Next":"B"},"B":{"Type":"Choice","Default":"A",
      "Choices":[{"Variable":"$.stop","IsPresent":true,"Next":"C"}]},"C":{"Type":"Succeed"})"));
  EXPECT_EQ(run.Error("{}"), "States.Runtime");
  EXPECT_THAT(run.cause(), HasSubstr("100000 state transitions"));
  EXPECT_EQ(run.Error(R"({"stop":1})"), "none");
}

TEST(ExecutionTest, DataThatGrowsWithoutEndIsAnError) {
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

TEST(ExecutionTest, RetriesAreTransitions) {
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

TEST(ExecutionTest, BranchesOfAParallelShareItsInputAndBeginAsThereIsRoom) {
  Driver run(Branches(5000, R"("Type":"Pass","Result":1)"));
  run.LimitData(2'000'000);
  EXPECT_EQ(run.Output(kMegabyte), Json(5000, Json(1)));
  EXPECT_LE(run.most_branches(), Execution::kMaxBranches);
}

TEST(ExecutionTest, WhatAllItsBranchesHoldIsTheRuns) {
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

TEST(ExecutionTest, AnInputThatIsTooLargeFailsTheRunAtItsStart) {
  Driver run(One(R"("Type":"Pass","End":true)"));
  run.LimitData(100'000);
  EXPECT_EQ(run.Error(kMegabyte), "States.DataLimitExceeded");
  EXPECT_EQ(run.failed_state(), "A");
}

TEST(ExecutionTest, WhatAStateHeldIsFreeOnceItIsCaught) {
  Driver run(Machine(R"("A":{"Type":"Pass","Parameters":{"a.$":"$","b.$":"$"},"Next":"M"},
      "M":{"Type":"Map","ItemsPath":"$.a","End":true,"Iterator":{"StartAt":"I","States":{"I":{
        "Type":"Pass","Parameters":{"e.$":"$$.Execution.Input"},"End":true}}},
        "Catch":[{"ErrorEquals":["States.DataLimitExceeded"],"ResultPath":null,"Next":"N"}]},
      "N":{"Type":"Pass","InputPath":"$.b","End":true})"));
  run.LimitData(100'000);
  const Json items(100, std::string(100, 'x'));
  EXPECT_EQ(run.Output(items.dump()), items);
}

TEST(ExecutionTest, ATaskWaitsUntilItsInputFits) {
  Driver run(Branches(4, R"("Type":"Task","Resource":"f")"));
  run.On(
      "f", [](const TaskCall&) { return "1"; }, absl::Seconds(1));
  run.LimitData(2'500'000);
  EXPECT_EQ(run.Output(kMegabyte), Read("[1,1,1,1]"));
  EXPECT_EQ(run.most_under_way(), 1u);
  run.LimitData(1'500'000);
  EXPECT_EQ(run.Error(kMegabyte), "States.DataLimitExceeded");
}

TEST(ExecutionTest, AChainOfAThousandStatesIsRun) {
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

TEST(ExecutionTest, AMapOfTenThousandItemsKeepsFewBranches) {
  Driver run(One(R"("Type":"Map","End":true,"Iterator":{"StartAt":"I","States":{
      "I":{"Type":"Task","Resource":"f","Next":"J"},"J":{"Type":"Succeed"}}})"));
  run.On("f", Echo, absl::Seconds(1));
  Json items = Json::array();
  for (int i = 0; i < 10'000; ++i) items.push_back(i);
  EXPECT_EQ(run.Output(items.dump()), items);
  EXPECT_LE(run.most_branches(), Execution::kMaxBranches);
  EXPECT_EQ(run.calls().size(), 10'000u);
}

TEST(ExecutionTest, MapsInMapsGetOnWithFewBranches) {
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
