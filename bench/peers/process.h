// Servers that a run leaves nothing of, however it ends.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/cores.h"

namespace apta::peers {

// A child process that serves a Unix socket; ends with this object, and with the thread that
// started it (PR_SET_PDEATHSIG is about threads): the main thread starts servers.
class ServerProcess {
 public:
  // Returns when the socket takes connections: its own, or for a client that serves nothing the one
  // that it connects to. UNAVAILABLE names the program and ends with what it
  // last wrote to `log`; a program that is not there is one that ended at once.
  static absl::StatusOr<ServerProcess> Start(std::vector<std::string> words,
                                             const std::string& socket, const std::string& log,
                                             bench::Cores cores = bench::Cores::kHomes);
  ServerProcess(ServerProcess&& other) noexcept : pid_(other.pid_) { other.pid_ = -1; }
  ServerProcess& operator=(ServerProcess&&) = delete;
  ~ServerProcess();

 private:
  explicit ServerProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

}  // namespace apta::peers
