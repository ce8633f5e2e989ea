// Jobs for another thread of the memory server: the control plane's way to talk to shards and back.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <vector>

#include "fabric/doorbell.h"

namespace apta::daemon {

// Post from any thread; Run on the owner's. Posting rings the owner's doorbell, so an owner that
// sleeps on doorbell().fd() wakes up. Not for hot paths: a lock, an allocation, a system call.
class Mailbox {
 public:
  using Job = std::function<void()>;

  explicit Mailbox(fabric::Doorbell doorbell) : doorbell_(std::move(doorbell)) {}

  void Post(Job job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      jobs_.push_back(std::move(job));
      has_jobs_.store(true);
    }
    doorbell_.Ring();
  }

  // Costs one load when there is nothing.
  int Run() { return has_jobs_.load() ? RunAll() : 0; }

  const fabric::Doorbell& doorbell() const { return doorbell_; }

 private:
  int RunAll() {
    std::vector<Job> jobs;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      jobs.swap(jobs_);
      has_jobs_.store(false);
    }
    for (const Job& job : jobs) job();
    return static_cast<int>(jobs.size());
  }

  fabric::Doorbell doorbell_;
  std::atomic<bool> has_jobs_{false};
  std::mutex mutex_;
  std::vector<Job> jobs_;
};

}  // namespace apta::daemon
