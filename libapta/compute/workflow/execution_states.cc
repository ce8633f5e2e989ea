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

// A copy of `data` with `value` at the path.
absl::StatusOr<Json> PutInCopy(const Json& data, const JsonPath& path, Json value, Scope* scope) {
  if (path.is_root()) return value;
  if (absl::Status charged = scope->Charge(data); !charged.ok()) return charged;
  Json whole = data;
  if (absl::Status put = path.Put(&whole, std::move(value)); !put.ok()) return put;
  return whole;
}

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
    if (!fork.items) continue;
    context_["Map"] = {{"Item", {{"Index", below->slot}, {"Value", (*fork.items)[below->slot]}}}};
    return;
  }
}

void Execution::Attempt(Branch* branch) {
  ++branch->attempt;
  if (++transitions_ > options_.max_transitions) {
    return FailState(branch, {.name = std::string(kRuntime),
                              .cause = fmt::format("the run has made {} state transitions, as many "
                                                   "as it may; does it go round in a circle?",
                                                   options_.max_transitions),
                              .is_final = true});
  }
  SetContext(*branch);
  const State& state = branch->state();
  std::optional<Data> input = Choose(branch, state.input_path, branch->input);
  if (!input) return;
  std::visit([&](const auto& what) { Begin(branch, what, *std::move(input)); }, state.what);
}

std::optional<Data> Execution::Hold(Branch* branch, absl::StatusOr<Json> value,
                                    std::string_view path_error) {
  absl::StatusOr<Data> held =
      value.ok() ? Data::Hold(*std::move(value), &budget_) : absl::StatusOr<Data>(value.status());
  if (held.ok()) return *std::move(held);
  FailState(branch, EvaluationError(held.status(), path_error));
  return std::nullopt;
}

std::optional<Data> Execution::Choose(Branch* branch, const DataPath& path, Data from) {
  if (!path) return Hold(branch, Json::object(), kRuntime);
  if (path->is_root() && !path->in_context()) return from;
  Scope scope = ScopeOf(*from);
  return Hold(branch, EvaluatePath(*path, &scope), kRuntime);
}

std::optional<Data> Execution::Payload(Branch* branch, const std::optional<Template>& payload,
                                       Data input) {
  if (!payload) return input;
  Scope scope = ScopeOf(*input);
  return Hold(branch, payload->Evaluate(&scope), kParameterPath);
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

void Execution::Begin(Branch* branch, const Task& task, Data input) {
  TaskCall call{.id = 0, .function = &task.function};
  NumberField timeout = task.timeout_s;
  if (!timeout.path && !timeout.value) timeout.value = kDefaultTaskTimeoutS;
  const std::optional<std::int64_t> timeout_s = NumberOf(branch, timeout, *input, 1);
  if (!timeout_s) return;
  call.timeout = absl::Seconds(*timeout_s);
  absl::Status wrong;
  if (task.reads) {
    const std::optional<Data> value = Payload(branch, task.reads, input);
    if (!value) return;
    absl::StatusOr<std::vector<std::string>> reads = ReadsOf((**value)["value"]);
    wrong = reads.status();
    if (reads.ok()) call.reads = *std::move(reads);
  }
  if (task.node && wrong.ok()) {
    const std::optional<Data> value = Payload(branch, task.node, input);
    if (!value) return;
    absl::StatusOr<std::string> node = NodeOf((**value)["value"]);
    wrong = node.status();
    if (node.ok()) call.node = *std::move(node);
  }
  if (!wrong.ok()) return FailState(branch, EvaluationError(wrong, kRuntime));
  std::optional<Data> payload = Payload(branch, branch->state().parameters, std::move(input));
  if (!payload) return;
  branch->task_input = *std::move(payload);
  branch->call = std::move(call);
  branch->is_queued = true;
  queued_tasks_.push_back(branch->id);
}

void Execution::Begin(Branch* branch, const Pass& pass, Data input) {
  std::optional<Data> result = pass.result
                                   ? Hold(branch, *pass.result, kRuntime)
                                   : Payload(branch, branch->state().parameters, std::move(input));
  if (result) Complete(branch, *std::move(result));
}

void Execution::Begin(Branch* branch, const Choice& choice, Data input) {
  for (const ChoiceRule& rule : choice.rules) {
    const absl::StatusOr<bool> holds = rule.condition.Holds(ScopeOf(*input));
    if (!holds.ok()) return FailState(branch, EvaluationError(holds.status(), kRuntime));
    if (*holds) return LeaveThrough(branch, input, rule.next);
  }
  if (choice.otherwise) return LeaveThrough(branch, input, *choice.otherwise);
  FailState(branch, {.name = "States.NoChoiceMatched",
                     .cause = "no rule holds for the input, and there is no Default"});
}

void Execution::Begin(Branch* branch, const Wait& wait, Data input) {
  absl::Time until = now_;
  if (wait.timestamp) {
    until = *wait.timestamp;
  } else if (wait.timestamp_path) {
    const absl::StatusOr<const Json*> value = FindValue(*wait.timestamp_path, ScopeOf(*input));
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
    const std::optional<std::int64_t> seconds = NumberOf(branch, wait.seconds, *input, 0);
    if (!seconds) return;
    until = now_ + absl::Seconds(*seconds);
  }
  branch->input = std::move(input);
  branch->waits = true;
  SleepUntil(branch, until);
}

void Execution::Begin(Branch* branch, const Succeed&, Data input) {
  LeaveThrough(branch, input, std::nullopt);
}

void Execution::Begin(Branch* branch, const Fail& fail, Data input) {
  RunError error{.name = fail.error, .cause = fail.cause};
  for (const auto& [path, text] :
       {std::pair(&fail.error_path, &error.name), std::pair(&fail.cause_path, &error.cause)}) {
    if (!*path) continue;
    Scope scope = ScopeOf(*input);
    const absl::StatusOr<Json> value = (*path)->Evaluate(&scope);
    if (!value.ok()) return FailState(branch, EvaluationError(value.status(), kRuntime));
    *text = value->is_string() ? value->get<std::string>() : ToText(*value);
  }
  FailState(branch, std::move(error));
}

void Execution::Begin(Branch* branch, const Parallel& parallel, Data input) {
  std::optional<Data> payload = Payload(branch, branch->state().parameters, std::move(input));
  if (!payload) return;
  branch->fork =
      std::make_unique<Fork>(Fork{.machines = &parallel.branches,
                                  .input = *std::move(payload),
                                  .results = std::vector<Data>(parallel.branches.size())});
  StartBranches(branch);
}

void Execution::Begin(Branch* branch, const Map& map, Data input) {
  const std::optional<std::int64_t> concurrency = NumberOf(branch, map.max_concurrency, *input, 0);
  if (!concurrency) return;
  const absl::StatusOr<const Json*> found = FindValue(map.items_path, ScopeOf(*input));
  if (!found.ok()) return FailState(branch, EvaluationError(found.status(), kRuntime));
  if (!(*found)->is_array()) {
    return FailState(branch, {.name = std::string(kRuntime),
                              .cause = fmt::format("'{}' must be an array of items, not {}",
                                                   map.items_path.text(), (*found)->type_name())});
  }
  std::optional<Data> items;
  if (map.items_path.in_context()) {  // which does not stay as it is
    items = Choose(branch, map.items_path, input);
    if (!items) return;
  } else {
    items = input.Part(**found);
  }
  branch->fork =
      std::make_unique<Fork>(Fork{.machines = &map.per_item,
                                  .input = std::move(input),
                                  .results = std::vector<Data>((*found)->size()),
                                  .items = *std::move(items),
                                  .max_concurrency = static_cast<std::size_t>(*concurrency)});
  StartBranches(branch);
}

// As many as may be, and none at all once one has failed to start; the end, if none is left.
void Execution::StartBranches(Branch* branch) {
  Fork* fork = branch->fork.get();
  while (fork->next_slot < fork->results.size() &&
         (fork->below.empty() ||
          ((fork->max_concurrency == 0 || fork->below.size() < fork->max_concurrency) &&
           branches_.size() < kMaxBranches))) {
    const std::size_t slot = fork->next_slot++;
    std::optional<Data> input = fork->items ? ItemInput(branch, slot) : fork->input;
    if (!input) return;  // and the fork is gone
    NewBranch(fork->items ? &fork->machines->front() : &(*fork->machines)[slot], *std::move(input),
              branch, slot);
  }
  if (fork->ended_count == fork->results.size()) Join(branch);
}

void Execution::Join(Branch* branch) {
  const std::unique_ptr<Fork> fork = std::move(branch->fork);
  Scope scope = ScopeOf(*fork->input);
  absl::StatusOr<Json> results = Json::array();
  for (Data& each : fork->results) {
    absl::StatusOr<Json> result = std::move(each).Release(&scope);
    if (!result.ok()) return FailState(branch, EvaluationError(result.status(), kRuntime));
    results->push_back(*std::move(result));
  }
  std::optional<Data> held = Hold(branch, std::move(results), kRuntime);
  if (held) Complete(branch, *std::move(held));
}

std::optional<Data> Execution::ItemInput(Branch* branch, std::size_t slot) {
  const Fork& fork = *branch->fork;
  const Json& item = (*fork.items)[slot];
  if (!branch->state().parameters) return fork.items.Part(item);
  if (definition_.uses_context) {
    SetContext(*branch);
    context_["Map"] = {{"Item", {{"Index", slot}, {"Value", item}}}};
  }
  return Payload(branch, branch->state().parameters, fork.input);
}

// ---------------------------------------------------------------------------------------------
// How any ends.

// The state's work is done: ResultSelector, ResultPath, OutputPath.
void Execution::Complete(Branch* branch, Data result) {
  const State& state = branch->state();
  SetContext(*branch);
  std::optional<Data> selected = Payload(branch, state.result_selector, std::move(result));
  if (!selected) return;
  if (!state.result_path) return LeaveThrough(branch, branch->input, state.next);
  if (state.result_path->is_root()) {
    return LeaveThrough(branch, *std::move(selected), state.next);
  }
  // Retry and Catch need the input as it was, should there be no such place.
  Scope scope = ScopeOf(*branch->input);
  absl::StatusOr<Json> value = std::move(*selected).Release(&scope);
  if (value.ok()) value = PutInCopy(*branch->input, *state.result_path, *std::move(value), &scope);
  std::optional<Data> data = Hold(branch, std::move(value), kRuntime);
  if (data) LeaveThrough(branch, *std::move(data), state.next);
}

void Execution::LeaveThrough(Branch* branch, Data data, std::optional<StateIndex> next) {
  std::optional<Data> output = Choose(branch, branch->state().output_path, std::move(data));
  if (output) Leave(branch, *std::move(output), next);
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
    if (catcher.result_path) {
      Scope scope = ScopeOf(*branch->input);
      absl::StatusOr<Json> data =
          PutInCopy(*branch->input, *catcher.result_path,
                    {{"Error", error.name}, {"Cause", error.cause}}, &scope);
      if (!data.ok()) return false;
      absl::StatusOr<Data> held = Data::Hold(*std::move(data), &budget_);
      if (!held.ok()) return false;
      branch->input = *std::move(held);
    }
    Tell(StateEvent::Kind::kCaught, *branch, &error);
    branch->at = catcher.next;
    ready_.push_back(branch->id);
    return true;
  }
  return false;
}

}  // namespace apta::workflow
