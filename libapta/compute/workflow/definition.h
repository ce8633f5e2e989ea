// A workflow as it was read and checked: what parser.cc makes of Amazon States Language. Immutable
// from then on; states name one another by index.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "compute/workflow/choice.h"
#include "compute/workflow/expression.h"
#include "compute/workflow/json_path.h"
#include "compute/workflow/template.h"

namespace apta::workflow {

using StateIndex = std::size_t;

// InputPath, OutputPath, ResultPath: nullopt where the field says null.
using DataPath = std::optional<JsonPath>;

struct Retrier {
  std::vector<std::string> errors;
  std::int64_t interval_s = 1;
  double backoff_rate = 2;
  std::int64_t max_attempts = 3;
  std::optional<std::int64_t> max_delay_s;
  bool has_full_jitter = false;

  // Before the nth retry, from 1. With jitter, `share` (0 to 1) of it.
  absl::Duration Delay(std::int64_t retry, double share) const;
};

struct Catcher {
  std::vector<std::string> errors;
  StateIndex next;
  DataPath result_path = JsonPath();
};

// A number that is given, or that a path names.
struct NumberField {
  std::optional<std::int64_t> value;
  std::optional<JsonPath> path;
};

struct StateMachine;

struct Task {
  std::string function;
  NumberField timeout_s;          // neither: 60
  std::optional<Template> reads;  // keys of objects
  std::optional<Template> node;
};
struct Pass {
  std::optional<Json> result;
};
struct ChoiceRule {
  Condition condition;
  StateIndex next;
};
struct Choice {
  std::vector<ChoiceRule> rules;
  std::optional<StateIndex> otherwise;
};
struct Wait {
  NumberField seconds;
  std::optional<absl::Time> timestamp;
  std::optional<JsonPath> timestamp_path;
};
struct Succeed {};
struct Fail {
  std::string error;
  std::string cause;
  std::optional<Expression> error_path;
  std::optional<Expression> cause_path;
};
struct Parallel {
  std::vector<StateMachine> branches;
};
struct Map {
  JsonPath items_path;
  NumberField max_concurrency;         // 0 or neither: as many as possible
  std::vector<StateMachine> per_item;  // one
};

struct State {
  std::string name;
  std::variant<Task, Pass, Choice, Wait, Succeed, Fail, Parallel, Map> what;
  std::optional<StateIndex> next;  // nullopt: ends its machine
  DataPath input_path = JsonPath();
  DataPath output_path = JsonPath();
  DataPath result_path = JsonPath();
  std::optional<Template> parameters;  // a Map's are those of an item
  std::optional<Template> result_selector;
  std::vector<Retrier> retry;
  std::vector<Catcher> catches;

  // "Task", "Pass", …
  std::string_view type() const;
  // Nothing but it knows how it ends: a function may fail.
  bool may_fail() const {
    return std::holds_alternative<Task>(what) || std::holds_alternative<Parallel>(what) ||
           std::holds_alternative<Map>(what) || std::holds_alternative<Fail>(what);
  }
  // Every state that may follow.
  std::vector<StateIndex> successors() const;
};

struct StateMachine {
  std::vector<State> states;
  StateIndex start = 0;
};

struct Definition {
  StateMachine machine;
  std::optional<std::int64_t> timeout_s;
  bool uses_context = false;  // else nobody looks at $$
};

}  // namespace apta::workflow
