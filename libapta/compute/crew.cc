#include "compute/crew.h"

#include <algorithm>
#include <system_error>

#include "fmt/format.h"

namespace apta::compute {

namespace {

// Between an attempt's deadline and the belief that it does not end.
constexpr absl::Duration kGrace = absl::Milliseconds(100);

}  // namespace

absl::Status Crew::Serve() {
  for (int i = 0; i < threads_ + 1; ++i) Reinforce();
  std::unique_lock<std::mutex> lock(mutex_);
  if (workers_.empty() && ended_.empty()) {
    return absl::ResourceExhaustedError("no thread can be started");
  }
  has_ended_.wait(lock, [this] { return is_dismissed_ || workers_.empty(); });
  return absl::OkStatus();
}

bool Crew::HasEnded() {
  std::lock_guard<std::mutex> lock(mutex_);
  return workers_.empty();
}

absl::Status Crew::End() {
  Dismiss();
  std::unique_lock<std::mutex> lock(mutex_);
  std::string stuck;
  while (!workers_.empty()) {
    absl::Time last_deadline;
    stuck = StuckFunctions(&last_deadline);
    const absl::Duration left = last_deadline + kGrace - absl::Now();
    if (!stuck.empty() && left <= absl::ZeroDuration()) break;
    stuck.clear();
    // Nobody tells when a worker begins a last attempt.
    has_ended_.wait_for(lock, absl::ToChronoNanoseconds(std::clamp(left, kGrace, 10 * kGrace)));
  }
  for (Worker& worker : workers_) worker.thread_.detach();  // invariant 3
  Workers ended = std::move(ended_);
  lock.unlock();
  for (Worker& worker : ended) worker.thread_.join();
  if (stuck.empty()) return absl::OkStatus();
  return absl::DeadlineExceededError(fmt::format(
      "function {}: still runs though its deadline is over; its thread goes on", stuck));
}

// "" while some worker is not in an attempt: that one will end.
std::string Crew::StuckFunctions(absl::Time* last_deadline) const {
  std::string names;
  *last_deadline = absl::InfinitePast();
  for (const Worker& worker : workers_) {
    // Acquire: with its deadline; partner: Attempt.
    const std::string* const function = worker.function_.load(std::memory_order_acquire);
    if (function == nullptr) return "";
    const std::int64_t deadline_ns = worker.deadline_ns_.load(std::memory_order_relaxed);
    *last_deadline = std::max(*last_deadline, absl::FromUnixNanos(deadline_ns));
    if (names.find(*function) == std::string::npos) {
      names += fmt::format("{}{}", names.empty() ? "" : ", ", *function);
    }
  }
  return names;
}

void Crew::Reinforce() {
  Workers ended;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (is_dismissed_) return;
    ended = std::move(ended_);
    ended_.clear();
    if (resting_ > called_) {
      ++called_;
      may_rise_.notify_one();
    } else if (alive_ < max_workers_) {
      const auto self = workers_.emplace(workers_.end());
      try {
        self->thread_ = std::thread([crew = shared_from_this(), self] { crew->Live(self); });
        ++alive_;
      } catch (const std::system_error&) {  // the standard library's, of the system's limits
        workers_.erase(self);
        limit_->most.store(std::min(limit_->most.load(), limit_->waiting.load()));
      }
    }
  }
  for (Worker& worker : ended) worker.thread_.join();
}

void Crew::Live(Workers::iterator self) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!is_dismissed_) {
    lock.unlock();
    work_(this, &*self);
    lock.lock();
    if (resting_ == kMaxResting) break;
    ++resting_;
    may_rise_.wait(lock, [this] { return is_dismissed_ || called_ > 0; });
    --resting_;
    if (called_ > 0) --called_;
  }
  --alive_;
  ended_.splice(ended_.end(), workers_, self);
  has_ended_.notify_all();
}

void Crew::Dismiss() {
  std::lock_guard<std::mutex> lock(mutex_);
  is_dismissed_ = true;
  may_rise_.notify_all();
  has_ended_.notify_all();
}

}  // namespace apta::compute
