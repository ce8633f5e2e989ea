// Values, paths, intrinsic functions and payload templates of workflows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/workflow/expression.h"
#include "compute/workflow/json_path.h"
#include "compute/workflow/json_value.h"
#include "compute/workflow/template.h"
#include "compute/workflow/timestamp.h"

namespace apta::workflow {
namespace {

using ::testing::HasSubstr;

Json Read(std::string_view text) {
  const absl::StatusOr<Json> json = ParseJson(text);
  EXPECT_TRUE(json.ok()) << text << ": " << json.status();
  return json.ok() ? *json : Json();
}
std::string Fault(const absl::Status& status) { return std::string(status.message()); }

// ---- values ---------------------------------------------------------------------------------

TEST(JsonValueTest, WhatIsNoJsonIsRefusedWithItsPlace) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "line 1, column 1"}, {"{\"a\":\n  1,}", "line 2, column 5"},
      {"[1] 2", "column 5"},    {"{\"a\":1,\"b\":{\"c\":1,\"c\":2}}", "\"c\" stands twice"},
      {"1e999", "1e999"},       {"\"\xff\"", "UTF-8"},
      {"nul", "column"},
  };
  for (const auto& [text, says] : cases) {
    const absl::Status status = ParseJson(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_THAT(Fault(status), HasSubstr(says)) << text;
  }
}

TEST(JsonValueTest, NestingIsBounded) {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(ParseJson(nested(kMaxDataDepth)).ok());
  EXPECT_THAT(Fault(ParseJson(nested(kMaxDataDepth + 1)).status()), HasSubstr("nested deeper"));
  EXPECT_FALSE(ParseJson(std::string(1 << 20, '[')).ok());
  EXPECT_FALSE(IsNestedDeeper(Read("[[1],[]]"), 2));
  EXPECT_TRUE(IsNestedDeeper(Read("[[1],[{}]]"), 2));
}

TEST(JsonValueTest, NumbersCompareExactly) {
  const std::tuple<std::string, std::string, int> cases[] = {
      {"1", "1", 0},
      {"1", "1.0", 0},
      {"-1", "18446744073709551615", -1},
      {"18446744073709551615", "-1", 1},
      {"9223372036854775808", "9223372036854775807", 1},
      {"-5", "-4", -1},
      {"0.5", "1", -1},
  };
  for (const auto& [left, right, order] : cases) {
    EXPECT_EQ(CompareNumbers(Read(left), Read(right)), order) << left << " " << right;
  }
}

TEST(TimestampTest, OnlyTheStatesLanguagesFormIsOne) {
  for (const std::string text :
       {"2024-02-29T12:00:00Z", "2024-02-29T12:00:00.25Z", "2024-02-29T12:00:00+02:00"}) {
    EXPECT_TRUE(ParseTimestamp(text)) << text;
  }
  EXPECT_EQ(*ParseTimestamp("2024-02-29T12:00:00+02:00"), *ParseTimestamp("2024-02-29T10:00:00Z"));
  for (const std::string text :
       {"", "2024-02-29", "2024-02-30T12:00:00Z", "2024-02-29t12:00:00Z", "2024-02-29T12:00:00z",
        "2024-02-29 12:00:00Z", "2024-02-29T12:00:00", "infinite-future", "2024-02-29T25:00:00Z",
        " 2024-02-29T12:00:00Z"}) {
    EXPECT_FALSE(ParseTimestamp(text)) << text;
  }
  EXPECT_EQ(FormatTimestamp(*ParseTimestamp("2024-02-29T12:00:00.25Z")),
            "2024-02-29T12:00:00.250000Z");
}

// ---- paths ----------------------------------------------------------------------------------

const char kStore[] = R"({
  "store": {
    "book": [{"title": "a", "price": 8, "tags": ["x", "y"]},
             {"title": "b", "price": 12},
             {"title": "c", "price": 20}],
    "bicycle": {"price": 19},
    "a.b": 1, "it's": 2, "ü": 3
  },
  "none": null
})";

absl::StatusOr<Json> Select(std::string_view path, const Json& input) {
  const absl::StatusOr<JsonPath> parsed = JsonPath::Parse(path);
  if (!parsed.ok()) return parsed.status();
  Random random(1);
  const Json context = {{"State", {{"Name", "here"}}}};
  Scope scope{&input, &context, &random};
  return EvaluatePath(*parsed, &scope);
}

TEST(JsonPathTest, MeansWhatTheSpecificationSays) {
  const std::pair<std::string, std::string> cases[] = {
      {"$.store.bicycle.price", "19"},
      {"$['store']['bicycle'][\"price\"]", "19"},
      {"$.store['a.b']", "1"},
      {"$.store['it\\'s']", "2"},
      {"$.store.ü", "3"},
      {"$.none", "null"},
      {"$.store.book[1].title", "\"b\""},
      {"$.store.book[-1].title", "\"c\""},
      {"$.store.book[0].tags[1]", "\"y\""},
      {"$.store.book[*].price", "[8,12,20]"},
      {"$.store.book[0,2].title", "[\"a\",\"c\"]"},
      {"$.store.book[ 0 , 2 ].title", "[\"a\",\"c\"]"},
      {"$.store.book[1:].title", "[\"b\",\"c\"]"},
      {"$.store.book[:2].title", "[\"a\",\"b\"]"},
      {"$.store.book[-2:].title", "[\"b\",\"c\"]"},
      {"$.store.book[0:3:2].title", "[\"a\",\"c\"]"},
      {"$.store.book[0:3:9223372036854775807].title", "[\"a\"]"},
      {"$.store.book[5:].title", "[]"},
      {"$.store.book[0]['title','price']", "[\"a\",8]"},
      {"$..price", "[19,8,12,20]"},
      {"$..book[0].title", "[\"a\"]"},
      {"$.store.book.*.title", "[\"a\",\"b\",\"c\"]"},
      {"$..['title']", "[\"a\",\"b\",\"c\"]"},
      {"$.nothing[*]", "[]"},
      {"$$.State.Name", "\"here\""},
  };
  const Json store = Read(kStore);
  for (const auto& [path, expected] : cases) {
    const absl::StatusOr<Json> value = Select(path, store);
    ASSERT_TRUE(value.ok()) << path << ": " << value.status();
    EXPECT_EQ(*value, Read(expected)) << path;
  }
  EXPECT_EQ(*Select("$", store), store);
}

TEST(JsonPathTest, ADefinitePathThatMeansNothingIsAnError) {
  const Json store = Read(kStore);
  for (const std::string path : {"$.x", "$.store.book[3]", "$.store.book[-4]", "$.store.book.title",
                                 "$.store[0]", "$.none.x", "$$.x"}) {
    EXPECT_TRUE(absl::IsNotFound(Select(path, store).status())) << path;
  }
}

TEST(JsonPathTest, WhatIsNoPathIsRefusedWithItsPlace) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "must begin with $"},
      {"a.b", "must begin with $"},
      {"$a", "character 2"},
      {"$.", "expects a name"},
      {"$..", "expects a name"},
      {"$.a[", "expects an index"},
      {"$.a[1", "expects ]"},
      {"$.a['b", "does not end"},
      {"$.a[?(@.b)]", "filter"},
      {"$.a b", "character 4"},
      {"$.a[::0]", "step below 1"},
      {"$.a[1,]", "expects an index"},
      {"$.a[99999999999999999999]", "expects an index"},
  };
  for (const auto& [path, says] : cases) {
    const absl::Status status = JsonPath::Parse(path).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << path;
    EXPECT_THAT(Fault(status), HasSubstr(says)) << path;
  }
}

TEST(JsonPathTest, OnlyReferencePathsSayWhereToPut) {
  for (const std::string path : {"$", "$.a", "$['a b'].c[0]"}) {
    EXPECT_TRUE(JsonPath::Parse(path)->is_reference()) << path;
  }
  for (const std::string path : {"$$.a", "$.*", "$..a", "$.a[-1]", "$.a[0,1]", "$.a[0:1]"}) {
    EXPECT_FALSE(JsonPath::Parse(path)->is_reference()) << path;
  }
}

TEST(JsonPathTest, PutMakesWhatIsMissingOnItsWay) {
  const std::tuple<std::string, std::string, std::string> cases[] = {
      {"{}", "$.a", R"({"a":7})"},
      {"{\"a\":1}", "$.a", R"({"a":7})"},
      {"{\"b\":1}", "$.a.c.d", R"({"a":{"c":{"d":7}},"b":1})"},
      {"{\"a\":[1,2]}", "$.a[1]", R"({"a":[1,7]})"},
      {"{\"a\":[1,{}]}", "$.a[1].x", R"({"a":[1,{"x":7}]})"},
      {"[1]", "$", "7"},
  };
  for (const auto& [into, path, expected] : cases) {
    Json value = Read(into);
    ASSERT_TRUE(JsonPath::Parse(path)->Put(&value, 7).ok()) << path;
    EXPECT_EQ(value, Read(expected)) << path;
  }
  for (const auto& [into, path] :
       std::initializer_list<std::pair<std::string, std::string>>{{"1", "$.a"},
                                                                  {"[]", "$.a"},
                                                                  {"{}", "$[0]"},
                                                                  {"{\"a\":[]}", "$.a[0]"},
                                                                  {"{}", "$.a[0]"},
                                                                  {"{\"a\":1}", "$.a.b"}}) {
    Json value = Read(into);
    EXPECT_TRUE(absl::IsFailedPrecondition(JsonPath::Parse(path)->Put(&value, 7))) << path;
  }
}

TEST(JsonPathTest, MatchesAreBounded) {
  Json wide = Json::array();
  for (int i = 0; i < 2000; ++i) wide.push_back(i);
  const Json nest = {wide, wide};
  EXPECT_TRUE(absl::IsResourceExhausted(Select("$..*..*", Json(1000, nest)).status()));
}

// ---- intrinsic functions --------------------------------------------------------------------

const char kData[] = R"({"name":"Ann","n":3,"list":[1,2,3,4,5],"twice":[1,2,1,"a",2,"a"],
  "o":{"x":1},"p":{"y":2,"x":3},"t":true,"none":null,"text":"{\"a\":[1]}","odd":"a,b c"})";

absl::StatusOr<Json> Evaluate(std::string_view text) {
  const absl::StatusOr<Expression> expression = Expression::Parse(text);
  if (!expression.ok()) return expression.status();
  const Json input = Read(kData);
  const Json context;
  Random random(7);
  Scope scope{&input, &context, &random};
  return expression->Evaluate(&scope);
}

TEST(IntrinsicFunctionTest, DoesWhatTheSpecificationSays) {
  const std::pair<std::string, std::string> cases[] = {
      {"States.Format('Hi, {}!', $.name)", "\"Hi, Ann!\""},
      {"States.Format('{} {} {} {}', $.n, $.t, $.none, 'x')", "\"3 true null x\""},
      {"States.Format('\\{\\} it\\'s {}', 1.5)", "\"{} it's 1.5\""},
      {"States.Format($.name)", "\"Ann\""},
      {"States.Format('no values')", "\"no values\""},
      {"States.StringToJson($.text)", R"({"a":[1]})"},
      {"States.JsonToString($.o)", R"("{\"x\":1}")"},
      {"States.Array()", "[]"},
      {"States.Array($.n, 'a', -2, true, null)", "[3,\"a\",-2,true,null]"},
      {"States.ArrayPartition($.list, 2)", "[[1,2],[3,4],[5]]"},
      {"States.ArrayPartition(States.Array(), 4)", "[]"},
      {"States.ArrayContains($.list, 3)", "true"},
      {"States.ArrayContains($.list, '3')", "false"},
      {"States.ArrayRange(1, 9, 2)", "[1,3,5,7,9]"},
      {"States.ArrayRange(3, 1, -1)", "[3,2,1]"},
      {"States.ArrayRange(3, 1, 1)", "[]"},
      {"States.ArrayGetItem($.list, 4)", "5"},
      {"States.ArrayLength($.list)", "5"},
      {"States.ArrayUnique($.twice)", "[1,2,\"a\"]"},
      {"States.Base64Encode('Data to encode')", "\"RGF0YSB0byBlbmNvZGU=\""},
      {"States.Base64Decode('RGF0YSB0byBlbmNvZGU=')", "\"Data to encode\""},
      {"States.JsonMerge($.o, $.p, false)", R"({"x":3,"y":2})"},
      {"States.MathAdd(111, -1)", "110"},
      {"States.MathAdd(1.5, 1)", "2.5"},
      {"States.StringSplit('1,2,3', ',')", "[\"1\",\"2\",\"3\"]"},
      {"States.StringSplit($.odd, ', ')", "[\"a\",\"b\",\"c\"]"},
      {"States.ArrayLength(States.StringSplit(States.Format('{},{}', 1, 2), ','))", "2"},
      {"States.Format( 'a{}' ,  $['name'] )", "\"aAnn\""},
      {"States.ArrayLength($.list[1:3])", "2"},
  };
  for (const auto& [text, expected] : cases) {
    const absl::StatusOr<Json> value = Evaluate(text);
    ASSERT_TRUE(value.ok()) << text << ": " << value.status();
    EXPECT_EQ(*value, Read(expected)) << text;
  }
}

TEST(IntrinsicFunctionTest, RandomNumbersAreWithinTheirBounds) {
  for (int i = 0; i < 100; ++i) {
    const Json value = *Evaluate("States.MathRandom(-2, 3)");
    EXPECT_TRUE(value >= -2 && value < 3) << value;
  }
  EXPECT_EQ(*Evaluate("States.MathRandom(0, 1000000, 5)"),
            *Evaluate("States.MathRandom(0, 1000000, 5)"));
  EXPECT_THAT(Evaluate("States.UUID()")->get<std::string>(),
              ::testing::MatchesRegex(
                  "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
}

TEST(IntrinsicFunctionTest, WhatItCannotDoIsAnError) {
  for (const std::string text : {"States.Format('{}')",
                                 "States.Format('x', 1)",
                                 "States.Format($.n)",
                                 "States.StringToJson('{')",
                                 "States.StringToJson($.n)",
                                 "States.ArrayPartition($.list, 0)",
                                 "States.ArrayPartition($.n, 1)",
                                 "States.ArrayRange(0, 1000, 1)",
                                 "States.ArrayRange(0, 1, 0)",
                                 "States.ArrayRange(0, 1.5, 1)",
                                 "States.ArrayGetItem($.list, 5)",
                                 "States.ArrayGetItem($.list, -1)",
                                 "States.ArrayLength($.o)",
                                 "States.Base64Decode('!')",
                                 "States.Base64Decode('/w==')",
                                 "States.JsonMerge($.o, $.p, true)",
                                 "States.JsonMerge($.o, $.n, false)",
                                 "States.MathAdd('1', 2)",
                                 "States.MathRandom(3, 3)",
                                 "States.StringSplit($.n, ',')"}) {
    const absl::Status status = Evaluate(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text << ": " << status;
  }
  EXPECT_TRUE(absl::IsNotFound(Evaluate("States.ArrayLength($.nothing)").status()));
}

TEST(IntrinsicFunctionTest, WhatIsNoExpressionIsRefusedWithItsPlace) {
  std::string deep = "1";
  for (int i = 0; i < 11; ++i) deep = "States.Array(" + deep + ")";
  const std::pair<std::string, std::string> cases[] = {
      {"", "expects"},
      {"plain", "expects"},
      {"'text'", "must begin with"},
      {"States.Nothing(1)", "no intrinsic function"},
      {"States.Format", "expects ("},
      {"States.Format('a'", "expects , or )"},
      {"States.Format('a", "does not end"},
      {"States.Format('\\n')", "escape"},
      {"States.UUID(1)", "1 arguments"},
      {"States.Array(1) x", "behind its end"},
      {"States.Array($.)", "expects a name"},
      {"States.Array(\"a\")", "expects a path"},
      {deep, "nests more than"},
  };
  for (const auto& [text, says] : cases) {
    const absl::Status status = Expression::Parse(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_THAT(Fault(status), HasSubstr(says)) << text;
  }
}

// ---- templates ------------------------------------------------------------------------------

TEST(TemplateTest, FieldsThatEndInDollarAreEvaluatedWhereverTheyStand) {
  const absl::StatusOr<Template> payload = Template::Parse(Read(R"json({
      "flag": true, "who.$": "$.name",
      "parts": {"vals.$": "$.list[0:2]", "fixed": [1, {"deep.$": "States.MathAdd($.n, 1)"}]},
      "cost": "$.n"})json"));
  ASSERT_TRUE(payload.ok()) << payload.status();
  const Json input = Read(kData);
  const Json context;
  Random random(1);
  Scope scope{&input, &context, &random};
  EXPECT_EQ(*payload->Evaluate(&scope), Read(R"({"flag": true, "who": "Ann",
      "parts": {"vals": [1,2], "fixed": [1, {"deep": 4}]}, "cost": "$.n"})"));
}

TEST(TemplateTest, WhatIsNoTemplateIsRefused) {
  for (const std::string text :
       {R"({"a.$": 1})", R"({"a.$": "text"})", R"({"a": 1, "a.$": "$"})", R"([{"a.$": "$["}])"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Template::Parse(Read(text)).status())) << text;
  }
}

TEST(TemplateTest, WhatItMakesIsBounded) {
  Json copies = Json::object();
  for (int i = 0; i < 9; ++i) copies["c" + std::to_string(i) + ".$"] = "$";
  const Json input = std::string(1 << 20, 'x');
  const Json context;
  Random random(1);
  Scope scope{&input, &context, &random, std::size_t{8} << 20};
  EXPECT_TRUE(absl::IsResourceExhausted(Template::Parse(copies)->Evaluate(&scope).status()));
}

}  // namespace
}  // namespace apta::workflow
