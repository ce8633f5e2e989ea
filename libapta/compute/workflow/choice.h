// Choice rules: the conditions of Choice states.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "compute/workflow/expression.h"

namespace apta::workflow {

// One condition, or several that And, Or or Not joins.
class Condition {
 public:
  // Reads the condition's fields of a rule ("Variable" and an operator; or And, Or, Not) and leaves
  // others (Next, Comment) alone: those it names in `read`, for whoever looks for unknown ones.
  static absl::StatusOr<Condition> Parse(const Json& rule, std::vector<std::string_view>* read);

  // A comparison of unlike types does not hold. NOT_FOUND: a path means nothing, and the operator
  // is not IsPresent.
  absl::StatusOr<bool> Holds(const Scope& scope) const;
  bool uses_context() const;

 private:
  enum class Kind { kAnd, kOr, kNot, kIsPresent, kHasType, kCompares, kMatches };
  enum class Type { kNull, kNumeric, kString, kBoolean, kTimestamp };
  enum class Order { kEquals, kLess, kGreater, kLessOrEquals, kGreaterOrEquals };
  struct Operator;
  static const Operator* FindOperator(std::string_view name);
  static absl::StatusOr<Condition> ParseAll(const Json& rule, std::string_view name, Kind kind);
  absl::Status ParseOperand(std::string_view name, const Json& operand, bool is_path);
  static bool IsOfType(const Json& value, Type type);
  bool Compare(const Json& value, const Json& operand) const;

  Kind kind_ = Kind::kAnd;
  Type type_ = Type::kString;
  Order order_ = Order::kEquals;
  bool expected_ = true;  // IsPresent, IsNull, …
  JsonPath variable_;
  Json operand_;
  std::optional<JsonPath> operand_path_;
  std::vector<Condition> parts_;
};

// Whether the whole text matches: * stands for any characters, \* and \\ for themselves.
bool MatchesPattern(std::string_view text, std::string_view pattern);

}  // namespace apta::workflow
