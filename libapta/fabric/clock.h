// Time, as the project's logic sees it: handed in as nanoseconds, never read.
#pragma once

#include <cstdint>
#include <ctime>

namespace apta::fabric {

// Nanoseconds since an arbitrary start; never goes back. Comparable between the processes of one
// machine when both use RealClock.
using TimeNs = std::uint64_t;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimeNs Now() const = 0;
};

// CLOCK_MONOTONIC, about 25 ns a reading.
class RealClock final : public Clock {
 public:
  TimeNs Now() const override { return ReadNow(); }
  static TimeNs ReadNow() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<TimeNs>(now.tv_sec) * 1'000'000'000u + static_cast<TimeNs>(now.tv_nsec);
  }
};

// Time that passes only when told to: for the simulator and for tests.
class VirtualClock final : public Clock {
 public:
  TimeNs Now() const override { return now_ns_; }
  void AdvanceTo(TimeNs when_ns) {
    if (when_ns > now_ns_) now_ns_ = when_ns;
  }
  void Advance(TimeNs by_ns) { now_ns_ += by_ns; }

 private:
  TimeNs now_ns_ = 0;
};

}  // namespace apta::fabric
