// What is refused before a run, and how it is said; and documents that are broken at random.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "compute/workflow/parser.h"
#include "fmt/format.h"

namespace apta::workflow {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Fault(const std::string& definition) {
  const absl::Status status = ParseDefinition(definition).status();
  if (status.ok()) return "";
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(status.message().find('\n'), absl::string_view::npos) << status;
  return std::string(status.message());
}
std::string Machine(const std::string& states, const std::string& start = "A") {
  return fmt::format(R"({{"StartAt":"{}","States":{{{}}}}})", start, states);
}
// State "A" alone, with these fields.
std::string One(const std::string& fields) { return Machine("\"A\":{" + fields + "}"); }

// A bit of everything.
const char kWhole[] = R"json({
  "Comment": "all", "Version": "1.0", "TimeoutSeconds": 300, "StartAt": "Pick", "States": {
    "Pick": {"Type": "Choice", "InputPath": "$.in", "Choices": [
        {"And": [{"Variable": "$.n", "NumericGreaterThan": 1},
                 {"Not": {"Variable": "$.s", "IsNull": true}}], "Next": "Work"},
        {"Variable": "$.at", "TimestampLessThanPath": "$$.Execution.StartTime", "Next": "Nap"}],
      "Default": "Fan"},
    "Work": {"Type": "Task", "Resource": "resize", "TimeoutSecondsPath": "$.limit",
      "Parameters": {"apta.reads.$": "$.keys", "apta.node": "c1",
                     "size.$": "States.MathAdd($.n, 1)"},
      "ResultSelector": {"r.$": "$.out"}, "ResultPath": "$.work", "OutputPath": "$.work",
      "Retry": [{"ErrorEquals": ["UNAVAILABLE", "States.Timeout"], "IntervalSeconds": 2,
                 "MaxAttempts": 5, "BackoffRate": 1.5, "MaxDelaySeconds": 9,
                 "JitterStrategy": "FULL"}, {"ErrorEquals": ["States.ALL"]}],
      "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Broken"}],
      "Next": "Nap"},
    "Nap": {"Type": "Wait", "SecondsPath": "$.nap", "Next": "Fan"},
    "Fan": {"Type": "Parallel", "ResultPath": null, "Branches": [
        {"StartAt": "Left", "States": {"Left": {"Type": "Pass", "Result": [1], "End": true}}},
        {"StartAt": "Right", "States": {"Right": {"Type": "Succeed"}}}], "Next": "Each"},
    "Each": {"Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": 3,
      "ItemSelector": {"i.$": "$$.Map.Item.Index"},
      "ItemProcessor": {"ProcessorConfig": {"Mode": "INLINE"}, "StartAt": "Do",
        "States": {"Do": {"Type": "Task", "Resource": "do", "End": true}}}, "Next": "Done"},
    "Broken": {"Type": "Fail", "Error": "Broken", "CausePath": "$.error.Cause"},
    "Done": {"Type": "Succeed", "OutputPath": null}}})json";

TEST(DefinitionTest, ABitOfEverythingIsRead) {
  const absl::StatusOr<Definition> definition = ParseDefinition(kWhole);
  ASSERT_TRUE(definition.ok()) << definition.status();
  EXPECT_TRUE(definition->uses_context);
  EXPECT_EQ(definition->machine.states.size(), 7u);
  const State& work = definition->machine.states[6];
  EXPECT_EQ(work.name, "Work");
  EXPECT_EQ(work.retry[0].errors, (std::vector<std::string>{"UNAVAILABLE", "States.Timeout"}));
  EXPECT_EQ(work.retry[1].max_attempts, 3);
  EXPECT_TRUE(std::get<Task>(work.what).node.has_value());
}

TEST(DefinitionTest, TheExamplesAreRead) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(EXAMPLES_DIR)) {
    std::ifstream file(entry.path() / "workflow.json");
    if (!file) continue;
    ++count;
    std::stringstream text;
    text << file.rdbuf();
    EXPECT_TRUE(ParseDefinition(text.str()).ok()) << entry << ParseDefinition(text.str()).status();
  }
  EXPECT_GE(count, 6);
}

TEST(DefinitionTest, AFaultNamesStateAndField) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "not JSON: parse error at line 1, column 1"},
      {"[]", "the workflow: must be an object"},
      {"{}", R"(field "States": is missing)"},
      {R"({"StartAt":"A"})", R"(field "States": is missing)"},
      {R"({"States":{"A":{"Type":"Succeed"}}})", R"(field "StartAt": is missing)"},
      {R"({"StartAt":"A","States":{}})", R"(field "States": must be an object with)"},
      {Machine(R"("A":{"Type":"Succeed"})", "B"), R"(field "StartAt": there is no state "B")"},
      {R"({"StartAt":"A","States":{"A":{"Type":"Succeed"}},"Starts":1})",
       R"(field "Starts": a workflow has no such field)"},
      {R"({"StartAt":"A","Version":"2","States":{"A":{"Type":"Succeed"}}})", R"(field "Version")"},
      {R"({"StartAt":"A","TimeoutSeconds":0,"States":{"A":{"Type":"Succeed"}}})",
       R"(field "TimeoutSeconds": must be an integer from 1)"},
      {R"({"StartAt":"A","QueryLanguage":"JSONata","States":{"A":{"Type":"Succeed"}}})",
       "must be \"JSONPath\""},
      {Machine(R"("A":{"Type":"Succeed"},"A":{"Type":"Succeed"})"), "\"A\" stands twice"},
      {Machine("\"A\":3"), R"(state "A": must be an object)"},
      {One(""), R"(state "A", field "Type": is missing)"},
      {One(R"("Type":"Tusk")"), R"(state "A", field "Type": "Tusk" is none of)"},
      {One(R"("Type":"Pass")"), R"(state "A", field "Next": is missing)"},
      {One(R"("Type":"Pass","Next":"B")"), R"(state "A", field "Next": there is no state "B")"},
      {One(R"("Type":"Pass","Next":3)"), R"(state "A", field "Next": must be a text)"},
      {One(R"("Type":"Pass","Next":"A","End":true)"), R"(field "Next": excludes "End")"},
      {One(R"("Type":"Pass","End":1)"), R"(field "End": must be true or false)"},
      {One(R"("Type":"Pass","End":true,"Retry":[])"), R"(field "Retry": a Pass state has no)"},
      {One(R"("Type":"Pass","End":true,"InputPath":"x")"), R"(field "InputPath": the path 'x')"},
      {One(R"("Type":"Pass","End":true,"ResultPath":"$.*")"), R"(field "ResultPath": '$.*' is no)"},
      {One(R"("Type":"Pass","End":true,"Parameters":{"a.$":1})"), R"(field "Parameters": "a.$")"},
      {One(R"("Type":"Task","End":true)"), R"(state "A", field "Resource": is missing)"},
      {One(R"("Type":"Task","Resource":"","End":true)"), R"(field "Resource": must be a function)"},
      {One(R"("Type":"Task","Resource":"f","End":true,"TimeoutSeconds":1.5)"),
       "must be an integer"},
      {One(R"("Type":"Task","Resource":"f","End":true,"TimeoutSeconds":-1)"), "not -1"},
      {One(R"("Type":"Task","Resource":"f","End":true,"TimeoutSeconds":1e99)"),
       "must be an integer"},
      {One(R"("Type":"Task","Resource":"f","End":true,"TimeoutSeconds":1,
           "TimeoutSecondsPath":"$"})"),
       "not JSON"},
      {One(R"("Type":"Task","Resource":"f","End":true,"TimeoutSeconds":1,
           "TimeoutSecondsPath":"$")"),
       R"(field "TimeoutSeconds": excludes TimeoutSecondsPath)"},
      {One(R"("Type":"Task","Resource":"f","End":true,"HeartbeatSeconds":1)"),
       R"(field "HeartbeatSeconds": is of the States Language, but not supported)"},
      {One(R"("Type":"Task","Resource":"f","End":true,"Parameters":{"apta.reads":[1]})"),
       R"(field "Parameters": "apta.reads" must be keys)"},
      {One(R"("Type":"Task","Resource":"f","End":true,"Parameters":{"apta.nodes":"n"})"),
       R"("apta.nodes")"},
      {One(R"("Type":"Task","Resource":"f","End":true,"Retry":{})"), R"(field "Retry")"},
      {One(R"("Type":"Task","Resource":"f","End":true,"Retry":[{}])"),
       R"(state "A", Retry[0], field "ErrorEquals": is missing)"},
      {One(R"("Type":"Task","Resource":"f","End":true,"Retry":[{"ErrorEquals":[]}])"),
       "array of error names"},
      {One(R"("Type":"Task","Resource":"f","End":true,
           "Retry":[{"ErrorEquals":["States.ALL","b"]}])"),
       "must stand alone"},
      {One(R"("Type":"Task","Resource":"f","End":true,"Retry":[{"ErrorEquals":["States.ALL"]},
           {"ErrorEquals":["b"]}])"),
       "must be the last"},
      {One(R"("Type":"Task","Resource":"f","End":true,
           "Retry":[{"ErrorEquals":["b"],"BackoffRate":0.5}])"),
       R"(Retry[0], field "BackoffRate": must be a number of 1)"},
      {One(R"("Type":"Task","Resource":"f","End":true,
           "Retry":[{"ErrorEquals":["b"],"IntervalSeconds":5,"MaxDelaySeconds":5}])"),
       "must be above IntervalSeconds"},
      {One(R"("Type":"Task","Resource":"f","End":true,
           "Retry":[{"ErrorEquals":["b"],"JitterStrategy":"SOME"}])"),
       "neither NONE nor FULL"},
      {One(R"("Type":"Task","Resource":"f","End":true,"Retry":[{"ErrorEquals":["b"],"X":1}])"),
       R"(Retry[0], field "X": Retry has no such field)"},
      {One(R"("Type":"Task","Resource":"f","End":true,"Catch":[{"ErrorEquals":["b"]}])"),
       R"(Catch[0], field "Next": is missing)"},
      {One(R"("Type":"Task","Resource":"f","End":true,
           "Catch":[{"ErrorEquals":["b"],"Next":"C"}])"),
       R"(state "A", Catch[0], field "Next": there is no state "C")"},
      {One(R"("Type":"Choice")"), R"(field "Choices": is missing)"},
      {One(R"("Type":"Choice","Choices":[])"), R"(field "Choices": must be)"},
      {One(R"("Type":"Choice","Choices":[{"Variable":"$.a","IsNull":true}])"),
       R"(state "A", Choices[0], field "Next": is missing)"},
      {One(R"("Type":"Choice","Choices":[{"Variable":"$.a","Next":"A"}])"),
       R"(state "A", Choices[0]: a rule needs an operator)"},
      {One(R"("Type":"Choice","Choices":[{"Variable":"$.a","IsNull":true,"Is":1,"Next":"A"}])"),
       R"(Choices[0], field "Is")"},
      {One(R"("Type":"Wait","End":true)"), "needs one of Seconds"},
      {One(R"("Type":"Wait","Seconds":1,"Timestamp":"2024-01-01T00:00:00Z","End":true)"), "has 2"},
      {One(R"("Type":"Wait","Timestamp":"soon","End":true)"), "'soon' is no timestamp"},
      {One(R"("Type":"Wait","Seconds":-1,"End":true)"), "not -1"},
      {One(R"("Type":"Fail","Error":"a","ErrorPath":"$.b")"), "excludes ErrorPath"},
      {One(R"("Type":"Fail","Next":"A")"), R"(field "Next": a Fail state has no such field)"},
      {One(R"("Type":"Parallel","End":true)"), R"(field "Branches": is missing)"},
      {One(R"("Type":"Parallel","End":true,"Branches":[])"), "array of state machines"},
      {One(R"("Type":"Parallel","End":true,"Branches":[{"StartAt":"X"}])"),
       R"(state "A", Branches[0], field "States": is missing)"},
      {One(R"("Type":"Parallel","End":true,"Branches":[
           {"StartAt":"A","States":{"A":{"Type":"Succeed"}}}])"),
       R"(state "A": another state of the workflow has the same name)"},
      {One(R"("Type":"Parallel","End":true,"Branches":[
           {"StartAt":"B","States":{"B":{"Type":"Pass","Next":"A"}}}])"),
       R"(state "B", field "Next": there is no state "A" beside it)"},
      {One(R"("Type":"Map","End":true)"), R"(field "ItemProcessor": is missing)"},
      {One(R"("Type":"Map","End":true,"ItemProcessor":{"ProcessorConfig":{"Mode":"DISTRIBUTED"},
           "StartAt":"B","States":{"B":{"Type":"Succeed"}}})"),
       "INLINE"},
      {One(R"("Type":"Task","Resource":"f","End":true,"Parameters":{"apta.reads":["a",""]})"),
       R"(field "Parameters": "apta.reads": the key is empty)"},
      {One(R"("Type":"Map","End":true,"Iterator":{},"ItemProcessor":{})"),
       R"(field "Iterator": excludes ItemProcessor)"},
      {One(R"("Type":"Map","End":true,"ItemsPath":"$.*","Iterator":{})"), "more than one value"},
  };
  for (const auto& [definition, says] : cases) {
    EXPECT_THAT(Fault(definition), HasSubstr(says)) << definition;
  }
}

TEST(DefinitionTest, AGraphThatCannotBeRightIsRefused) {
  const std::pair<std::string, std::string> cases[] = {
      {R"("A":{"Type":"Succeed"},"B":{"Type":"Succeed"})", R"(state "B": unreachable)"},
      {R"("A":{"Type":"Succeed"},"B":{"Type":"Pass","Next":"C"},"C":{"Type":"Pass","Next":"B"})",
       R"(state "B": unreachable)"},
      {R"("A":{"Type":"Pass","Next":"A"})",
       R"(state "A", field "Next": from here a run can never end: "A" → "A")"},
      {R"("A":{"Type":"Pass","Next":"B"},"B":{"Type":"Wait","Seconds":1,"Next":"C"},
          "C":{"Type":"Pass","Next":"B"})",
       R"(can never end: "A" → "B" → "C" → "B")"},
      {R"("A":{"Type":"Choice","Choices":[{"Variable":"$.a","IsNull":true,"Next":"B"}],
           "Default":"C"},"B":{"Type":"Succeed"},"C":{"Type":"Pass","Next":"C"})",
       R"(state "C", field "Next": from here)"},
      {R"("A":{"Type":"Choice","Choices":[{"Variable":"$.a","IsNull":true,"Next":"A"}],
           "Default":"A"})",
       R"(state "A", field "Choices": from here)"},
      {R"("A":{"Type":"Task","Resource":"f","Next":"B"},"B":{"Type":"Pass","Next":"A"})",
       R"(no state behind it ends the run)"},
  };
  for (const auto& [states, says] : cases) {
    EXPECT_THAT(Fault(Machine(states)), HasSubstr(says)) << states;
  }
  const std::string legal[] = {
      // A loop that a choice leaves.
      R"("A":{"Type":"Pass","Next":"B"},"B":{"Type":"Choice","Default":"A",
          "Choices":[{"Variable":"$.a","IsNull":true,"Next":"C"}]},"C":{"Type":"Succeed"})",
      // One that a failing function leaves.
      R"("A":{"Type":"Task","Resource":"f","Next":"A","Catch":[
          {"ErrorEquals":["States.ALL"],"Next":"B"}]},"B":{"Type":"Succeed"})",
  };
  for (const std::string& states : legal) EXPECT_EQ(Fault(Machine(states)), "") << states;
}

TEST(DefinitionTest, AChainOfAThousandStatesIsReadAndOneOfNestedOnesIsNot) {
  std::string chain;
  for (int i = 0; i < 1000; ++i) {
    chain += fmt::format(R"({}"S{}":{{"Type":"Pass",{}}})", i == 0 ? "" : ",", i,
                         i == 999 ? R"("End":true)" : fmt::format(R"("Next":"S{}")", i + 1));
  }
  EXPECT_EQ(Fault(Machine(chain, "S0")), "");
  std::string nested = R"({"StartAt":"X","States":{"X":{"Type":"Succeed"}}})";
  for (int i = 0; i < 1000; ++i) {
    nested = fmt::format(
        R"({{"StartAt":"S{0}","States":{{"S{0}":{{
            "Type":"Parallel","End":true,"Branches":[{1}]}}}}}})",
        i, nested);
  }
  EXPECT_THAT(Fault(nested), HasSubstr("nested deeper than 128 levels"));
}

// Nothing to expect but that it is refused or read, and the machine survives.
TEST(DefinitionTest, DocumentsThatAreBrokenAtRandomAreRefusedOrRead) {
  const std::string pieces[] = {"{",
                                "}",
                                "[",
                                "]",
                                "\"",
                                ":",
                                ",",
                                "null",
                                "-1",
                                "1e308",
                                "true",
                                "\"Next\"",
                                "\"A\"",
                                "$",
                                "States.Array(",
                                "'",
                                "\\u0000",
                                "\"End\":true,",
                                ".$",
                                "[*]",
                                "\"Type\":\"Map\",",
                                "\xff",
                                "9999999999999999999999"};
  Random random(20240229);
  const std::string whole = kWhole;
  int read = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text = whole;
    for (std::uint64_t edits = 1 + random.Next() % 4; edits > 0; --edits) {
      const std::size_t at = random.Next() % text.size();
      const std::size_t length = std::min<std::size_t>(random.Next() % 12, text.size() - at);
      switch (random.Next() % 4) {
        case 0:
          text.erase(at, length);
          break;
        case 1:
          text.replace(at, length, pieces[random.Next() % std::size(pieces)]);
          break;
        case 2:
          text.insert(at, text.substr(random.Next() % text.size(), random.Next() % 60));
          break;
        default:
          text[at] = static_cast<char>(random.Next());
      }
    }
    const absl::Status status = ParseDefinition(text).status();
    read += status.ok();
    EXPECT_TRUE(status.ok() || (absl::IsInvalidArgument(status) && !status.message().empty()))
        << text;
  }
  EXPECT_GT(read, 100) << "the edits break everything";
}

// Whole values in place of others: what still is JSON reaches the checks behind the parser.
TEST(DefinitionTest, ValuesThatChangePlacesAreRefusedOrRead) {
  const Json whole = *ParseJson(kWhole);
  const Json flat = whole.flatten();
  std::vector<Json> values = {nullptr,
                              -1,
                              1e300,
                              true,
                              "",
                              "$",
                              "$.a[",
                              "\n",
                              Json::array(),
                              Json::object(),
                              Json::array({Json::array()}),
                              "States.UUID()"};
  for (const auto& [path, value] : flat.items()) values.push_back(value);
  Random random(7);
  for (const auto& [path, old] : flat.items()) {
    for (int i = 0; i < 40; ++i) {
      Json changed = whole;
      changed[Json::json_pointer(path)] = values[random.Next() % values.size()];
      const absl::Status status = ParseDefinition(changed.dump()).status();
      EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << changed;
    }
  }
}

}  // namespace
}  // namespace apta::workflow
