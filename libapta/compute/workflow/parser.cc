#include "compute/workflow/parser.h"

#include <map>
#include <utility>

#include "compute/workflow/error.h"
#include "compute/workflow/fields.h"
#include "compute/workflow/task_fields.h"
#include "compute/workflow/timestamp.h"
#include "compute/workflow/validation.h"
#include "fmt/format.h"

namespace apta::workflow {
namespace {

constexpr std::size_t kMaxDefinitionDepth = 128;
constexpr std::size_t kMaxFunctionBytes = 1024;

class Parser {
 public:
  absl::StatusOr<Definition> Parse(const Json& json);

 private:
  using Names = std::map<std::string, StateIndex, std::less<>>;

  void ParseMachine(Fields* fields, StateMachine* machine);
  State ParseState(const std::string& name, const Json& json);
  void ParseWhat(std::string_view type, Fields* fields, State* state);
  void ParseFlow(Fields* fields, State* state);
  void ParseErrorHandling(Fields* fields, State* state);
  Task ParseTask(Fields* fields, State* state);
  Choice ParseChoice(Fields* fields);
  Wait ParseWait(Fields* fields);
  Fail ParseFail(Fields* fields);
  Parallel ParseParallel(Fields* fields);
  Map ParseMap(Fields* fields, State* state);
  StateIndex Follow(Fields* fields, const std::string& field);

  Faults faults_;
  std::set<std::string> taken_names_;  // of the whole workflow
  const Names* names_ = nullptr;       // of the machine that is being read
  bool uses_context_ = false;
};

std::string Where(std::string_view state) { return fmt::format("state \"{}\"", state); }

absl::StatusOr<Definition> Parser::Parse(const Json& json) {
  Definition definition;
  Fields fields(json, json.is_object() ? "" : "the workflow", &faults_);
  fields.Find("Comment");
  if (fields.Text("Version").value_or("1.0") != "1.0") fields.Fault("Version", "must be \"1.0\"");
  definition.timeout_s = fields.Integer("TimeoutSeconds", 1);
  ParseMachine(&fields, &definition.machine);
  fields.Finish("a workflow");
  definition.uses_context = uses_context_;
  if (faults_.any()) return faults_.first();
  return definition;
}

void Parser::ParseMachine(Fields* fields, StateMachine* machine) {
  if (fields->Text("QueryLanguage").value_or("JSONPath") != "JSONPath") {
    fields->Fault("QueryLanguage", "must be \"JSONPath\"");
  }
  const Json* states = fields->Need("States");
  const std::string start = fields->NeedText("StartAt");
  if (states == nullptr || faults_.any()) return;
  if (!states->is_object() || states->empty()) {
    return fields->Fault("States", "must be an object with a state or more");
  }
  Names names;
  for (auto state = states->begin(); state != states->end(); ++state) {
    names.emplace(state.key(), names.size());
    if (state.key().empty() || state.key().size() > 80) {
      fields->Fault("States", fmt::format("\"{}\": a state's name has 1 to 80 bytes", state.key()));
    }
    if (!taken_names_.insert(state.key()).second) {
      faults_.Add(Where(state.key()), "", "another state of the workflow has the same name");
    }
  }
  const auto first = names.find(start);
  if (first == names.end()) {
    return fields->Fault("StartAt", fmt::format("there is no state \"{}\" beside it", start));
  }
  machine->start = first->second;
  const Names* outer = std::exchange(names_, &names);
  for (auto state = states->begin(); state != states->end() && !faults_.any(); ++state) {
    machine->states.push_back(ParseState(state.key(), *state));
  }
  names_ = outer;
  if (faults_.any()) return;
  faults_.Add(CheckGraph(*machine));
}

StateIndex Parser::Follow(Fields* fields, const std::string& field) {
  const std::string name = fields->NeedText(field);
  const auto state = names_->find(name);
  if (state != names_->end()) return state->second;
  fields->Fault(field, fmt::format("there is no state \"{}\" beside it", name));
  return 0;
}

State Parser::ParseState(const std::string& name, const Json& json) {
  State state;
  state.name = name;
  Fields fields(json, Where(name), &faults_);
  fields.Find("Comment");
  if (fields.Text("QueryLanguage").value_or("JSONPath") != "JSONPath") {
    fields.Fault("QueryLanguage", "must be \"JSONPath\"");
  }
  const std::string type = fields.NeedText("Type");
  ParseWhat(type, &fields, &state);
  if (faults_.any()) return state;
  fields.Finish(fmt::format("a {} state", type));
  uses_context_ = uses_context_ || fields.uses_context();
  return state;
}

void Parser::ParseWhat(std::string_view type, Fields* fields, State* state) {
  if (type == "Task") {
    state->what = ParseTask(fields, state);
  } else if (type == "Pass") {
    const Json* result = fields->Find("Result");
    state->what = Pass{result != nullptr ? std::optional<Json>(*result) : std::nullopt};
    state->parameters = fields->Payload("Parameters");
  } else if (type == "Choice") {
    state->what = ParseChoice(fields);
  } else if (type == "Wait") {
    state->what = ParseWait(fields);
  } else if (type == "Succeed") {
    state->what = Succeed{};
  } else if (type == "Fail") {
    state->what = ParseFail(fields);
  } else if (type == "Parallel") {
    state->what = ParseParallel(fields);
    state->parameters = fields->Payload("Parameters");
  } else if (type == "Map") {
    state->what = ParseMap(fields, state);
  } else if (!faults_.any()) {
    return fields->Fault("Type", fmt::format("\"{}\" is none of Task, Pass, Choice, Wait, Succeed, "
                                             "Fail, Parallel, Map",
                                             type));
  }
  ParseFlow(fields, state);
}

// What several types have in common.
void Parser::ParseFlow(Fields* fields, State* state) {
  const std::string_view type = state->type();
  if (type == "Fail") return;
  state->input_path = fields->Data("InputPath");
  state->output_path = fields->Data("OutputPath");
  if (type == "Choice" || type == "Succeed") return;
  const bool ends = fields->Flag("End");
  if (ends && fields->Has("Next")) fields->Fault("Next", "excludes \"End\": true");
  if (!ends && !fields->Has("Next")) fields->Fault("Next", "is missing, and so is \"End\": true");
  if (!ends) state->next = Follow(fields, "Next");
  if (type == "Wait") return;
  state->result_path = fields->Result("ResultPath");
  if (type != "Pass") ParseErrorHandling(fields, state);
}

void Parser::ParseErrorHandling(Fields* fields, State* state) {
  state->result_selector = fields->Payload("ResultSelector");
  const auto for_each = [&](const std::string& field, auto&& parse) {
    const Json* list = fields->Find(field);
    if (list == nullptr) return;
    if (!list->is_array()) return fields->Fault(field, "must be an array");
    for (std::size_t i = 0; i < list->size(); ++i) {
      const std::string where = fmt::format("{}, {}[{}]", fields->where(), field, i);
      Fields entry((*list)[i], where, &faults_);
      entry.Find("Comment");
      parse(&entry, i + 1 == list->size());
      entry.Finish(field);
    }
  };
  for_each("Retry", [&](Fields* entry, bool is_last) {
    Retrier retrier;
    retrier.errors = entry->ErrorNames(is_last);
    retrier.interval_s = entry->Integer("IntervalSeconds", 1).value_or(retrier.interval_s);
    retrier.backoff_rate = entry->Number("BackoffRate", 1).value_or(retrier.backoff_rate);
    retrier.max_attempts = entry->Integer("MaxAttempts", 0).value_or(retrier.max_attempts);
    retrier.max_delay_s = entry->Integer("MaxDelaySeconds", 1);
    if (retrier.max_delay_s && *retrier.max_delay_s <= retrier.interval_s) {
      entry->Fault("MaxDelaySeconds",
                   fmt::format("must be above IntervalSeconds, {}", retrier.interval_s));
    }
    const std::string jitter = entry->Text("JitterStrategy").value_or("NONE");
    if (jitter != "NONE" && jitter != "FULL") {
      entry->Fault("JitterStrategy", fmt::format("\"{}\" is neither NONE nor FULL", jitter));
    }
    retrier.has_full_jitter = jitter == "FULL";
    state->retry.push_back(std::move(retrier));
  });
  for_each("Catch", [&](Fields* entry, bool is_last) {
    state->catches.push_back({.errors = entry->ErrorNames(is_last),
                              .next = Follow(entry, "Next"),
                              .result_path = entry->Result("ResultPath")});
  });
}

Task Parser::ParseTask(Fields* fields, State* state) {
  Task task;
  task.function = fields->NeedText("Resource");
  if (!faults_.any() && (task.function.empty() || task.function.size() > kMaxFunctionBytes ||
                         task.function.find('\0') != std::string::npos)) {
    fields->Fault("Resource", fmt::format("must be a function's name, of 1 to {} bytes without NUL",
                                          kMaxFunctionBytes));
  }
  task.timeout_s = fields->IntegerOrPath("TimeoutSeconds", 1);
  const Json* parameters = fields->Find("Parameters");
  if (parameters == nullptr) return task;
  absl::StatusOr<TaskFields> split = SplitTaskFields(*parameters);
  if (!split.ok()) {
    fields->Fault("Parameters", MessageOf(split.status()));
    return task;
  }
  task.reads = std::move(split->reads);
  task.node = std::move(split->node);
  state->parameters = std::move(split->parameters);
  uses_context_ = uses_context_ || split->uses_context;
  return task;
}

Choice Parser::ParseChoice(Fields* fields) {
  Choice choice;
  const Json* rules = fields->Need("Choices");
  if (rules == nullptr) return choice;
  if (!rules->is_array() || rules->empty()) {
    fields->Fault("Choices", "must be an array of rules");
    return choice;
  }
  for (std::size_t i = 0; i < rules->size(); ++i) {
    Fields rule((*rules)[i], fmt::format("{}, Choices[{}]", fields->where(), i), &faults_);
    rule.Find("Comment");
    std::vector<std::string_view> read;
    absl::StatusOr<Condition> condition = Condition::Parse((*rules)[i], &read);
    if (!condition.ok()) {
      rule.Fault("", MessageOf(condition.status()));
      return choice;
    }
    for (const std::string_view field : read) rule.Find(std::string(field));
    const StateIndex next = Follow(&rule, "Next");
    rule.Finish("a rule with what else it says");
    uses_context_ = uses_context_ || condition->uses_context();
    choice.rules.push_back({*std::move(condition), next});
  }
  if (fields->Has("Default")) choice.otherwise = Follow(fields, "Default");
  return choice;
}

Wait Parser::ParseWait(Fields* fields) {
  Wait wait;
  wait.seconds = fields->IntegerOrPath("Seconds", 0);
  wait.timestamp_path = fields->DefinitePath("TimestampPath");
  if (const std::optional<std::string> timestamp = fields->Text("Timestamp")) {
    wait.timestamp = ParseTimestamp(*timestamp);
    if (!wait.timestamp) {
      fields->Fault("Timestamp",
                    fmt::format("'{}' is no timestamp such as 2024-02-29T12:00:00Z", *timestamp));
    }
  }
  const int given = wait.seconds.value.has_value() + wait.seconds.path.has_value() +
                    wait.timestamp.has_value() + wait.timestamp_path.has_value();
  if (given != 1 && !faults_.any()) {
    fields->Fault("", fmt::format("needs one of Seconds, SecondsPath, Timestamp, TimestampPath; "
                                  "has {}",
                                  given));
  }
  return wait;
}

Fail Parser::ParseFail(Fields* fields) {
  Fail fail;
  fail.error = fields->Text("Error").value_or("");
  fail.cause = fields->Text("Cause").value_or("");
  fail.error_path = fields->PathOrCall("ErrorPath");
  fail.cause_path = fields->PathOrCall("CausePath");
  if (fail.error_path && fields->Has("Error")) fields->Fault("Error", "excludes ErrorPath");
  if (fail.cause_path && fields->Has("Cause")) fields->Fault("Cause", "excludes CausePath");
  return fail;
}

Parallel Parser::ParseParallel(Fields* fields) {
  Parallel parallel;
  const Json* branches = fields->Need("Branches");
  if (branches == nullptr) return parallel;
  if (!branches->is_array() || branches->empty()) {
    fields->Fault("Branches", "must be an array of state machines");
    return parallel;
  }
  for (std::size_t i = 0; i < branches->size() && !faults_.any(); ++i) {
    Fields branch((*branches)[i], fmt::format("{}, Branches[{}]", fields->where(), i), &faults_);
    branch.Find("Comment");
    ParseMachine(&branch, &parallel.branches.emplace_back());
    branch.Finish("a branch");
  }
  return parallel;
}

Map Parser::ParseMap(Fields* fields, State* state) {
  Map map;
  map.items_path = fields->DefinitePath("ItemsPath").value_or(JsonPath());
  map.max_concurrency = fields->IntegerOrPath("MaxConcurrency", 0);
  state->parameters = fields->Payload("ItemSelector");
  if (fields->Has("Parameters")) {
    if (fields->Has("ItemSelector")) fields->Fault("Parameters", "excludes ItemSelector");
    state->parameters = fields->Payload("Parameters");
  }
  if (fields->Has("Iterator") && fields->Has("ItemProcessor")) {
    fields->Fault("Iterator", "excludes ItemProcessor");
  }
  const std::string field = fields->Has("Iterator") ? "Iterator" : "ItemProcessor";
  const Json* processor = fields->Need(field);
  if (processor == nullptr) return map;
  Fields machine(*processor, fmt::format("{}, {}", fields->where(), field), &faults_);
  machine.Find("Comment");
  if (const Json* config = machine.Find("ProcessorConfig")) {
    Fields mode(*config, fmt::format("{}, ProcessorConfig", machine.where()), &faults_);
    if (mode.Text("Mode").value_or("INLINE") != "INLINE") mode.Fault("Mode", "must be \"INLINE\"");
    mode.Finish("a ProcessorConfig");
  }
  ParseMachine(&machine, &map.per_item.emplace_back());
  machine.Finish("an " + field);
  return map;
}

}  // namespace

absl::StatusOr<Definition> ParseDefinition(std::string_view amazon_states_language) {
  const absl::StatusOr<Json> json = ParseJson(amazon_states_language, kMaxDefinitionDepth);
  if (!json.ok()) return json.status();
  return Parser().Parse(*json);
}

}  // namespace apta::workflow
