#include "compute/crew.h"

namespace apta::compute {

void Crew::Run() {
  for (int i = 0; i < threads_ + 1; ++i) Reinforce();
  std::vector<std::thread> workers;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return alive_ == 0; });
    workers.swap(workers_);
  }
  for (std::thread& worker : workers) worker.join();
}

void Crew::Reinforce() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (is_dismissed_) return;
  if (resting_ > called_) {
    ++called_;
    changed_.notify_all();
  } else if (alive_ < kMaxWorkers) {
    ++alive_;
    workers_.emplace_back([this] { Live(); });
  }
}

void Crew::Live() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!is_dismissed_) {
    lock.unlock();
    work_(this);
    lock.lock();
    ++resting_;
    changed_.wait(lock, [this] { return is_dismissed_ || called_ > 0; });
    --resting_;
    if (called_ > 0) --called_;
  }
  --alive_;
  changed_.notify_all();
}

void Crew::Dismiss() {
  std::lock_guard<std::mutex> lock(mutex_);
  is_dismissed_ = true;
  changed_.notify_all();
}

}  // namespace apta::compute
