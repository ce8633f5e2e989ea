// One run of a workflow, as a state machine: it is told the time and how tasks ended, and says
// which tasks to run next. No threads, no clock, no system calls; the same inputs give the same
// run.
//
// A branch is one thread of control: the run has one, and so has each branch of a Parallel state
// and each item of a Map that is being worked on. A branch is in one state at a time; in a Parallel
// or Map state it waits for the branches below it.
//
// Invariants
//   1. A branch is in exactly one place: ready_, queued_tasks_, timers_, or none (its task is under
//      way, or branches below it are).
//   2. Of a Parallel's branches and a Map's items, no more have begun than MaxConcurrency says, and
//      than there is room for (kMaxBranches).
//   3. An answer to a task counts only while its branch waits for that very attempt.
//   4. A run makes at most Options::max_transitions state transitions, retries among them, then it
//      fails.
//   5. What a run holds (inputs, results, what its tasks under way were given) is Data on one
//      budget, Options::max_data_bytes: what does not fit fails the state that makes it.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "apta/workflow.h"
#include "compute/workflow/data.h"
#include "compute/workflow/definition.h"
#include "compute/workflow/error.h"

namespace apta::workflow {

using BranchId = std::uint64_t;
using TaskId = std::uint64_t;

// A function to be called.
struct TaskCall {
  TaskId id;
  const std::string* function;
  std::string input;  // JSON
  std::vector<std::string> reads;
  std::string node;
  absl::Duration timeout;
};

class Execution {
 public:
  struct Options {
    std::string name;
    std::uint64_t seed = 0;  // of jitter, MathRandom and UUID
    std::int64_t max_transitions = 100'000;
    std::size_t max_data_bytes = kMaxDataBytes;
  };
  static constexpr std::size_t kMaxBranches = 2'000;
  static constexpr int kMaxSteps = 1'000;  // of one Advance

  // `definition` outlives this. Nothing happens before the first Advance.
  Execution(const Definition* definition, Json input, const Options& options, absl::Time now);
  Execution(const Execution&) = delete;
  Execution& operator=(const Execution&) = delete;
  ~Execution();

  // Does what can be done now; some of it, while next_deadline() is not after `now`.
  void Advance(absl::Time now);
  // The next task to call, in order; nullopt: none, or calls are held back.
  std::optional<TaskCall> TakeTask(absl::Time now);
  // The result's JSON text (empty is null), or why there is none.
  void OnTaskEnded(TaskId id, absl::StatusOr<std::string> result, absl::Time now);
  // The task was not taken: too many wait already. It is tried again when another has ended, or
  // after a while, until its timeout.
  void OnTaskRefused(TaskId id, const absl::Status& why, absl::Time now);

  // When Advance or TakeTask has something to do although nothing was told; InfiniteFuture: never.
  absl::Time next_deadline() const;
  bool has_ended() const { return ended_; }
  // REQUIRES: has_ended().
  const Json& output() const { return *output_; }
  const std::optional<RunError>& error() const { return error_; }
  const std::string& failed_state() const { return failed_state_; }

  std::int64_t transitions() const { return transitions_; }
  std::size_t branches() const { return branches_.size(); }
  std::vector<StateEvent> TakeEvents() { return std::exchange(events_, {}); }

 private:
  struct Fork;
  struct Branch;

  // execution.cc: branches, time, tasks
  Branch* NewBranch(const StateMachine* machine, Data input, Branch* parent, std::size_t slot);
  void Drop(Branch* branch);
  void DropForked(Branch* branch);
  void SleepUntil(Branch* branch, absl::Time when);
  void Wake(Branch* branch);
  void Enter(Branch* branch);
  void Leave(Branch* branch, Data output, std::optional<StateIndex> next);
  void EndBranch(Branch* branch, Data output);
  void End();
  void Tell(StateEvent::Kind kind, const Branch& branch, const RunError* error = nullptr,
            absl::Duration delay = absl::ZeroDuration());
  void ReleaseHold();

  // execution_states.cc: what the types of states do
  void Attempt(Branch* branch);
  void Begin(Branch* branch, const Task& task, Data input);
  void Begin(Branch* branch, const Pass& pass, Data input);
  void Begin(Branch* branch, const Choice& choice, Data input);
  void Begin(Branch* branch, const Wait& wait, Data input);
  void Begin(Branch* branch, const Succeed& succeed, Data input);
  void Begin(Branch* branch, const Fail& fail, Data input);
  void Begin(Branch* branch, const Parallel& parallel, Data input);
  void Begin(Branch* branch, const Map& map, Data input);
  void StartBranches(Branch* branch);
  void Join(Branch* branch);
  std::optional<Data> ItemInput(Branch* branch, std::size_t slot);
  // nullopt: it cannot be had, and the state has failed.
  std::optional<Data> Hold(Branch* branch, absl::StatusOr<Json> value, std::string_view path_error);
  std::optional<Data> Choose(Branch* branch, const DataPath& path, Data from);
  std::optional<Data> Payload(Branch* branch, const std::optional<Template>& payload, Data input);
  std::optional<std::int64_t> NumberOf(Branch* branch, const NumberField& field, const Json& input,
                                       std::int64_t min);
  void Complete(Branch* branch, Data result);
  void LeaveThrough(Branch* branch, Data data, std::optional<StateIndex> next);
  void FailState(Branch* branch, RunError error);
  bool Retry(Branch* branch, const RunError& error);
  bool Catch(Branch* branch, const RunError& error);
  Scope ScopeOf(const Json& input) { return {&input, &context_, &random_, budget_.left_bytes()}; }
  void SetContext(const Branch& branch);

  const Definition& definition_;
  const Options options_;
  absl::Time now_;
  absl::Time times_out_at_ = absl::InfiniteFuture();
  Random random_;
  DataBudget budget_;  // before whatever holds Data
  Json context_;
  DataBudget::Charge context_charge_;

  absl::flat_hash_map<BranchId, std::unique_ptr<Branch>> branches_;
  BranchId last_id_ = 0;  // of branches and tasks
  std::deque<BranchId> ready_;
  std::deque<BranchId> queued_tasks_;
  std::set<std::pair<absl::Time, BranchId>> timers_;
  struct UnderWay {
    BranchId branch;
    DataBudget::Charge input;
  };
  absl::flat_hash_map<TaskId, UnderWay> tasks_;  // also for branches that are gone
  absl::Time held_until_ = absl::InfinitePast();
  absl::Duration hold_;

  std::int64_t transitions_ = 0;
  std::vector<StateEvent> events_;
  bool ended_ = false;
  Data output_;
  std::optional<RunError> error_;
  std::string failed_state_;
};

}  // namespace apta::workflow
