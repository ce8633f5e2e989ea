#include "compute/workflow/task_runners.h"

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "compute/pending_state.h"
#include "fmt/format.h"

namespace apta::workflow {

struct TaskRunners::Shared {
  Shared(std::shared_ptr<compute::NodeRuntime> its_runtime, std::uint64_t its_workflow)
      : workflow(its_workflow), runtime(std::move(its_runtime)) {}

  const std::uint64_t workflow;  // CallOptions::workflow

  // Taken away at the end, so that no thread but one in a call keeps the node attached.
  std::shared_ptr<compute::NodeRuntime> runtime;
  std::mutex mutex;  // guards all

  std::condition_variable has_work;
  std::condition_variable has_ended;
  std::deque<TaskCall> waiting;
  std::vector<Ended> ended;
  int thread_count = 0;
  int idle_count = 0;
  bool is_over = false;
};

TaskRunners::TaskRunners(std::shared_ptr<compute::NodeRuntime> runtime, std::uint64_t workflow)
    : shared_(std::make_shared<Shared>(std::move(runtime), workflow)) {}

TaskRunners::~TaskRunners() {
  std::shared_ptr<compute::NodeRuntime> runtime;  // let go of without the lock
  std::lock_guard<std::mutex> lock(shared_->mutex);
  shared_->is_over = true;
  runtime = std::move(shared_->runtime);
  shared_->has_work.notify_all();
}

void TaskRunners::Start(TaskCall call) {
  const TaskId id = call.id;
  ++under_way_;
  std::lock_guard<std::mutex> lock(shared_->mutex);
  shared_->waiting.push_back(std::move(call));
  if (static_cast<std::size_t>(shared_->idle_count) >= shared_->waiting.size()) {
    shared_->has_work.notify_one();
    return;
  }
  try {
    std::thread runner([shared = shared_] { Work(shared); });
    pthread_setname_np(runner.native_handle(), "apta-task");
    runner.detach();
    ++shared_->thread_count;
  } catch (const std::system_error& error) {
    if (shared_->thread_count > 0) return;  // those there are will come to it
    shared_->waiting.pop_back();
    shared_->ended.push_back(
        {id, absl::ResourceExhaustedError(fmt::format("no thread for a call: {}", error.what())),
         false});
  }
}

std::vector<TaskRunners::Ended> TaskRunners::Await(absl::Duration timeout) {
  std::unique_lock<std::mutex> lock(shared_->mutex);
  const auto some = [this] { return !shared_->ended.empty(); };
  if (timeout >= absl::Hours(1)) {  // the owner looks again anyway
    timeout = absl::Hours(1);
  }
  shared_->has_ended.wait_for(lock, absl::ToChronoNanoseconds(timeout), some);
  under_way_ -= static_cast<int>(shared_->ended.size());
  return std::exchange(shared_->ended, {});
}

void TaskRunners::Work(const std::shared_ptr<Shared>& shared) {
  std::unique_lock<std::mutex> lock(shared->mutex);
  while (true) {
    ++shared->idle_count;
    shared->has_work.wait(lock, [&] { return shared->is_over || !shared->waiting.empty(); });
    --shared->idle_count;
    if (shared->is_over) return;
    const TaskCall call = std::move(shared->waiting.front());
    shared->waiting.pop_front();
    const std::shared_ptr<compute::NodeRuntime> runtime = shared->runtime;
    lock.unlock();
    absl::StatusOr<Bytes> result = Bytes();
    {
      const compute::NodeRuntime::WorkflowCall permit(runtime.get());
      result = compute::Caller(runtime).Call(*call.function, AsBytes(call.input),
                                             {.reads = call.reads,
                                              .deadline = call.timeout,
                                              .node = call.node,
                                              .workflow = shared->workflow,
                                              .errors_are_final = true});  // Retry decides
    }
    Ended ended{call.id, std::string(), compute::WasRefused(result.status())};
    if (result.ok()) {
      ended.result = std::string(AsText(*result));
    } else {
      ended.result = result.status();
    }
    lock.lock();
    shared->ended.push_back(std::move(ended));
    shared->has_ended.notify_one();
  }
}

}  // namespace apta::workflow
