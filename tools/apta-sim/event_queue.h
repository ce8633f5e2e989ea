// Virtual time: what happens when. One thread; events of one instant happen in the order in which
// they were asked for, so that a seed is a run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "fabric/clock.h"

namespace apta::perf {

using fabric::TimeNs;

class EventQueue {
 public:
  using Step = std::function<void()>;

  explicit EventQueue(TimeNs now_ns) : now_ns_(now_ns) {}

  TimeNs now_ns() const { return now_ns_; }
  std::uint64_t done() const { return done_; }
  bool empty() const { return events_.empty(); }
  // What should have happened already happens next.
  void At(TimeNs time_ns, Step step) {
    events_.push({std::max(time_ns, now_ns_), ++last_order_, std::move(step)});
  }
  // REQUIRES: !empty().
  void RunNext() {
    // const_cast: the queue gives no other way to move out of it.
    Event event = std::move(const_cast<Event&>(events_.top()));
    events_.pop();
    now_ns_ = event.time_ns;
    ++done_;
    event.step();
  }

 private:
  struct Event {
    TimeNs time_ns;
    std::uint64_t order;
    Step step;
    bool operator>(const Event& other) const {
      return time_ns != other.time_ns ? time_ns > other.time_ns : order > other.order;
    }
  };
  TimeNs now_ns_;
  std::uint64_t last_order_ = 0;
  std::uint64_t done_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
};

}  // namespace apta::perf
