#include "compute/node_runtime.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <thread>

#include "fabric/control.h"
#include "fmt/format.h"

namespace apta::compute {
namespace {

constexpr int kFirstRetryMs = 20;
constexpr int kLastRetryMs = 500;
constexpr int kFirstTickMs = 1;
constexpr int kLastTickMs = 128;
// What is wanted waits that long; an agent that sleeps longer is woken for it.
constexpr int kLongMs = 4;

std::string DefaultNodeName() {
  const char* from_environment = std::getenv("APTA_NODE");
  if (from_environment != nullptr && *from_environment != '\0') return from_environment;
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return fmt::format("{}/{}", host.data(), getpid());
}

void DrainEventFd(int fd) {
  std::uint64_t count;
  [[maybe_unused]] const ssize_t bytes = read(fd, &count, sizeof(count));
}

}  // namespace

std::atomic<std::uint64_t> NodeRuntime::s_forks{0};

// Its end is the end of the Client; the agent may stay on with a reference of its own.
struct NodeRuntime::Handle {
  explicit Handle(std::shared_ptr<NodeRuntime> its_runtime) : runtime(std::move(its_runtime)) {}
  ~Handle() {
    if (s_forks.load() != runtime->forks_at_connect_) {
      // A forked child: locks and the agent stayed with the parent. Leave everything as it is.
      new std::shared_ptr<NodeRuntime>(std::move(runtime));
      return;
    }
    runtime->Close();
  }
  std::shared_ptr<NodeRuntime> runtime;
};

NodeRuntime::NodeRuntime(const ClientOptions& options, std::string socket)
    : options_(options), socket_(std::move(socket)), forks_at_connect_(s_forks.load()) {}

NodeRuntime::~NodeRuntime() = default;

absl::StatusOr<std::shared_ptr<NodeRuntime>> NodeRuntime::Connect(const ClientOptions& given) {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++s_forks; });
  if (registered != 0) return absl::ResourceExhaustedError("pthread_atfork");
  ClientOptions options = given;
  if (options.node.empty()) options.node = DefaultNodeName();
  if (options.node.size() > 127 || options.node.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        fmt::format("node {}: a node's name has at most 127 bytes and no NUL", options.node));
  }
  if (options.pool.empty() || options.pool.size() > 63 ||
      options.pool.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        fmt::format("pool {}: a pool's name has 1 to 63 bytes and no NUL", options.pool));
  }
  if (options.timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(fmt::format("timeout {}: must be more than nothing",
                                                  absl::FormatDuration(options.timeout)));
  }
  const std::string socket = fabric::ResolveSocket(options.socket);
  absl::StatusOr<std::shared_ptr<Session>> session = Session::Attach(options, socket);
  if (!session.ok()) return session.status();
  absl::StatusOr<fabric::Doorbell> wake = fabric::Doorbell::Create();
  if (!wake.ok()) return wake.status();
  std::shared_ptr<NodeRuntime> runtime(new NodeRuntime(options, socket));
  runtime->wake_agent_ = *std::move(wake);
  runtime->current_.store(session->get());
  runtime->sessions_.push_back(*std::move(session));
  std::thread agent([runtime] { runtime->RunAgent(); });
  pthread_setname_np(agent.native_handle(), "apta-agent");
  agent.detach();
  auto handle = std::make_shared<Handle>(runtime);
  return std::shared_ptr<NodeRuntime>(std::move(handle), runtime.get());
}

absl::Status NodeRuntime::WhyNot() const {
  if (s_forks.load() != forks_at_connect_) {
    return absl::FailedPreconditionError(
        "this Client was made before fork(); connect a new one in the child");
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (!sessions_.empty()) return sessions_.back()->Ended();
  return absl::UnavailableError(fmt::format("the Client of {} is closed", socket_));
}

Session* NodeRuntime::AwaitSession(const Session* old, fabric::TimeNs timeout_ns) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, std::chrono::nanoseconds(timeout_ns), [&] {
    Session* now = current_.load();
    return now != nullptr && now != old;
  });
  Session* now = current_.load();
  return now != old ? now : nullptr;
}

ClientStats NodeRuntime::stats() const {
  ClientStats stats;
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& session : sessions_) session->AddStats(&stats);
  stats.reconnects = reconnects_.load();
  return stats;
}

// Waits until the node has left, unless Objects are pinned: then the agent sees to it later.
void NodeRuntime::Close() {
  std::unique_lock<std::mutex> lock(mutex_);
  closing_ = true;
  wake_agent_.Ring();
  changed_.wait(lock, [&] { return agent_left_ || agent_lingers_; });
}

// ---------------------------------------------------------------------------------------------
// The agent.

bool NodeRuntime::MayLeave() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!closing_) return false;
  // Watches what is pinned, so that the last drop wakes us.
  const bool is_pinned = std::any_of(sessions_.begin(), sessions_.end(),
                                     [](const auto& session) { return session->IsPinned(); });
  agent_lingers_ = is_pinned;
  if (is_pinned) changed_.notify_all();
  return !is_pinned;
}

void NodeRuntime::RunAgent() {
  int retry_ms = kFirstRetryMs;
  int tick_ms = kFirstTickMs;  // -1 = until something comes
  while (!MayLeave()) {
    Session* session = current_.load();
    std::vector<pollfd> fds = {{wake_agent_.fd(), POLLIN, 0}};
    std::vector<std::shared_ptr<Session>> sessions;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      sessions = sessions_;
    }
    for (const auto& each : sessions) {
      if (each->has_failed()) each->RetireIfUnused();
      fds.push_back({each->wake_fd(), POLLIN, 0});
    }
    if (session != nullptr) fds.push_back({session->socket(), POLLIN | POLLRDHUP, 0});
    if (session != nullptr && session->has_failed()) {  // a thread of ours found it fenced
      current_.store(nullptr);
      continue;
    }
    int timeout_ms = session != nullptr ? tick_ms : retry_ms;
    const bool is_long = timeout_ms < 0 || timeout_ms > kLongMs;
    if (session != nullptr && is_long && session->BeginSleep()) timeout_ms = 0;
    const int ready = poll(fds.data(), fds.size(), timeout_ms);
    if (session != nullptr) session->EndSleep();
    if (ready < 0) continue;  // EINTR
    // An idle node acknowledges without being asked while things happen, and else sleeps until a
    // home needs its answer.
    if (session != nullptr && (session->ApplyInBackground() || session->FetchWanted())) {
      tick_ms = kFirstTickMs;
    } else if (ready == 0) {
      tick_ms = tick_ms < kLastTickMs ? tick_ms * 2 : -1;
    }
    if (fds[0].revents != 0) DrainEventFd(wake_agent_.fd());
    for (std::size_t i = 0; i < sessions.size(); ++i) {
      if (fds[i + 1].revents == 0) continue;
      DrainEventFd(sessions[i]->wake_fd());
      sessions[i]->OnPinsDropped();
    }
    if (session == nullptr) {
      retry_ms = std::min(retry_ms * 2, kLastRetryMs);
      Reconnect();
      continue;
    }
    retry_ms = kFirstRetryMs;
    if (fds.back().revents != 0) {
      tick_ms = kFirstTickMs;
      if (!Watch(session)) current_.store(nullptr);
    }
  }
  current_.store(nullptr);
  std::vector<std::shared_ptr<Session>> sessions;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    sessions.swap(sessions_);
  }
  for (const auto& session : sessions) {
    session->Fail();
    session->HangUp();
  }
  std::lock_guard<std::mutex> lock(mutex_);
  sessions_ = std::move(sessions);  // stats() still counts them
  agent_left_ = true;
  changed_.notify_all();
}

// Something came on the socket: nudges, or the end of the session. Whether it goes on.
bool NodeRuntime::Watch(Session* session) {
  while (true) {
    fabric::Notice notice{};
    const ssize_t bytes = recv(session->socket(), &notice, sizeof(notice), MSG_DONTWAIT);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (bytes <= 0) {
      session->Fail();
      return false;
    }
    if (notice.kind == fabric::Notice::kFenced) {
      session->FailFenced(fabric::FieldText(notice.message));
      return false;
    }
  }
  session->OnNudge();
  return !session->has_failed();
}

void NodeRuntime::Reconnect() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closing_) return;
  }
  absl::StatusOr<std::shared_ptr<Session>> session = Session::Attach(options_, socket_);
  if (!session.ok()) return;
  std::lock_guard<std::mutex> lock(mutex_);
  sessions_.push_back(*session);
  ++reconnects_;
  current_.store(session->get());
  changed_.notify_all();
}

}  // namespace apta::compute
