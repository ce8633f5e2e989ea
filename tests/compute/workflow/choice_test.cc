// The conditions of Choice states: every operator, against every type.
#include "compute/workflow/choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace apta::workflow {
namespace {

using ::testing::HasSubstr;

const char kInput[] = R"({
  "text": "beta", "empty": "", "star": "a*b", "int": 10, "real": 10.0, "big": 18446744073709551615,
  "yes": true, "no": false, "none": null, "array": [1], "object": {},
  "time": "2024-02-29T12:00:00Z", "same": "2024-02-29T13:00:00+01:00",
  "later": "2024-02-29T12:00:01Z", "ten": 10, "nine": 9, "alpha": "alpha"})";

// "true", "false", or the error.
std::string Holds(const std::string& rule) {
  const absl::StatusOr<Json> json = ParseJson(rule);
  EXPECT_TRUE(json.ok()) << rule << json.status();
  if (!json.ok()) return "";
  std::vector<std::string_view> read;
  const absl::StatusOr<Condition> condition = Condition::Parse(*json, &read);
  if (!condition.ok()) return std::string(condition.status().message());
  const Json input = *ParseJson(kInput);
  const Json context = {{"State", {{"RetryCount", 0}}}};
  Random random(1);
  const absl::StatusOr<bool> holds = condition->Holds({&input, &context, &random});
  if (!holds.ok()) return std::string(absl::StatusCodeToString(holds.status().code()));
  return *holds ? "true" : "false";
}

std::string Rule(const std::string& variable, const std::string& name, const std::string& operand) {
  return R"({"Variable":")" + variable + R"(",")" + name + R"(":)" + operand + "}";
}

TEST(ChoiceTest, EveryComparisonOfEveryOrder) {
  // Of each type: a variable, and operands that are less, equal and greater.
  struct Type {
    std::string name, variable, less, equal, greater;
  };
  const Type types[] = {
      {"String", "$.text", "\"alpha\"", "\"beta\"", "\"betb\""},
      {"Numeric", "$.int", "9.5", "10.0", "11"},
      {"Numeric", "$.real", "-1", "10", "10.5"},
      {"Numeric", "$.big", "18446744073709551614", "18446744073709551615", "1e30"},
      {"Timestamp", "$.time", "\"2024-02-29T11:59:59.9Z\"", "\"2024-02-29T14:00:00+02:00\"",
       "\"2024-02-29T12:00:00.1Z\""},
  };
  struct Operator {
    std::string name, with_less, with_equal, with_greater;
  };
  const Operator operators[] = {
      {"Equals", "false", "true", "false"},           {"LessThan", "false", "false", "true"},
      {"GreaterThan", "true", "false", "false"},      {"LessThanEquals", "false", "true", "true"},
      {"GreaterThanEquals", "true", "true", "false"},
  };
  for (const Type& type : types) {
    for (const Operator& op : operators) {
      const std::string name = type.name + op.name;
      EXPECT_EQ(Holds(Rule(type.variable, name, type.less)), op.with_less) << name;
      EXPECT_EQ(Holds(Rule(type.variable, name, type.equal)), op.with_equal) << name;
      EXPECT_EQ(Holds(Rule(type.variable, name, type.greater)), op.with_greater) << name;
    }
  }
}

TEST(ChoiceTest, EveryPathVariant) {
  const std::tuple<std::string, std::string, std::string, std::string> cases[] = {
      {"$.text", "StringEqualsPath", "$.text", "true"},
      {"$.text", "StringEqualsPath", "$.alpha", "false"},
      {"$.alpha", "StringLessThanPath", "$.text", "true"},
      {"$.text", "StringGreaterThanPath", "$.alpha", "true"},
      {"$.text", "StringLessThanEqualsPath", "$.text", "true"},
      {"$.alpha", "StringGreaterThanEqualsPath", "$.text", "false"},
      {"$.int", "NumericEqualsPath", "$.real", "true"},
      {"$.nine", "NumericLessThanPath", "$.int", "true"},
      {"$.int", "NumericGreaterThanPath", "$.nine", "true"},
      {"$.nine", "NumericLessThanEqualsPath", "$.ten", "true"},
      {"$.nine", "NumericGreaterThanEqualsPath", "$.ten", "false"},
      {"$.yes", "BooleanEqualsPath", "$.yes", "true"},
      {"$.yes", "BooleanEqualsPath", "$.no", "false"},
      {"$.time", "TimestampEqualsPath", "$.same", "true"},
      {"$.time", "TimestampLessThanPath", "$.later", "true"},
      {"$.time", "TimestampGreaterThanPath", "$.later", "false"},
      {"$.time", "TimestampLessThanEqualsPath", "$.same", "true"},
      {"$.later", "TimestampGreaterThanEqualsPath", "$.time", "true"},
      {"$.int", "NumericEqualsPath", "$.nothing", "NOT_FOUND"},
      {"$.int", "NumericEqualsPath", "$.text", "false"},
  };
  for (const auto& [variable, name, operand, expected] : cases) {
    EXPECT_EQ(Holds(Rule(variable, name, '"' + operand + '"')), expected) << name;
  }
}

TEST(ChoiceTest, TypesAndPresence) {
  const std::pair<std::string, std::vector<std::string>> cases[] = {
      {"IsNull", {"$.none"}},
      {"IsNumeric", {"$.int", "$.real", "$.big", "$.ten", "$.nine"}},
      {"IsString", {"$.text", "$.empty", "$.star", "$.time", "$.same", "$.later", "$.alpha"}},
      {"IsBoolean", {"$.yes", "$.no"}},
      {"IsTimestamp", {"$.time", "$.same", "$.later"}},
  };
  const Json input = *ParseJson(kInput);
  for (const auto& [name, holding] : cases) {
    for (auto field = input.begin(); field != input.end(); ++field) {
      const std::string variable = "$." + field.key();
      const bool holds = std::find(holding.begin(), holding.end(), variable) != holding.end();
      EXPECT_EQ(Holds(Rule(variable, name, "true")), holds ? "true" : "false") << name << variable;
      EXPECT_EQ(Holds(Rule(variable, name, "false")), holds ? "false" : "true") << name << variable;
    }
    EXPECT_EQ(Holds(Rule("$.nothing", name, "true")), "NOT_FOUND");
  }
  EXPECT_EQ(Holds(Rule("$.none", "IsPresent", "true")), "true");
  EXPECT_EQ(Holds(Rule("$.nothing", "IsPresent", "true")), "false");
  EXPECT_EQ(Holds(Rule("$.nothing", "IsPresent", "false")), "true");
  EXPECT_EQ(Holds(Rule("$.array[1]", "IsPresent", "true")), "false");
}

TEST(ChoiceTest, AComparisonOfUnlikeTypesDoesNotHold) {
  for (const std::string variable : {"$.none", "$.array", "$.object", "$.yes", "$.int"}) {
    EXPECT_EQ(Holds(Rule(variable, "StringEquals", "\"beta\"")), "false");
    EXPECT_EQ(Holds(Rule(variable, "StringMatches", "\"*\"")), "false");
    EXPECT_EQ(Holds(Rule(variable, "TimestampLessThan", "\"2030-01-01T00:00:00Z\"")), "false");
  }
  EXPECT_EQ(Holds(Rule("$.text", "NumericLessThan", "1")), "false");
  EXPECT_EQ(Holds(Rule("$.text", "TimestampLessThan", "\"2030-01-01T00:00:00Z\"")), "false");
  EXPECT_EQ(Holds(Rule("$.int", "BooleanEquals", "true")), "false");
  EXPECT_EQ(Holds(Rule("$.nothing", "StringEquals", "\"x\"")), "NOT_FOUND");
}

TEST(ChoiceTest, Patterns) {
  const std::tuple<std::string, std::string, bool> cases[] = {
      {"", "", true},
      {"", "*", true},
      {"a", "", false},
      {"foo23.log", "foo*.log", true},
      {"zebra.log", "*.log", true},
      {"foobar.zebra", "foo*.*", true},
      {"a*b", "a\\*b", true},
      {"axb", "a\\*b", false},
      {"a\\b", "a\\\\b", true},
      {"aab", "*ab", true},
      {"aXbXc", "a*b*c", true},
      {"aXbX", "a*b*c", false},
      {"mississippi", "m*iss*ip*i", true},
      {"abc", "abc*", true},
      {"ab", "abc*", false},
  };
  for (const auto& [text, pattern, matches] : cases) {
    EXPECT_EQ(MatchesPattern(text, pattern), matches) << text << " " << pattern;
  }
  // Not exponential.
  EXPECT_FALSE(MatchesPattern(std::string(10'000, 'a'), "*a*a*a*a*a*a*a*a*a*b"));
  EXPECT_EQ(Holds(Rule("$.star", "StringMatches", "\"a\\\\*b\"")), "true");
}

TEST(ChoiceTest, AndOrNot) {
  const std::string yes = Rule("$.yes", "BooleanEquals", "true");
  const std::string no = Rule("$.no", "BooleanEquals", "true");
  const std::string nothing = Rule("$.nothing", "BooleanEquals", "true");
  EXPECT_EQ(Holds("{\"And\":[" + yes + "," + yes + "]}"), "true");
  EXPECT_EQ(Holds("{\"And\":[" + yes + "," + no + "]}"), "false");
  EXPECT_EQ(Holds("{\"And\":[" + no + "," + nothing + "]}"), "false") << "the first decides";
  EXPECT_EQ(Holds("{\"Or\":[" + no + "," + yes + "," + nothing + "]}"), "true");
  EXPECT_EQ(Holds("{\"Or\":[" + no + "]}"), "false");
  EXPECT_EQ(Holds("{\"Not\":" + no + "}"), "true");
  EXPECT_EQ(Holds("{\"Not\":{\"And\":[{\"Or\":[" + no + "," + yes + "]}]}}"), "false");
  EXPECT_EQ(Holds("{\"And\":[" + yes + "," + nothing + "]}"), "NOT_FOUND");
  EXPECT_EQ(Holds(Rule("$$.State.RetryCount", "NumericEquals", "0")), "true");
}

TEST(ChoiceTest, WhatIsNoRuleIsRefused) {
  const std::pair<std::string, std::string> cases[] = {
      {"[]", "must be an object"},
      {"{}", "Variable"},
      {R"({"Variable":"$.a"})", "needs an operator"},
      {R"({"Variable":"$.a","StringLike":"x"})", "needs an operator"},
      {R"({"Variable":"$.a","IsNull":true,"IsString":true})", "one operator"},
      {R"({"Variable":"$[","IsNull":true})", "path"},
      {R"({"Variable":"$..a","IsNull":true})", "more than one value"},
      {R"({"Variable":"$.a","IsNull":1})", "true or false"},
      {R"({"Variable":"$.a","StringEquals":1})", "a text"},
      {R"({"Variable":"$.a","NumericEquals":"1"})", "a number"},
      {R"({"Variable":"$.a","TimestampEquals":"today"})", "a timestamp"},
      {R"({"Variable":"$.a","NumericEqualsPath":1})", "a path"},
      {R"({"Variable":"$.a","NumericEqualsPath":"x"})", "path"},
      {R"({"Variable":"$.a","IsNullPath":"$.b"})", "needs an operator"},
      {R"({"And":[]})", "array of rules"},
      {R"({"And":{}})", "array of rules"},
      {R"({"Not":[]})", "a rule"},
      {R"({"Or":[{"Variable":"$.a","IsNull":true,"Next":"X"}]})", "only the outermost"},
      {R"({"Or":[{"Variable":"$.a","IsNull":true,"X":"X"}]})", "unknown field"},
      {R"({"Or":[3]})", "must be an object"},
  };
  for (const auto& [rule, says] : cases) EXPECT_THAT(Holds(rule), HasSubstr(says)) << rule;
}

}  // namespace
}  // namespace apta::workflow
