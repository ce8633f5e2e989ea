#include "fabric/doorbell.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

#include "absl/status/status.h"

namespace apta::fabric {

IdleStrategy::Advice IdleStrategy::Idle() {
  if (spins_left_ > 0) {
    --spins_left_;
    CpuRelax();
    return Advice::kLookAgain;
  }
  // The clock is read only once spinning has failed, so that a quick answer pays nothing for it.
  const TimeNs now_ns = RealClock::ReadNow();
  if (began_ns_ == 0) began_ns_ = now_ns;
  if (now_ns - began_ns_ >= sleep_after_ns_) return Advice::kSleep;
  sched_yield();
  spins_left_ = spins_after_yield_;
  return Advice::kLookAgain;
}

void FutexWait(const std::atomic<std::uint32_t>* word, std::uint32_t expected, TimeNs timeout_ns) {
  timespec timeout;
  timeout.tv_sec = static_cast<time_t>(timeout_ns / 1'000'000'000u);
  timeout.tv_nsec = static_cast<long>(timeout_ns % 1'000'000'000u);
  syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

void FutexWake(const std::atomic<std::uint32_t>* word) {
  syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

absl::StatusOr<Doorbell> Doorbell::Create() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return absl::ErrnoToStatus(errno, "doorbell: eventfd");
  return Doorbell(UniqueFd(fd));
}

void Doorbell::Ring() const {
  const std::uint64_t one = 1;
  // EAGAIN: rung 2^64 times without a look; then it is ringing already.
  [[maybe_unused]] const ssize_t written = write(fd_.get(), &one, sizeof(one));
}

}  // namespace apta::fabric
