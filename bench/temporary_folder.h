// Files that a run leaves nothing of, however it ends.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace apta::bench {

// A folder that is removed with all in it: by the destructor, or, when the process is killed, by a
// child that outlives it. Made before any thread is started (it forks).
class TemporaryFolder {
 public:
  static absl::StatusOr<TemporaryFolder> Create(const std::string& parent, std::string_view name);
  TemporaryFolder(TemporaryFolder&& other) noexcept;
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder();

  const std::string& path() const { return path_; }

 private:
  TemporaryFolder(std::string path, int alive_fd, pid_t sweeper)
      : path_(std::move(path)), alive_fd_(alive_fd), sweeper_(sweeper) {}
  std::string path_;
  int alive_fd_;  // write end of the pipe whose end tells the sweeper
  pid_t sweeper_;
};

}  // namespace apta::bench
