#include "daemon/io_loop.h"

#include <poll.h>

#include <array>
#include <cstring>

#include "absl/status/status.h"
#include "fabric/check.h"
#include "fmt/format.h"

namespace apta::daemon {
namespace {

constexpr unsigned kEntries = 1024;    // two watches per node and some more
constexpr std::uint64_t kIgnored = 0;  // user data of removals

}  // namespace

absl::StatusOr<std::unique_ptr<IoLoop>> IoLoop::Create() {
  std::unique_ptr<IoLoop> loop(new IoLoop());
  const int result = io_uring_queue_init(kEntries, &loop->ring_, 0);
  if (result < 0) {
    return absl::FailedPreconditionError(fmt::format(
        "io_uring is not available ({}); allow it with sysctl kernel.io_uring_disabled=0",
        strerror(-result)));
  }
  loop->initialized_ = true;
  return loop;
}

IoLoop::~IoLoop() {
  if (initialized_) io_uring_queue_exit(&ring_);
}

io_uring_sqe* IoLoop::NextSqe() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {
    io_uring_submit(&ring_);
    sqe = io_uring_get_sqe(&ring_);
  }
  APTA_CHECK(sqe != nullptr);
  return sqe;
}

void IoLoop::Arm(WatchId id, int fd) {
  io_uring_sqe* sqe = NextSqe();
  io_uring_prep_poll_add(sqe, fd, POLLIN);
  io_uring_sqe_set_data64(sqe, id);
}

IoLoop::WatchId IoLoop::Watch(int fd, Callback callback) {
  const WatchId id = ++last_id_;
  watched_.emplace(id, Watched{fd, std::move(callback)});
  Arm(id, fd);
  return id;
}

void IoLoop::Unwatch(WatchId id) {
  if (watched_.erase(id) == 0) return;
  io_uring_sqe* sqe = NextSqe();
  io_uring_prep_poll_remove(sqe, id);
  io_uring_sqe_set_data64(sqe, kIgnored);
  // Now, not with the next wait: the poll holds the file open.
  io_uring_submit(&ring_);
}

void IoLoop::RunOnce(fabric::TimeNs timeout_ns) {
  __kernel_timespec timeout;
  timeout.tv_sec = static_cast<long long>(timeout_ns / 1'000'000'000u);
  timeout.tv_nsec = static_cast<long long>(timeout_ns % 1'000'000'000u);
  io_uring_cqe* first = nullptr;
  io_uring_submit_and_wait_timeout(&ring_, &first, 1, &timeout, nullptr);
  std::array<io_uring_cqe*, 64> batch;
  while (true) {
    const unsigned count = io_uring_peek_batch_cqe(&ring_, batch.data(), batch.size());
    if (count == 0) return;
    std::array<WatchId, 64> ready;
    for (unsigned i = 0; i < count; ++i) ready[i] = io_uring_cqe_get_data64(batch[i]);
    io_uring_cq_advance(&ring_, count);
    for (unsigned i = 0; i < count; ++i) {
      auto entry = watched_.find(ready[i]);  // unwatched meanwhile: not there
      if (entry == watched_.end()) continue;
      const Callback callback = entry->second.callback;  // may unwatch itself
      callback();
      entry = watched_.find(ready[i]);
      if (entry != watched_.end()) Arm(ready[i], entry->second.fd);
    }
  }
}

}  // namespace apta::daemon
