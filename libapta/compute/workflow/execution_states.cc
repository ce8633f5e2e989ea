// What the states of a run do: how each type begins, and how any ends.

#include <algorithm>

#include "compute/workflow/branch.h"
#include "compute/workflow/execution.h"
#include "compute/workflow/task_fields.h"
#include "compute/workflow/timestamp.h"
#include "fmt/format.h"

namespace apta::workflow {
namespace {

constexpr std::int64_t kDefaultTaskTimeoutS = 60;
constexpr std::string_view kRuntime = "States.Runtime";
constexpr std::string_view kParameterPath = "States.ParameterPathFailure";

}  // namespace

void Execution::SetContext(const Branch& branch) {
  if (!definition_.uses_context) return;
  context_["State"] = {{"Name", branch.state().name},
                       {"EnteredTime", FormatTimestamp(branch.entered)},
                       {"RetryCount", branch.attempt - 1}};
  context_.erase("Map");
  // The innermost item.
  for (const Branch* below = &branch; below->parent != nullptr; below = below->parent) {
    const Fork& fork = *below->parent->fork;
    if (fork.items == nullptr) continue;
    context_["Map"] = {{"Item", {{"Index", below->slot}, {"Value", (*fork.items)[below->slot]}}}};
    return;
  }
}

void Execution::Attempt(Branch* branch) {
  ++branch->attempt;
  SetContext(*branch);
  const State& state = branch->state();
  Json input = Json::object();
  if (state.input_path && state.input_path->is_root() && !state.input_path->in_context()) {
    input = branch->input;
  } else if (state.input_path) {
    Scope scope = ScopeOf(branch->input);
    absl::StatusOr<Json> chosen = EvaluatePath(*state.input_path, &scope);
    if (!chosen.ok()) return FailState(branch, EvaluationError(chosen.status(), kRuntime));
    input = *std::move(chosen);
  }
  std::visit([&](const auto& what) { Begin(branch, what, std::move(input)); }, state.what);
}

// nullopt: it cannot be made, and the state has failed.
std::optional<Json> Execution::Payload(Branch* branch, const std::optional<Template>& payload,
                                       Json input) {
  if (!payload) return input;
  Scope scope = ScopeOf(input);
  absl::StatusOr<Json> made = payload->Evaluate(&scope);
  if (made.ok()) return *std::move(made);
  FailState(branch, EvaluationError(made.status(), kParameterPath));
  return std::nullopt;
}

std::optional<std::int64_t> Execution::NumberOf(Branch* branch, const NumberField& field,
                                                const Json& input, std::int64_t min) {
  if (!field.path) return field.value.value_or(min);
  const absl::StatusOr<const Json*> found = FindValue(*field.path, ScopeOf(input));
  if (!found.ok()) {
    FailState(branch, EvaluationError(found.status(), kRuntime));
    return std::nullopt;
  }
  const Json& value = **found;
  if (value.is_number_integer() && CompareNumbers(value, min) >= 0 &&
      CompareNumbers(value, std::int64_t{99'999'999}) <= 0) {
    return value.get<std::int64_t>();
  }
  FailState(branch, {.name = std::string(kRuntime),
                     .cause = fmt::format("'{}' must be an integer of {} or more",
                                          field.path->text(), min)});
  return std::nullopt;
}

// ---------------------------------------------------------------------------------------------
// How each type begins.

void Execution::Begin(Branch* branch, const Task& task, Json input) {
  TaskCall call{.id = 0, .function = &task.function};
  NumberField timeout = task.timeout_s;
  if (!timeout.path && !timeout.value) timeout.value = kDefaultTaskTimeoutS;
  const std::optional<std::int64_t> timeout_s = NumberOf(branch, timeout, input, 1);
  if (!timeout_s) return;
  call.timeout = absl::Seconds(*timeout_s);
  absl::Status wrong;
  if (task.reads) {
    const std::optional<Json> value = Payload(branch, task.reads, input);
    if (!value) return;
    absl::StatusOr<std::vector<std::string>> reads = ReadsOf((*value)["value"]);
    wrong = reads.status();
    if (reads.ok()) call.reads = *std::move(reads);
  }
  if (task.node && wrong.ok()) {
    const std::optional<Json> value = Payload(branch, task.node, input);
    if (!value) return;
    absl::StatusOr<std::string> node = NodeOf((*value)["value"]);
    wrong = node.status();
    if (node.ok()) call.node = *std::move(node);
  }
  if (!wrong.ok()) return FailState(branch, EvaluationError(wrong, kRuntime));
  std::optional<Json> payload = Payload(branch, branch->state().parameters, std::move(input));
  if (!payload) return;
  branch->task_input = *std::move(payload);
  branch->call = std::move(call);
  branch->is_queued = true;
  queued_tasks_.push_back(branch->id);
}

void Execution::Begin(Branch* branch, const Pass& pass, Json input) {
  std::optional<Json> result = pass.result;
  if (!result) result = Payload(branch, branch->state().parameters, std::move(input));
  if (result) Complete(branch, *std::move(result));
}

void Execution::Begin(Branch* branch, const Choice& choice, Json input) {
  for (const ChoiceRule& rule : choice.rules) {
    const absl::StatusOr<bool> holds = rule.condition.Holds(ScopeOf(input));
    if (!holds.ok()) return FailState(branch, EvaluationError(holds.status(), kRuntime));
    if (*holds) return LeaveThrough(branch, input, rule.next);
  }
  if (choice.otherwise) return LeaveThrough(branch, input, *choice.otherwise);
  FailState(branch, {.name = "States.NoChoiceMatched",
                     .cause = "no rule holds for the input, and there is no Default"});
}

void Execution::Begin(Branch* branch, const Wait& wait, Json input) {
  absl::Time until = now_;
  if (wait.timestamp) {
    until = *wait.timestamp;
  } else if (wait.timestamp_path) {
    const absl::StatusOr<const Json*> value = FindValue(*wait.timestamp_path, ScopeOf(input));
    if (!value.ok()) return FailState(branch, EvaluationError(value.status(), kRuntime));
    const auto timestamp = (*value)->is_string()
                               ? ParseTimestamp((*value)->get_ref<const std::string&>())
                               : std::nullopt;
    if (!timestamp) {
      return FailState(branch, {.name = std::string(kRuntime),
                                .cause = fmt::format("'{}' is no timestamp such as "
                                                     "2024-02-29T12:00:00Z",
                                                     wait.timestamp_path->text())});
    }
    until = *timestamp;
  } else {
    const std::optional<std::int64_t> seconds = NumberOf(branch, wait.seconds, input, 0);
    if (!seconds) return;
    until = now_ + absl::Seconds(*seconds);
  }
  branch->input = std::move(input);
  branch->waits = true;
  SleepUntil(branch, until);
}

void Execution::Begin(Branch* branch, const Succeed&, Json input) {
  LeaveThrough(branch, input, std::nullopt);
}

void Execution::Begin(Branch* branch, const Fail& fail, Json input) {
  RunError error{.name = fail.error, .cause = fail.cause};
  for (const auto& [path, text] :
       {std::pair(&fail.error_path, &error.name), std::pair(&fail.cause_path, &error.cause)}) {
    if (!*path) continue;
    Scope scope = ScopeOf(input);
    const absl::StatusOr<Json> value = (*path)->Evaluate(&scope);
    if (!value.ok()) return FailState(branch, EvaluationError(value.status(), kRuntime));
    *text = value->is_string() ? value->get<std::string>() : ToText(*value);
  }
  FailState(branch, std::move(error));
}

void Execution::Begin(Branch* branch, const Parallel& parallel, Json input) {
  std::optional<Json> payload = Payload(branch, branch->state().parameters, std::move(input));
  if (!payload) return;
  branch->fork = std::make_unique<Fork>();
  branch->fork->results.resize(parallel.branches.size());
  for (std::size_t slot = 0; slot < parallel.branches.size(); ++slot) {
    NewBranch(&parallel.branches[slot], *payload, branch, slot);
  }
}

void Execution::Begin(Branch* branch, const Map& map, Json input) {
  const std::optional<std::int64_t> concurrency = NumberOf(branch, map.max_concurrency, input, 0);
  if (!concurrency) return;
  auto fork = std::make_unique<Fork>();
  fork->input = std::move(input);
  fork->max_concurrency = static_cast<std::size_t>(*concurrency);
  const absl::StatusOr<const Json*> items = FindValue(map.items_path, ScopeOf(fork->input));
  if (!items.ok()) return FailState(branch, EvaluationError(items.status(), kRuntime));
  if (!(*items)->is_array()) {
    return FailState(branch, {.name = std::string(kRuntime),
                              .cause = fmt::format("'{}' must be an array of items, not {}",
                                                   map.items_path.text(), (*items)->type_name())});
  }
  fork->items = *items;
  if (map.items_path.in_context()) {  // which does not stay as it is
    fork->own_items = **items;
    fork->items = &fork->own_items;
  }
  fork->results.resize(fork->items->size());
  branch->fork = std::move(fork);
  StartItems(branch);
}

// As many as may be; and none at all once one has failed to start.
void Execution::StartItems(Branch* branch) {
  Fork* fork = branch->fork.get();
  while (fork->next_item < fork->items->size() &&
         (fork->below.empty() ||
          ((fork->max_concurrency == 0 || fork->below.size() < fork->max_concurrency) &&
           branches_.size() < kMaxBranches))) {
    if (!StartItem(branch)) return;
  }
  if (fork->ended_count < fork->results.size()) return;
  Json results = Json::array();
  for (Json& result : fork->results) results.push_back(std::move(result));
  branch->fork = nullptr;
  Complete(branch, std::move(results));
}

// False: the state has failed, and the fork is gone.
bool Execution::StartItem(Branch* branch) {
  Fork* fork = branch->fork.get();
  const std::size_t slot = fork->next_item++;
  const Json& item = (*fork->items)[slot];
  Json input = item;
  if (branch->state().parameters) {
    if (definition_.uses_context) {
      SetContext(*branch);
      context_["Map"] = {{"Item", {{"Index", slot}, {"Value", item}}}};
    }
    Scope scope = ScopeOf(fork->input);
    absl::StatusOr<Json> made = branch->state().parameters->Evaluate(&scope);
    if (!made.ok()) {
      FailState(branch, EvaluationError(made.status(), kParameterPath));
      return false;
    }
    input = *std::move(made);
  }
  const auto& map = std::get<Map>(branch->state().what);
  NewBranch(&map.per_item.front(), std::move(input), branch, slot);
  return true;
}

// ---------------------------------------------------------------------------------------------
// How any ends.

// The state's work is done: ResultSelector, ResultPath, OutputPath.
void Execution::Complete(Branch* branch, Json result) {
  const State& state = branch->state();
  SetContext(*branch);
  std::optional<Json> selected = Payload(branch, state.result_selector, std::move(result));
  if (!selected) return;
  if (!state.result_path) return LeaveThrough(branch, branch->input, state.next);
  if (state.result_path->is_root()) return LeaveThrough(branch, *selected, state.next);
  // Retry and Catch need the input as it was, should there be no such place.
  Json data = branch->input;
  const absl::Status put = state.result_path->Put(&data, *std::move(selected));
  if (!put.ok()) return FailState(branch, EvaluationError(put, kRuntime));
  LeaveThrough(branch, data, state.next);
}

void Execution::LeaveThrough(Branch* branch, const Json& data, std::optional<StateIndex> next) {
  const DataPath& path = branch->state().output_path;
  Scope scope = ScopeOf(data);
  absl::StatusOr<Json> output = path ? EvaluatePath(*path, &scope) : Json::object();
  if (!output.ok()) return FailState(branch, EvaluationError(output.status(), kRuntime));
  if (IsNestedDeeper(*output, kMaxDataDepth)) {
    return FailState(branch, {.name = "States.DataLimitExceeded",
                              .cause = fmt::format("the state's output is nested deeper than {} "
                                                   "levels",
                                                   kMaxDataDepth)});
  }
  Leave(branch, *std::move(output), next);
}

void Execution::FailState(Branch* branch, RunError error) {
  DropForked(branch);
  if (!error.is_final && (Retry(branch, error) || Catch(branch, error))) return;
  Tell(StateEvent::Kind::kFailed, *branch, &error);
  if (failed_state_.empty() || !error.from_branch) failed_state_ = branch->state().name;
  if (branch->parent == nullptr) {
    error_ = std::move(error);
    return End();
  }
  error.from_branch = true;
  FailState(branch->parent, std::move(error));
}

// The first retrier that means the error decides.
bool Execution::Retry(Branch* branch, const RunError& error) {
  const State& state = branch->state();
  for (std::size_t i = 0; i < state.retry.size(); ++i) {
    const Retrier& retrier = state.retry[i];
    const bool matches = std::any_of(retrier.errors.begin(), retrier.errors.end(),
                                     [&](const auto& wanted) { return error.Matches(wanted); });
    if (!matches) continue;
    if (branch->retries[i] >= retrier.max_attempts) return false;
    const double share = retrier.has_full_jitter ? random_.NextShare() : 1;
    const absl::Duration delay = retrier.Delay(++branch->retries[i], share);
    Tell(StateEvent::Kind::kRetrying, *branch, &error, delay);
    SleepUntil(branch, now_ + delay);
    return true;
  }
  return false;
}

bool Execution::Catch(Branch* branch, const RunError& error) {
  for (const Catcher& catcher : branch->state().catches) {
    const bool matches = std::any_of(catcher.errors.begin(), catcher.errors.end(),
                                     [&](const auto& wanted) { return error.Matches(wanted); });
    if (!matches) continue;
    Json data = branch->input;
    if (catcher.result_path) {
      const Json caught = {{"Error", error.name}, {"Cause", error.cause}};
      if (!catcher.result_path->Put(&data, caught).ok()) return false;
    }
    Tell(StateEvent::Kind::kCaught, *branch, &error);
    branch->input = std::move(data);
    branch->at = catcher.next;
    ready_.push_back(branch->id);
    return true;
  }
  return false;
}

}  // namespace apta::workflow
