#include "common/crew.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

extern char** environ;

namespace examples {

using nlohmann::json;

Crew::~Crew() {
  for (const pid_t pid : pids_) kill(pid, SIGKILL);
  for (const pid_t pid : pids_) waitpid(pid, nullptr, 0);
  if (reports_fd_ >= 0) close(reports_fd_);
}

absl::Status Crew::Spawn(const std::vector<const Application*>& applications,
                         const std::string& socket, const char* node, int report_fd) {
  std::vector<std::string> words = {"run"};
  for (const Application* application : applications) words.push_back(application->name);
  words.insert(words.end(),
               {"--socket", socket, "--node", node, "--report-fd", std::to_string(report_fd)});
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t pid;
  const int error =
      posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ);
  if (error != 0) return absl::ErrnoToStatus(error, "starting a compute server");
  pids_.push_back(pid);
  return absl::OkStatus();
}

absl::Status Crew::Check() const {
  for (std::size_t i = 0; i < pids_.size(); ++i) {
    siginfo_t ended{};
    waitid(P_PID, static_cast<id_t>(pids_[i]), &ended, WEXITED | WNOHANG | WNOWAIT);
    if (ended.si_pid != 0) {
      return absl::UnavailableError(fmt::format("compute server {} has ended", kNodes[i]));
    }
  }
  return absl::OkStatus();
}

absl::Status Crew::Start(const std::vector<const Application*>& applications,
                         const std::string& socket, const apta::Client& client, Reports reports) {
  int ends[2] = {-1, -1};
  if (reports == Reports::kEach) {
    if (pipe(ends) != 0) return absl::ErrnoToStatus(errno, "pipe");
    reports_fd_ = ends[0];
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
  }
  absl::Status spawned;
  for (const char* node : kNodes) spawned.Update(Spawn(applications, socket, node, ends[1]));
  if (ends[1] >= 0) close(ends[1]);
  if (!spawned.ok()) return spawned;
  std::size_t functions = 0;
  for (const Application* application : applications) functions += application->steps.size();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < deadline) {
    if (absl::Status alive = Check(); !alive.ok()) return alive;
    const absl::StatusOr<std::vector<apta::NodeInfo>> nodes = client.Nodes();
    if (!nodes.ok()) return nodes.status();
    const auto is_ready = [&](const char* name) {
      return std::any_of(nodes->begin(), nodes->end(), [&](const apta::NodeInfo& node) {
        return node.name == name && node.functions.size() == functions;
      });
    };
    if (std::all_of(kNodes.begin(), kNodes.end(), is_ready)) return absl::OkStatus();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return absl::DeadlineExceededError("the compute servers did not register their functions");
}

absl::StatusOr<std::vector<Report>> Crew::TakeReports() {
  std::string lines;
  std::array<char, 4096> piece;
  for (ssize_t got; (got = read(reports_fd_, piece.data(), piece.size())) > 0;) {
    lines.append(piece.data(), static_cast<std::size_t>(got));
  }
  std::vector<Report> reports;
  std::size_t begin = 0;
  for (std::size_t end; (end = lines.find('\n', begin)) != lines.npos; begin = end + 1) {
    const json line = json::parse(lines.substr(begin, end - begin), nullptr, false);
    if (line.is_discarded()) return absl::DataLossError("a compute server's report is garbled");
    reports.push_back(line.get<Report>());
  }
  std::sort(reports.begin(), reports.end(),
            [](const Report& a, const Report& b) { return a.begin_ns < b.begin_ns; });
  return reports;
}

}  // namespace examples
