// The control plane's event loop: one io_uring, polls only.
#pragma once

#include <liburing.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "fabric/clock.h"

namespace apta::daemon {

// One thread. Callbacks may watch and unwatch anything, themselves included.
class IoLoop {
 public:
  using WatchId = std::uint64_t;
  using Callback = std::function<void()>;

  // FAILED_PRECONDITION: this machine does not allow io_uring (says how to).
  static absl::StatusOr<std::unique_ptr<IoLoop>> Create();
  ~IoLoop();
  IoLoop(const IoLoop&) = delete;
  IoLoop& operator=(const IoLoop&) = delete;

  // Calls `callback` whenever `fd` is readable or hung up, until Unwatch. `callback` must consume
  // what made it readable.
  WatchId Watch(int fd, Callback callback);
  // Before the descriptor is closed. 0 is ignored.
  void Unwatch(WatchId id);

  // Waits at most `timeout_ns` for one event or more, and calls back for what is there.
  void RunOnce(fabric::TimeNs timeout_ns);

 private:
  struct Watched {
    int fd;
    Callback callback;
  };

  IoLoop() = default;
  io_uring_sqe* NextSqe();
  void Arm(WatchId id, int fd);

  io_uring ring_{};
  bool initialized_ = false;
  WatchId last_id_ = 0;
  std::map<WatchId, Watched> watched_;
};

}  // namespace apta::daemon
