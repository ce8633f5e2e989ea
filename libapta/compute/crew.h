// The worker threads of a function host, during one session.
//
// Each asks the Executor Manager for an attempt, makes it, and brings the result with its next
// question. It is the Executor Manager that sees to it that no more than the host's `threads` run
// at a time; the crew's part is that somebody always asks, also when functions wait for calls of
// their own or do not end: whoever gets an attempt while nobody else asks calls for another worker
// first. A worker more than `threads` and one asks for nothing, and rests. So a chain of calls runs
// on one thread at a time, and a function that never ends costs no more than its own.
//
// Invariants
//   1. Somebody asks, unless all the workers that there may be are busy: WaitLimit keeps that from
//      being a deadlock.
//   2. Those who ask (one more than `threads`, at most), and functions that wait in ordinary lanes
//      (WaitInLanes), leave the session some lanes.
//   3. A worker may outlive its session, and End, which does not wait for attempts past their
//      deadlines: what it uses is its own too.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "compute/pending_state.h"
#include "fabric/message.h"

namespace apta::compute {

class Crew : public std::enable_shared_from_this<Crew> {
 public:
  static constexpr int kMaxThreads = 32;
  // So many functions wait in ordinary lanes, which is quicker; the others wait elsewhere.
  static constexpr int WaitInLanes(int threads) {
    return kUsedLanes - threads - static_cast<int>(fabric::kMaxStuckThreads) - 1;
  }

  class Worker;
  // `work` is what a worker does until it is sent to rest or the session is over; it keeps alive
  // what it uses. `limit`: of functions that wait; lowered when no more threads can be had.
  Crew(int threads, std::shared_ptr<WaitLimit> limit, std::function<void(Crew*, Worker*)> work)
      : threads_(threads),
        max_workers_(threads + limit->most + static_cast<int>(fabric::kMaxStuckThreads) + 1),
        limit_(std::move(limit)),
        work_(std::move(work)) {}

  // Until Dismiss; attempts may go on then. Once. RESOURCE_EXHAUSTED: there are no threads to be
  // had.
  absl::Status Serve();
  bool HasEnded();
  // Dismisses, and waits until all workers have ended or are past the deadlines of attempts that do
  // not end: DEADLINE_EXCEEDED then, with the functions' names. Once, after Serve.
  absl::Status End();

  // A worker's part: before each question; false: enough others ask, ...
  bool BeginAsking() {
    // In one step, so that whoever is the last to stop asking sees that it is (EndAsking).
    int asking = asking_.load();
    while (asking <= threads_) {
      if (asking_.compare_exchange_weak(asking, asking + 1)) return true;
    }
    return false;
  }
  // ... before what it got is done (invariant 1), ...
  void EndAsking() {
    if (asking_.fetch_sub(1) == 1) Reinforce();
  }
  // ... or when it got nothing.
  void StopAsking() { asking_.fetch_sub(1); }
  // The session is over, or the host stops: who rests goes home.
  void Dismiss();

 private:
  static constexpr int kUsedLanes = 56;
  static_assert(kUsedLanes < fabric::kLanes);
  static_assert(kUsedLanes > kMaxThreads + static_cast<int>(fabric::kMaxStuckThreads) + 1);
  static constexpr int kMaxResting = kUsedLanes;
  using Workers = std::list<Worker>;

  void Reinforce();
  void Live(Workers::iterator self);
  std::string StuckFunctions(absl::Time* last_deadline) const;

  const int threads_;
  const int max_workers_;
  const std::shared_ptr<WaitLimit> limit_;
  const std::function<void(Crew*, Worker*)> work_;
  std::atomic<int> asking_{0};
  std::mutex mutex_;  // guards all that follows
  std::condition_variable may_rise_;
  std::condition_variable has_ended_;
  Workers workers_;
  Workers ended_;  // to be joined
  int alive_ = 0;  // workers_
  int resting_ = 0;
  int called_ = 0;  // resting ones that are to get up
  bool is_dismissed_ = false;
};

// What a worker is doing; written by its own thread.
class Crew::Worker {
 public:
  // An attempt that is over when this is dropped. `function`: lives as long as the crew.
  class Attempt {
   public:
    Attempt(Worker* worker, const std::string* function, absl::Time deadline) : worker_(worker) {
      worker_->deadline_ns_.store(absl::ToUnixNanos(deadline), std::memory_order_relaxed);
      // Release: with its deadline; partner: the acquire in StuckFunctions.
      worker_->function_.store(function, std::memory_order_release);
    }
    ~Attempt() { worker_->function_.store(nullptr, std::memory_order_release); }
    Attempt(const Attempt&) = delete;
    Attempt& operator=(const Attempt&) = delete;

   private:
    Worker* worker_;
  };

 private:
  friend class Crew;
  std::thread thread_;
  std::atomic<const std::string*> function_{nullptr};
  std::atomic<std::int64_t> deadline_ns_{0};
};

}  // namespace apta::compute
