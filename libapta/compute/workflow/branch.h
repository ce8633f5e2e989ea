// The inside of an Execution: one thread of control.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "compute/workflow/execution.h"

namespace apta::workflow {

// What a branch in a Parallel or Map state waits for.
struct Execution::Fork {
  const std::vector<StateMachine>* machines;  // by slot; a Map's: one for all
  Data input;                                 // of the state, and of a Parallel's branches
  std::vector<Data> results;                  // by slot
  Data items = {};                            // null: not a Map's
  std::size_t max_concurrency = 0;            // 0: as many as possible
  std::size_t next_slot = 0;                  // that has yet to begin
  std::size_t ended_count = 0;                // of the results
  std::set<BranchId> below = {};
};

struct Execution::Branch {
  BranchId id;
  const StateMachine* machine;
  Branch* parent;    // nullptr: the run's own
  std::size_t slot;  // of the parent's results
  std::string path;  // as StateEvent::branch

  StateIndex at;
  Data input;  // of the state, as the one before left it
  absl::Time entered;
  int attempt = 0;
  std::vector<std::int64_t> retries;  // by the state's retriers

  absl::Time wakes_at = absl::InfiniteFuture();  // in timers_
  bool waits = false;                            // in a Wait state, not for a retry
  bool is_queued = false;                        // in queued_tasks_, with `call`
  absl::Time refused_at = absl::InfiniteFuture();
  TaskId task = 0;  // under way
  Data task_input;
  std::optional<TaskCall> call;
  std::unique_ptr<Fork> fork;

  const State& state() const { return machine->states[at]; }
};

}  // namespace apta::workflow
