#include "bench/peers/process.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>
#include <utility>

namespace apta::peers {
namespace {

using Clock = std::chrono::steady_clock;

bool TakesConnections(const std::string& socket_path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof(address.sun_path)) return false;
  memcpy(address.sun_path, socket_path.data(), socket_path.size());
  bool connected = false;
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {  // the second is aptad's
    const int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    connected |= connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
  }
  return connected;
}

std::string TailOf(const std::string& log) {
  std::ifstream file(log);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  constexpr std::size_t kTailBytes = 400;
  return text.size() > kTailBytes ? text.substr(text.size() - kTailBytes) : text;
}

// Only async-signal-safe calls from here on: RocksDB's threads may have held locks at the fork.
[[noreturn]] void BecomeServer(char* const* arguments, const char* log, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // it ended before the line above
  setpgid(0, 0);  // Ctrl-C is for the suite, which ends its servers when it has let go of them
  const int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd >= 0) {
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
  }
  execvp(arguments[0], arguments);
  const char* const why = strerrordesc_np(errno);
  (void)!write(STDERR_FILENO, why, strlen(why));
  _exit(127);
}

[[noreturn]] void Sweep(int fd, const std::string& path, pid_t parent) {
  // Ctrl-C and a time limit reach the whole group; this is the one that cleans up after both.
  for (const int ignored : {SIGINT, SIGTERM, SIGHUP}) signal(ignored, SIG_IGN);
  prctl(PR_SET_NAME, "peers-sweeper");
  char byte;
  while (read(fd, &byte, 1) < 0 && errno == EINTR && getppid() == parent) {
  }
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
  _exit(0);
}

}  // namespace

absl::StatusOr<TemporaryFolder> TemporaryFolder::Create(const std::string& parent) {
  std::string path = parent + "/apta-peers-XXXXXX";
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

absl::StatusOr<ServerProcess> ServerProcess::Start(std::vector<std::string> words,
                                                   const std::string& socket,
                                                   const std::string& log) {
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const pid_t self = getpid();
  const pid_t pid = fork();
  if (pid == 0) BecomeServer(arguments.data(), log.c_str(), self);
  if (pid < 0) return absl::UnavailableError("fork failed");
  ServerProcess server(pid);

  const auto deadline = Clock::now() + std::chrono::seconds(20);
  while (!TakesConnections(socket)) {
    const bool ended = waitpid(pid, nullptr, WNOHANG) == pid;
    if (ended) server.pid_ = -1;
    if (ended || Clock::now() > deadline) {
      return absl::UnavailableError(fmt::format("{} does not serve: {}", words[0], TailOf(log)));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // nobody announces a socket
  }
  return server;
}

ServerProcess::~ServerProcess() {
  if (pid_ < 0) return;
  kill(pid_, SIGTERM);
  const auto deadline = Clock::now() + std::chrono::seconds(5);
  while (waitpid(pid_, nullptr, WNOHANG) == 0) {
    if (Clock::now() > deadline) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

}  // namespace apta::peers
