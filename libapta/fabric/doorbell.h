// Waiting and waking across processes.
//
// Everybody waits adaptively: spin about 2 µs, yield between looks, sleep in the kernel after that.
// Who has learnt that what it waits for needs this core (Lane::shares_core) does not spin first.
// The sleep hand-shake is the same in each direction (announce, look again, sleep; publish, look
// at the announcement, wake):
//
//   sleeper                               waker
//   asleep.store(1)         (seq_cst)     publish             (seq_cst exchange or store)
//   look for work again     (seq_cst)     if (asleep.load())  (seq_cst)
//   if none: sleep                          wake
//
// Sequential consistency of the four accesses means that one of the two sees the other: no wake-up
// is lost. Nobody makes the system call unless the other side said that it sleeps.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>

#include "absl/status/statusor.h"
#include "fabric/clock.h"
#include "fabric/fd.h"

namespace apta::fabric {

inline void CpuRelax() { __builtin_ia32_pause(); }

// What to do between two looks that found nothing. One per waiting thread.
class IdleStrategy {
 public:
  enum class Advice { kLookAgain, kSleep };

  // Spends a moment (a pause instruction, or a sched_yield once about 2 µs have gone by) and says
  // whether it is time to announce and to sleep: after `sleep_after_ns` without work.
  explicit IdleStrategy(TimeNs sleep_after_ns = 200'000) : sleep_after_ns_(sleep_after_ns) {}
  Advice Idle();
  // There was work. `shares_core`: somebody whom this thread waits for needs the core that it is
  // on, so the next look that finds nothing yields, and later ones spin a moment only: another core
  // may have been about to answer.
  void Reset(bool shares_core = false) {
    spins_left_ = shares_core ? 0 : kSpins;
    spins_after_yield_ = shares_core ? kFewSpins : 0;
    began_ns_ = 0;
  }

 private:
  static constexpr std::uint32_t kSpins = 47;    // pauses; about 2 µs
  static constexpr std::uint32_t kFewSpins = 6;  // a message there and back

  TimeNs sleep_after_ns_;
  std::uint32_t spins_left_ = kSpins;
  std::uint32_t spins_after_yield_ = 0;
  TimeNs began_ns_ = 0;  // of yielding; 0 = it has not
};

// Sleeps while *word == expected, at most timeout_ns; returns early on FutexWake or spuriously.
// Works across processes that map the same page.
void FutexWait(const std::atomic<std::uint32_t>* word, std::uint32_t expected, TimeNs timeout_ns);
void FutexWake(const std::atomic<std::uint32_t>* word);

// Where the calling thread runs, as nodes and homes tell each other: the core's number plus 1.
inline std::uint16_t ThisCore() { return static_cast<std::uint16_t>(sched_getcpu() + 1); }

// A descriptor that wakes whoever polls it. Never read: pollers use edge-triggered epoll, so the
// other side cannot swallow a ring by reading it.
class Doorbell {
 public:
  static absl::StatusOr<Doorbell> Create();
  Doorbell() = default;
  explicit Doorbell(UniqueFd fd) : fd_(std::move(fd)) {}

  // One system call; async-signal-safe; never blocks.
  void Ring() const;
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

}  // namespace apta::fabric
