// Workflows: functions in the order that Amazon States Language says.
//
// States Task, Pass, Choice, Wait, Succeed, Fail, Parallel, Map (inline); all of JSONPath's input
// and output processing, with filters [?()] left out; the intrinsic functions but States.Hash; not
// JSONata, heartbeats, distributed Maps. Beyond, or more exactly than, the specification:
//
// - A Task's Resource is a function's name. The function gets its input as JSON text, and returns
//   JSON text; nothing is null. TimeoutSeconds becomes the invocation's deadline.
// - A function that fails is an error by its status code's name, such as "NOT_FOUND"; but
//   DEADLINE_EXCEEDED is "States.Timeout".
// - In a Task's Parameters, "apta.reads" (a key or an array of keys) declares objects that the
//   function reads (CallOptions::reads), and "apta.node" a node to run on; as paths "apta.reads.$"
//   and "apta.node.$". The function does not get them. Parameters with nothing else in them leave
//   the input as it is. In the Parameters of other states these names mean nothing: they are data.
// - A path in Choice and Wait that means nothing is States.Runtime.
// - A Parallel or Map state fails by its branch's error; "States.BranchFailed" means any of them.
// - A run makes at most RunOptions::max_transitions, retries among them; then it fails, whatever
//   catches.
// - A run holds at most 512 MiB of data at once, in all branches; the state whose data do not fit
//   fails with States.DataLimitExceeded.
// - A state that fails, or is retried, drops its branches, but not their tasks under way: a
// function
//   that was called goes on, and its puts and deletes may be committed after the run has ended.
//   Give such Tasks a TimeoutSeconds, and functions that bear being late.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "apta/object.h"

namespace apta {

namespace workflow {
struct Definition;
}  // namespace workflow

// A workflow that has been checked. Immutable; copies share it; thread-safe.
class Workflow {
 public:
  // INVALID_ARGUMENT: names the state and the field, or line and column.
  static absl::StatusOr<Workflow> FromJson(std::string_view amazon_states_language);

 private:
  friend class Client;
  explicit Workflow(std::shared_ptr<const workflow::Definition> definition)
      : definition_(std::move(definition)) {}
  std::shared_ptr<const workflow::Definition> definition_;
};

// What a state of a run has just done.
struct StateEvent {
  enum class Kind { kEntered, kRetrying, kCaught, kFailed, kLeft };
  Kind kind;
  std::string_view run;  // its name; valid during the callback, as `state` and `type`
  std::string_view state;
  std::string_view type;  // "Task", "Pass", …
  std::string branch;     // "": the run's own; in a Parallel or Map "Fan[3]", "Fan[3]/Each[0]"
  absl::Time at;
  int attempt = 1;
  absl::Duration delay;  // kRetrying: until then
  std::string error;     // kRetrying, kCaught, kFailed: its name
  std::string cause;
};

struct RunOptions {
  std::string name;  // of 1 to 200 bytes, unlike any run's before; "" = one is made up
  // Called by the thread that runs the workflow, in order. Must not throw.
  std::function<void(const StateEvent&)> observer;
  std::int64_t max_transitions = 100'000;  // states entered and retried, over all branches
};

enum class RunStatus {
  kRunning,
  kSucceeded,
  kFailed,
  kLost,  // it was running, but the node that ran it is gone
};

// What one state has done in a run, over all branches.
struct RunState {
  std::string name;
  std::string type;
  std::int64_t entered = 0;
  std::int64_t left = 0;
  std::int64_t retries = 0;
  std::int64_t caught = 0;
  std::int64_t failed = 0;
  absl::Time first_entered;
  absl::Time last_changed;
  std::string last_error;
};

// A run as its record says: the object "apta.run/NAME", written when it begins and ends, and while
// it goes on at most 50 ms after what happened. Deleting the object makes the name free again.
struct RunInfo {
  std::string name;
  RunStatus status = RunStatus::kRunning;
  std::string node;  // that runs, or ran, the workflow; not its functions
  std::int64_t pid = 0;
  absl::Time started;
  absl::Time updated;  // or ended
  std::int64_t transitions = 0;
  std::vector<RunState> states;  // in the order they were first entered
  Bytes output;                  // kSucceeded
  std::string note;              // kSucceeded: why the record does not keep the output
  std::string error;             // kFailed
  std::string cause;
  std::string failed_state;
};

// "RUNNING", "SUCCEEDED", …
std::string_view RunStatusName(RunStatus status);
// As the object "apta.run/NAME" says it.
std::string RunAsJson(const RunInfo& run);

}  // namespace apta
