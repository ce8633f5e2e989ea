// The worker threads of a function host, during one session.
//
// Each asks the Executor Manager for an attempt, makes it, and brings the result with its next
// question. It is the Executor Manager that sees to it that no more than the host's `threads` run
// at a time; the crew's part is that somebody always asks, also when functions wait for calls of
// their own or do not end: whoever gets an attempt while nobody else asks calls for another worker
// first. A worker more than `threads` and one ask is sent to rest. So a chain of calls runs on one
// thread, and a function that never ends costs no more than its own.
//
// Invariants
//   1. Somebody asks, unless kMaxWorkers are busy: WaitLimit keeps that from being a deadlock.
//   2. A worker occupies at most one lane of the session, and some lanes stay free.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "fabric/message.h"

namespace apta::compute {

class Crew {
 public:
  static constexpr int kMaxWorkers = 56;
  static_assert(kMaxWorkers < fabric::kLanes);
  // Of functions that wait: what is left are those that run, those that are stuck, and one that
  // asks.
  static constexpr int MaxWaiting(int threads) {
    return kMaxWorkers - threads - static_cast<int>(fabric::kMaxStuckThreads) - 1;
  }

  // `work` is what a worker does until it is sent to rest or the session is over.
  Crew(int threads, std::function<void(Crew*)> work) : threads_(threads), work_(std::move(work)) {}

  // Runs until all workers have ended, which Dismiss makes them do.
  void Run();

  // A worker's part: around each question, ...
  void BeginAsking() { asking_.fetch_add(1); }
  // ... before what it got is done (invariant 1), ...
  void EndAsking() {
    if (asking_.fetch_sub(1) == 1) Reinforce();
  }
  void StopAsking() { asking_.fetch_sub(1); }
  // ... and when it has a result: whether enough others ask, so that it should rest afterwards.
  bool IsSurplus() const { return asking_.load() > threads_; }
  // The session is over, or the host stops: who rests goes home.
  void Dismiss();

 private:
  void Reinforce();
  void Live();

  const int threads_;
  const std::function<void(Crew*)> work_;
  std::atomic<int> asking_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::thread> workers_;
  int resting_ = 0;
  int called_ = 0;  // resting ones that are to get up
  int alive_ = 0;
  bool is_dismissed_ = false;
};

}  // namespace apta::compute
