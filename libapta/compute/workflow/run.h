// Runs a workflow: gives an Execution the time and the results of its tasks, calls the functions
// that it wants, and keeps the run's record.
#pragma once

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "apta/client.h"
#include "apta/workflow.h"
#include "compute/workflow/execution.h"
#include "compute/workflow/record.h"
#include "compute/workflow/task_runners.h"

namespace apta::workflow {

// Wall time that no change of the clock disturbs: a run sees it go on evenly.
class RunClock {
 public:
  absl::Time Now() const;

 private:
  const absl::Time began_ = absl::Now();
  const std::chrono::steady_clock::time_point steady_began_ = std::chrono::steady_clock::now();
};

// One run, by one thread.
class Run {
 public:
  Run(Client* client, std::shared_ptr<compute::NodeRuntime> runtime, RunOptions options);
  absl::StatusOr<Bytes> Make(const Definition& definition, BytesView input);

 private:
  absl::Status CreateRecord();
  void Step(Execution* execution, TaskRunners* runners);
  void Follow(Execution* execution);
  absl::Status WriteRecord();
  void WriteRecordIfDue(absl::Time now);
  absl::StatusOr<Bytes> End(const Execution& execution);

  Client* client_;
  std::shared_ptr<compute::NodeRuntime> runtime_;
  RunOptions options_;
  RunClock clock_;
  Record record_;
  absl::Time record_due_ = absl::InfiniteFuture();  // something happened that it does not say
  absl::Time record_written_;
};

}  // namespace apta::workflow
