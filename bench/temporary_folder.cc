#include "temporary_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

namespace apta::bench {
namespace {

[[noreturn]] void Sweep(int fd, const std::string& path, pid_t parent) {
  // Ctrl-C and a time limit reach the whole group; this is the one that cleans up after both.
  for (const int ignored : {SIGINT, SIGTERM, SIGHUP}) signal(ignored, SIG_IGN);
  prctl(PR_SET_NAME, "bench-sweeper");
  char byte;
  while (read(fd, &byte, 1) < 0 && errno == EINTR && getppid() == parent) {
  }
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
  _exit(0);
}

}  // namespace

absl::StatusOr<TemporaryFolder> TemporaryFolder::Create(const std::string& parent,
                                                        std::string_view name) {
  std::string path = fmt::format("{}/{}-XXXXXX", parent, name);
  if (mkdtemp(path.data()) == nullptr) {
    return absl::UnavailableError(fmt::format("{}: {}", path, strerrordesc_np(errno)));
  }
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return absl::UnavailableError("no pipe to be had");
  const pid_t self = getpid();
  const pid_t sweeper = fork();
  if (sweeper == 0) {
    close(fds[1]);
    Sweep(fds[0], path, self);
  }
  close(fds[0]);
  return TemporaryFolder(std::move(path), fds[1], sweeper);
}

TemporaryFolder::TemporaryFolder(TemporaryFolder&& other) noexcept
    : path_(std::move(other.path_)),
      alive_fd_(std::exchange(other.alive_fd_, -1)),
      sweeper_(other.sweeper_) {}

TemporaryFolder::~TemporaryFolder() {
  if (alive_fd_ < 0) return;
  close(alive_fd_);
  waitpid(sweeper_, nullptr, 0);
}

}  // namespace apta::bench
