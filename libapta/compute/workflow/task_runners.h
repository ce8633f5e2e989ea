// Threads that call the functions of one run: a call takes a thread (and a lane of the node) from
// its beginning to its end, and there are never more than kMaxThreads of them. Threads begin when
// they are needed, and sleep while they are not.
//
// One owner's thread calls; what it owns goes on without it until the calls under way are over,
// whose results nobody sees.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "compute/node_runtime.h"
#include "compute/workflow/execution.h"

namespace apta::workflow {

class TaskRunners {
 public:
  static constexpr int kMaxThreads = compute::NodeRuntime::kWorkflowCalls;

  // `workflow`: the run's number, not 0, as CallOptions::workflow.
  TaskRunners(std::shared_ptr<compute::NodeRuntime> runtime, std::uint64_t workflow);
  TaskRunners(const TaskRunners&) = delete;
  TaskRunners& operator=(const TaskRunners&) = delete;
  ~TaskRunners();

  bool has_room() const { return under_way_ < kMaxThreads; }
  // REQUIRES: has_room().
  void Start(TaskCall call);

  struct Ended {
    TaskId id;
    absl::StatusOr<std::string> result;
    bool was_refused;  // the Executor Manager's queue was full
  };
  // Waits until a call has ended, for `timeout` at most; all that have.
  std::vector<Ended> Await(absl::Duration timeout);

 private:
  struct Shared;
  static void Work(const std::shared_ptr<Shared>& shared);

  std::shared_ptr<Shared> shared_;
  int under_way_ = 0;
};

}  // namespace apta::workflow
