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

#include "bench/cores.h"

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

}  // namespace

absl::StatusOr<ServerProcess> ServerProcess::Start(std::vector<std::string> words,
                                                   const std::string& socket,
                                                   const std::string& log, bench::Cores cores) {
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const pid_t self = getpid();
  // The child inherits where it may run.
  bench::UseCores(cores);
  const pid_t pid = fork();
  if (pid == 0) BecomeServer(arguments.data(), log.c_str(), self);
  bench::UseCores(bench::Cores::kCallers);
  if (pid < 0) return absl::UnavailableError("fork failed");
  ServerProcess server(pid);

  const auto deadline = Clock::now() + std::chrono::seconds(20);
  while (!TakesConnections(socket)) {
    int how = 0;
    const bool ended = waitpid(pid, &how, WNOHANG) == pid;
    if (ended) server.pid_ = -1;
    if (ended || Clock::now() > deadline) {
      const std::string state = !ended           ? "it takes no connections"
                                : WIFEXITED(how) ? fmt::format("exit code {}", WEXITSTATUS(how))
                                                 : fmt::format("signal {}", WTERMSIG(how));
      const std::string said = TailOf(log);
      return absl::UnavailableError(fmt::format("{} does not serve {}: {}, and says {}", words[0],
                                                socket, state, said.empty() ? "nothing" : said));
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
