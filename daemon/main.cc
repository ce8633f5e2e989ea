// aptad: an embedded memory server with a command line, a log and an orderly end.
#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "apta/server.h"
#include "daemon/command_line.h"
#include "daemon/config.h"

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

int Fail(const absl::Status& status) {
  fmt::print(stderr, "aptad: {}\n",
             std::string_view(status.message().data(), status.message().size()));
  return status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailed;
}

// Before any thread is started, so that all of them inherit it and the signals wait for sigwait.
sigset_t BlockEndingSignals() {
  sigset_t ending;
  sigemptyset(&ending);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&ending, signal);
  pthread_sigmask(SIG_BLOCK, &ending, nullptr);
  return ending;
}

std::string Describe(const apta::ServerOptions& options) {
  std::string text;
  for (const apta::PoolOptions& pool : options.pools) {
    text += fmt::format("{}pool {} {} {} {}", text.empty() ? "" : ", ", pool.name,
                        apta::daemon::FormatBytes(pool.bytes), pool.backing, pool.coherence);
  }
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  // Where a standard stream is closed, the next socket would be taken for it.
  int fd = 0;
  while (fd >= 0 && fd <= STDERR_FILENO) fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (fd > STDERR_FILENO) close(fd);
  const sigset_t ending = BlockEndingSignals();
  std::signal(SIGPIPE, SIG_IGN);  // a client that is gone is an error of one send, not our end
  std::signal(SIGXFSZ, SIG_IGN);  // and a file that may not grow one of one write

  auto command_line = apta::daemon::ParseCommandLine(argc, argv);
  if (!command_line.ok()) return Fail(command_line.status());
  if (!command_line->answer.empty()) {
    fmt::print("{}", command_line->answer);
    return std::fflush(stdout) == 0 ? 0 : kExitFailed;
  }

  spdlog::set_default_logger(spdlog::stderr_color_mt("aptad"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z aptad[%P] %^%l%$: %v");
  {
    auto server = apta::MemoryServer::Start(command_line->options);
    if (!server.ok()) return Fail(server.status());
    spdlog::info("serving {}: {}", server->socket(), Describe(command_line->options));

    int signal = 0;
    sigwait(&ending, &signal);
    spdlog::info("ending: {}", sigdescr_np(signal));
  }
  spdlog::info("ended");
  return 0;
}
