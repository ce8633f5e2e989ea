// Servers and files that a run leaves nothing of, however it ends.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace apta::peers {

// A folder that is removed with all in it: by the destructor, or, when the process is killed, by a
// child that outlives it. Made before any thread is started (it forks).
class TemporaryFolder {
 public:
  static absl::StatusOr<TemporaryFolder> Create(const std::string& parent);
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

// A child process that serves a Unix socket; ends with this object, and with the thread that
// started it (PR_SET_PDEATHSIG is about threads): the main thread starts servers.
class ServerProcess {
 public:
  // Returns when the socket takes connections. UNAVAILABLE names the program and ends with what it
  // last wrote to `log`; a program that is not there is one that ended at once.
  static absl::StatusOr<ServerProcess> Start(std::vector<std::string> words,
                                             const std::string& socket, const std::string& log);
  ServerProcess(ServerProcess&& other) noexcept : pid_(other.pid_) { other.pid_ = -1; }
  ServerProcess& operator=(ServerProcess&&) = delete;
  ~ServerProcess();

 private:
  explicit ServerProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

}  // namespace apta::peers
