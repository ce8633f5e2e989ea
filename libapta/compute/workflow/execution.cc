#include "compute/workflow/execution.h"

#include <algorithm>

#include "compute/workflow/branch.h"
#include "compute/workflow/timestamp.h"
#include "fmt/format.h"

namespace apta::workflow {
namespace {

// Between two looks whether a full queue has room again, when no task of this run is under way
// whose end would say so.
constexpr absl::Duration kFirstHold = absl::Milliseconds(5);
constexpr absl::Duration kLastHold = absl::Milliseconds(500);

}  // namespace

Execution::Execution(const Definition* definition, Json input, const Options& options,
                     absl::Time now)
    : definition_(*definition),
      options_(options),
      now_(now),
      random_(options.seed),
      budget_(options.max_data_bytes) {
  if (definition_.timeout_s) times_out_at_ = now + absl::Seconds(*definition_.timeout_s);
  absl::StatusOr<Data> held = Data::Hold(std::move(input), &budget_);
  if (held.ok() && definition_.uses_context) {
    absl::StatusOr<DataBudget::Charge> copy =
        budget_.Take(SizeBytes(**held, budget_.left_bytes() + 1));
    if (copy.ok()) {
      context_charge_ = *std::move(copy);
    } else {
      held = copy.status();
    }
  }
  if (held.ok() && definition_.uses_context) {
    context_ = {{"Execution",
                 {{"Id", options_.name},
                  {"Name", options_.name},
                  {"Input", **held},
                  {"StartTime", FormatTimestamp(now)}}},
                {"StateMachine", {{"Id", ""}, {"Name", ""}}}};
  }
  Branch* run = NewBranch(&definition_.machine, held.ok() ? *held : Data(), nullptr, 0);
  if (held.ok()) return;
  RunError error = EvaluationError(held.status(), "");
  error.is_final = true;
  FailState(run, std::move(error));
}

Execution::~Execution() = default;

// ---------------------------------------------------------------------------------------------
// Time and branches.

void Execution::Advance(absl::Time now) {
  now_ = std::max(now_, now);
  for (int step = 0; step < kMaxSteps && !ended_; ++step) {
    if (now_ >= times_out_at_) {
      const auto root = std::find_if(branches_.begin(), branches_.end(), [](const auto& entry) {
        return entry.second->parent == nullptr;
      });
      FailState(root->second.get(),
                {.name = "States.Timeout",
                 .cause = fmt::format("the run takes longer than its TimeoutSeconds, {}",
                                      *definition_.timeout_s),
                 .is_final = true});
    } else if (!ready_.empty()) {
      const auto branch = branches_.find(ready_.front());
      ready_.pop_front();
      if (branch != branches_.end()) Enter(branch->second.get());
    } else if (!timers_.empty() && timers_.begin()->first <= now_) {
      Branch* branch = branches_.at(timers_.begin()->second).get();
      timers_.erase(timers_.begin());
      branch->wakes_at = absl::InfiniteFuture();
      Wake(branch);
    } else {
      return;
    }
  }
}

absl::Time Execution::next_deadline() const {
  if (ended_) return absl::InfiniteFuture();
  if (!ready_.empty()) return now_;
  absl::Time next = times_out_at_;
  if (!timers_.empty()) next = std::min(next, timers_.begin()->first);
  if (!queued_tasks_.empty() && held_until_ > now_) next = std::min(next, held_until_);
  return next;
}

Execution::Branch* Execution::NewBranch(const StateMachine* machine, Data input, Branch* parent,
                                        std::size_t slot) {
  auto branch = std::make_unique<Branch>();
  branch->id = ++last_id_;
  branch->machine = machine;
  branch->parent = parent;
  branch->slot = slot;
  branch->at = machine->start;
  branch->input = std::move(input);
  if (parent != nullptr) {
    branch->path = fmt::format("{}{}{}[{}]", parent->path, parent->path.empty() ? "" : "/",
                               parent->state().name, slot);
    parent->fork->below.insert(branch->id);
  }
  ready_.push_back(branch->id);
  Branch* made = branch.get();
  branches_.emplace(made->id, std::move(branch));
  return made;
}

// With all branches below it. Whatever queue names it passes over ids that are gone.
void Execution::Drop(Branch* branch) {
  DropForked(branch);
  if (branch->wakes_at != absl::InfiniteFuture()) timers_.erase({branch->wakes_at, branch->id});
  if (branch->parent != nullptr) branch->parent->fork->below.erase(branch->id);
  branches_.erase(branch->id);
}

void Execution::DropForked(Branch* branch) {
  if (branch->fork == nullptr) return;
  while (!branch->fork->below.empty()) Drop(branches_.at(*branch->fork->below.begin()).get());
  branch->fork = nullptr;
}

void Execution::SleepUntil(Branch* branch, absl::Time when) {
  branch->wakes_at = when;
  timers_.emplace(when, branch->id);
}

void Execution::Wake(Branch* branch) {
  if (!branch->waits) return Attempt(branch);  // once more
  branch->waits = false;
  LeaveThrough(branch, branch->input, branch->state().next);
}

void Execution::Enter(Branch* branch) {
  branch->entered = now_;
  branch->attempt = 0;
  branch->retries.assign(branch->state().retry.size(), 0);
  Tell(StateEvent::Kind::kEntered, *branch);
  Attempt(branch);
}

void Execution::Leave(Branch* branch, Data output, std::optional<StateIndex> next) {
  Tell(StateEvent::Kind::kLeft, *branch);
  if (!next) return EndBranch(branch, std::move(output));
  branch->input = std::move(output);
  branch->at = *next;
  ready_.push_back(branch->id);
}

void Execution::EndBranch(Branch* branch, Data output) {
  if (branch->parent == nullptr) {
    output_ = std::move(output);
    return End();
  }
  Branch* parent = branch->parent;
  Fork* fork = parent->fork.get();
  fork->results[branch->slot] = std::move(output);
  ++fork->ended_count;
  Drop(branch);
  StartBranches(parent);
}

void Execution::End() {
  ended_ = true;
  branches_.clear();
  timers_.clear();
  ready_.clear();
  queued_tasks_.clear();
}

void Execution::Tell(StateEvent::Kind kind, const Branch& branch, const RunError* error,
                     absl::Duration delay) {
  StateEvent event{.kind = kind,
                   .run = options_.name,
                   .state = branch.state().name,
                   .type = branch.state().type(),
                   .branch = branch.path,
                   .at = now_,
                   .attempt = std::max(1, branch.attempt),
                   .delay = delay};
  if (error != nullptr) {
    event.error = error->name;
    event.cause = error->cause;
  }
  events_.push_back(std::move(event));
}

// ---------------------------------------------------------------------------------------------
// Tasks.

std::optional<TaskCall> Execution::TakeTask(absl::Time now) {
  now_ = std::max(now_, now);
  if (held_until_ > now_) return std::nullopt;
  while (!queued_tasks_.empty()) {
    const auto found = branches_.find(queued_tasks_.front());
    queued_tasks_.pop_front();
    if (found == branches_.end() || !found->second->is_queued) continue;
    Branch* branch = found->second.get();
    TaskCall call = *branch->call;
    call.input = ToText(*branch->task_input);
    absl::StatusOr<DataBudget::Charge> charge = budget_.Take(call.input.size());
    if (!charge.ok() && !tasks_.empty()) {  // once one has ended
      held_until_ = absl::InfiniteFuture();
      queued_tasks_.push_front(branch->id);
      return std::nullopt;
    }
    branch->is_queued = false;
    if (!charge.ok()) {
      FailState(branch, EvaluationError(charge.status(), ""));
      continue;
    }
    call.id = branch->task = ++last_id_;
    tasks_.emplace(branch->task, UnderWay{branch->id, *std::move(charge)});
    call.timeout = std::clamp(times_out_at_ - now_, absl::Milliseconds(1), call.timeout);
    return call;
  }
  return std::nullopt;
}

void Execution::OnTaskEnded(TaskId id, absl::StatusOr<std::string> result, absl::Time now) {
  now_ = std::max(now_, now);
  const auto task = tasks_.find(id);
  if (task == tasks_.end()) return;
  const auto found = branches_.find(task->second.branch);
  tasks_.erase(task);
  ReleaseHold();
  if (found == branches_.end() || found->second->task != id) return;
  Branch* branch = found->second.get();
  branch->task = 0;
  branch->task_input = Data();
  branch->refused_at = absl::InfiniteFuture();
  if (!result.ok()) return FailState(branch, TaskError(result.status()));
  absl::StatusOr<Json> value = result->empty() ? Json() : ParseJson(*result);
  if (value.ok()) {
    std::optional<Data> held = Hold(branch, std::move(value), "");
    if (held) Complete(branch, *std::move(held));
    return;
  }
  FailState(branch, TaskError(absl::InternalError(fmt::format(
                        "function {} returned {} bytes that are {}", *branch->call->function,
                        result->size(), MessageOf(value.status())))));
}

void Execution::OnTaskRefused(TaskId id, const absl::Status& why, absl::Time now) {
  now_ = std::max(now_, now);
  const auto task = tasks_.find(id);
  if (task == tasks_.end()) return;
  const auto found = branches_.find(task->second.branch);
  tasks_.erase(task);
  hold_ = std::clamp(2 * hold_, kFirstHold, kLastHold);
  held_until_ = tasks_.empty() ? now_ + hold_ : absl::InfiniteFuture();
  if (found == branches_.end() || found->second->task != id) return;
  Branch* branch = found->second.get();
  branch->task = 0;
  branch->refused_at = std::min(branch->refused_at, now_);
  if (now_ - branch->refused_at >= branch->call->timeout) {
    branch->refused_at = absl::InfiniteFuture();
    return FailState(branch, TaskError(why));
  }
  branch->is_queued = true;
  queued_tasks_.push_front(branch->id);
}

void Execution::ReleaseHold() {
  held_until_ = absl::InfinitePast();
  hold_ = absl::ZeroDuration();
}

}  // namespace apta::workflow
