#include "compute/workflow/choice.h"

#include <algorithm>

#include "compute/workflow/timestamp.h"
#include "fmt/format.h"

namespace apta::workflow {

struct Condition::Operator {
  std::string_view name;
  Kind kind;
  Type type = Type::kString;
  Order order = Order::kEquals;
  bool has_path_variant() const { return kind == Kind::kCompares; }
};

const Condition::Operator* Condition::FindOperator(std::string_view name) {
  static constexpr Operator kOperators[] = {
      {"IsPresent", Kind::kIsPresent},
      {"IsNull", Kind::kHasType, Type::kNull},
      {"IsNumeric", Kind::kHasType, Type::kNumeric},
      {"IsString", Kind::kHasType, Type::kString},
      {"IsBoolean", Kind::kHasType, Type::kBoolean},
      {"IsTimestamp", Kind::kHasType, Type::kTimestamp},
      {"StringMatches", Kind::kMatches},
      {"BooleanEquals", Kind::kCompares, Type::kBoolean},
      {"StringEquals", Kind::kCompares, Type::kString, Order::kEquals},
      {"StringLessThan", Kind::kCompares, Type::kString, Order::kLess},
      {"StringGreaterThan", Kind::kCompares, Type::kString, Order::kGreater},
      {"StringLessThanEquals", Kind::kCompares, Type::kString, Order::kLessOrEquals},
      {"StringGreaterThanEquals", Kind::kCompares, Type::kString, Order::kGreaterOrEquals},
      {"NumericEquals", Kind::kCompares, Type::kNumeric, Order::kEquals},
      {"NumericLessThan", Kind::kCompares, Type::kNumeric, Order::kLess},
      {"NumericGreaterThan", Kind::kCompares, Type::kNumeric, Order::kGreater},
      {"NumericLessThanEquals", Kind::kCompares, Type::kNumeric, Order::kLessOrEquals},
      {"NumericGreaterThanEquals", Kind::kCompares, Type::kNumeric, Order::kGreaterOrEquals},
      {"TimestampEquals", Kind::kCompares, Type::kTimestamp, Order::kEquals},
      {"TimestampLessThan", Kind::kCompares, Type::kTimestamp, Order::kLess},
      {"TimestampGreaterThan", Kind::kCompares, Type::kTimestamp, Order::kGreater},
      {"TimestampLessThanEquals", Kind::kCompares, Type::kTimestamp, Order::kLessOrEquals},
      {"TimestampGreaterThanEquals", Kind::kCompares, Type::kTimestamp, Order::kGreaterOrEquals},
  };
  const auto* found = std::find_if(std::begin(kOperators), std::end(kOperators),
                                   [name](const Operator& each) { return each.name == name; });
  return found != std::end(kOperators) ? found : nullptr;
}

absl::StatusOr<Condition> Condition::ParseAll(const Json& rule, std::string_view name, Kind kind) {
  const Json& parts = rule[std::string(name)];
  if (kind == Kind::kNot ? !parts.is_object() : !parts.is_array() || parts.empty()) {
    return absl::InvalidArgumentError(fmt::format(
        "\"{}\" must be {}", name, kind == Kind::kNot ? "a rule" : "an array of rules"));
  }
  Condition joined;
  joined.kind_ = kind;
  const Json one = kind == Kind::kNot ? Json::array({parts}) : Json();
  for (const Json& part : kind == Kind::kNot ? one : parts) {
    std::vector<std::string_view> read = {"Comment"};
    absl::StatusOr<Condition> condition = Parse(part, &read);
    if (!condition.ok()) return condition;
    for (auto field = part.begin(); field != part.end(); ++field) {
      if (std::find(read.begin(), read.end(), field.key()) == read.end()) {
        return absl::InvalidArgumentError(
            fmt::format("\"{}\" has an unknown field \"{}\"{}", name, field.key(),
                        field.key() == "Next" ? ": only the outermost rule says Next" : ""));
      }
    }
    joined.parts_.push_back(*std::move(condition));
  }
  return joined;
}

absl::StatusOr<Condition> Condition::Parse(const Json& rule, std::vector<std::string_view>* read) {
  if (!rule.is_object()) return absl::InvalidArgumentError("a rule must be an object");
  constexpr std::pair<std::string_view, Kind> kJoints[] = {
      {"And", Kind::kAnd}, {"Or", Kind::kOr}, {"Not", Kind::kNot}};
  for (const auto& [name, kind] : kJoints) {
    if (!rule.contains(name)) continue;
    read->push_back(name);
    return ParseAll(rule, name, kind);
  }
  Condition condition;
  const auto variable = rule.find("Variable");
  if (variable == rule.end() || !variable->is_string()) {
    return absl::InvalidArgumentError("a rule needs \"Variable\", a path; or And, Or, Not");
  }
  absl::StatusOr<JsonPath> path = JsonPath::Parse(variable->get_ref<const std::string&>());
  if (!path.ok()) return path.status();
  if (!path->is_definite()) {
    return absl::InvalidArgumentError(
        fmt::format("\"Variable\": the path '{}' may mean more than one value", path->text()));
  }
  condition.variable_ = *std::move(path);
  read->push_back("Variable");
  bool has_operator = false;
  for (auto field = rule.begin(); field != rule.end(); ++field) {
    std::string_view name = field.key();
    const bool is_path = name.ends_with("Path");
    if (is_path) name.remove_suffix(4);
    const Operator* found = FindOperator(name);
    if (found == nullptr || (is_path && !found->has_path_variant())) continue;
    if (has_operator) return absl::InvalidArgumentError("a rule has one operator, not several");
    has_operator = true;
    read->push_back(field.key());
    condition.kind_ = found->kind;
    condition.type_ = found->type;
    condition.order_ = found->order;
    const absl::Status parsed = condition.ParseOperand(field.key(), *field, is_path);
    if (!parsed.ok()) return parsed;
  }
  if (!has_operator) {
    return absl::InvalidArgumentError("a rule needs an operator, such as \"StringEquals\"");
  }
  return condition;
}

absl::Status Condition::ParseOperand(std::string_view name, const Json& operand, bool is_path) {
  if (is_path) {
    if (!operand.is_string()) {
      return absl::InvalidArgumentError(fmt::format("\"{}\" must be a path", name));
    }
    absl::StatusOr<JsonPath> path = JsonPath::Parse(operand.get_ref<const std::string&>());
    if (!path.ok()) return path.status();
    if (!path->is_definite()) {
      return absl::InvalidArgumentError(
          fmt::format("\"{}\": the path '{}' may mean more than one value", name, path->text()));
    }
    operand_path_ = *std::move(path);
    return absl::OkStatus();
  }
  const bool is_flag = kind_ == Kind::kIsPresent || kind_ == Kind::kHasType;
  if (!IsOfType(operand, is_flag ? Type::kBoolean : type_)) {
    constexpr std::string_view kTypes[] = {"null", "a number", "a text", "true or false",
                                           "a timestamp such as 2024-02-29T12:00:00Z"};
    return absl::InvalidArgumentError(fmt::format(
        "\"{}\" must be {}, not {}", name,
        kTypes[static_cast<std::size_t>(is_flag ? Type::kBoolean : type_)], ToText(operand)));
  }
  if (is_flag) expected_ = operand.get<bool>();
  operand_ = operand;
  return absl::OkStatus();
}

bool Condition::IsOfType(const Json& value, Type type) {
  switch (type) {
    case Type::kNull:
      return value.is_null();
    case Type::kNumeric:
      return value.is_number();
    case Type::kString:
      return value.is_string();
    case Type::kBoolean:
      return value.is_boolean();
    case Type::kTimestamp:
      return value.is_string() && ParseTimestamp(value.get_ref<const std::string&>()).has_value();
  }
  return false;
}

bool Condition::Compare(const Json& value, const Json& operand) const {
  if (!IsOfType(value, type_) || !IsOfType(operand, type_)) return false;
  int order = 0;
  switch (type_) {
    case Type::kNull:
      break;
    case Type::kNumeric:
      order = CompareNumbers(value, operand);
      break;
    case Type::kString:
      order = value.get_ref<const std::string&>().compare(operand.get_ref<const std::string&>());
      break;
    case Type::kBoolean:
      order = static_cast<int>(value.get<bool>()) - static_cast<int>(operand.get<bool>());
      break;
    case Type::kTimestamp: {
      const auto left = ParseTimestamp(value.get_ref<const std::string&>());
      const auto right = ParseTimestamp(operand.get_ref<const std::string&>());
      order = *left < *right ? -1 : *left > *right ? 1 : 0;
      break;
    }
  }
  switch (order_) {
    case Order::kEquals:
      return order == 0;
    case Order::kLess:
      return order < 0;
    case Order::kGreater:
      return order > 0;
    case Order::kLessOrEquals:
      return order <= 0;
    case Order::kGreaterOrEquals:
      return order >= 0;
  }
  return false;
}

absl::StatusOr<bool> Condition::Holds(const Scope& scope) const {
  if (kind_ == Kind::kAnd || kind_ == Kind::kOr || kind_ == Kind::kNot) {
    for (const Condition& part : parts_) {
      const absl::StatusOr<bool> holds = part.Holds(scope);
      if (!holds.ok()) return holds;
      if (kind_ == Kind::kNot) return !*holds;
      if (*holds == (kind_ == Kind::kOr)) return *holds;
    }
    return kind_ == Kind::kAnd;
  }
  const absl::StatusOr<const Json*> value = FindValue(variable_, scope);
  if (kind_ == Kind::kIsPresent) return value.ok() == expected_;
  if (!value.ok()) return value.status();
  if (kind_ == Kind::kHasType) return IsOfType(**value, type_) == expected_;
  if (kind_ == Kind::kMatches) {
    return (*value)->is_string() && MatchesPattern((*value)->get_ref<const std::string&>(),
                                                   operand_.get_ref<const std::string&>());
  }
  if (!operand_path_) return Compare(**value, operand_);
  const absl::StatusOr<const Json*> operand = FindValue(*operand_path_, scope);
  if (!operand.ok()) return operand.status();
  return Compare(**value, **operand);
}

bool Condition::uses_context() const {
  return variable_.in_context() || (operand_path_ && operand_path_->in_context()) ||
         std::any_of(parts_.begin(), parts_.end(),
                     [](const Condition& part) { return part.uses_context(); });
}

// On a mismatch the last * takes one character more: earlier ones need never be looked at again.
bool MatchesPattern(std::string_view text, std::string_view pattern) {
  std::size_t in_text = 0;
  std::size_t in_pattern = 0;
  std::size_t behind_star = pattern.npos;
  std::size_t star_text = 0;
  while (true) {
    if (in_pattern < pattern.size() && pattern[in_pattern] == '*') {
      behind_star = ++in_pattern;
      star_text = in_text;
      continue;
    }
    if (in_text == text.size() && in_pattern == pattern.size()) return true;
    if (in_text < text.size() && in_pattern < pattern.size()) {
      const bool is_escape = pattern[in_pattern] == '\\' && in_pattern + 1 < pattern.size();
      if (text[in_text] == pattern[in_pattern + (is_escape ? 1 : 0)]) {
        ++in_text;
        in_pattern += is_escape ? 2 : 1;
        continue;
      }
    }
    if (behind_star == pattern.npos || star_text == text.size()) return false;
    in_text = ++star_text;
    in_pattern = behind_star;
  }
}

}  // namespace apta::workflow
