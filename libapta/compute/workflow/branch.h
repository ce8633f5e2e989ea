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
  std::set<BranchId> below;
  std::vector<Json> results;    // by slot
  std::size_t ended_count = 0;  // of the results
  // Map only.
  Json input;                   // of the state
  Json own_items;               // where they are not in `input`
  const Json* items = nullptr;  // nullptr: not a Map's
  std::size_t next_item = 0;
  std::size_t max_concurrency = 0;
};

struct Execution::Branch {
  BranchId id;
  const StateMachine* machine;
  Branch* parent;    // nullptr: the run's own
  std::size_t slot;  // of the parent's results
  std::string path;  // as StateEvent::branch

  StateIndex at;
  Json input;  // of the state, as the one before left it
  absl::Time entered;
  int attempt = 0;
  std::vector<std::int64_t> retries;  // by the state's retriers

  absl::Time wakes_at = absl::InfiniteFuture();  // in timers_
  bool waits = false;                            // in a Wait state, not for a retry
  bool is_queued = false;                        // in queued_tasks_, with `call`
  absl::Time refused_at = absl::InfiniteFuture();
  TaskId task = 0;  // under way
  Json task_input;
  std::optional<TaskCall> call;
  std::unique_ptr<Fork> fork;

  const State& state() const { return machine->states[at]; }
};

}  // namespace apta::workflow
