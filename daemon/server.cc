#include "daemon/server.h"

#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/status/status.h"
#include "daemon/config.h"
#include "daemon/log/folder_medium.h"
#include "daemon/pool_objects.h"
#include "fabric/control.h"
#include "fabric/hash.h"
#include "fmt/format.h"
#include "spdlog/spdlog.h"

namespace apta::daemon {
namespace {

using fabric::UniqueFd;

constexpr fabric::TimeNs kDyingListenerNs = 1'000'000'000;

absl::Status SocketError(const std::string& socket, const char* what) {
  return absl::ErrnoToStatus(errno, fmt::format("socket {}: {}", socket, what));
}

// Owning a path is owning an abstract socket named after it: the kernel lets go of that when its
// owner dies, however it dies, so that a path left behind by a dead memory server can be told from
// a live one's without a race.
absl::StatusOr<UniqueFd> LockSocketPath(const std::string& socket) {
  std::error_code error;
  const std::string canonical = std::filesystem::weakly_canonical(socket, error).string();
  const std::string name = fmt::format("apta-{:016x}", fabric::KeyHash(error ? socket : canonical));
  UniqueFd lock(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!lock.valid()) return SocketError(socket, "socket");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path + 1, sizeof(address.sun_path) - 1);
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (bind(lock.get(), reinterpret_cast<const sockaddr*>(&address), bytes) != 0) {
    if (errno != EADDRINUSE) return SocketError(socket, "locking it");
    return absl::AlreadyExistsError(
        fmt::format("socket {}: a memory server is serving it already; choose another --socket or "
                    "stop that one",
                    socket));
  }
  return lock;
}

absl::StatusOr<UniqueFd> Listen(const std::string& socket) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(fmt::format("socket {}: a socket's path has at most {} bytes",
                                                  socket, sizeof(address.sun_path) - 1));
  }
  socket.copy(address.sun_path, socket.size());
  const std::filesystem::path folder = std::filesystem::path(socket).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::PermissionDeniedError(
        fmt::format("socket {}: its folder cannot be made: {}", socket, error.message()));
  }
  struct stat existing;
  if (lstat(socket.c_str(), &existing) == 0) {
    if (!S_ISSOCK(existing.st_mode)) {
      return absl::InvalidArgumentError(fmt::format(
          "socket {}: there is a file that is no socket; choose another --socket", socket));
    }
    // Another network namespace has abstract names of its own: ask the path as well. The kernel may
    // need some milliseconds to close the listener of a memory server that was killed (its io_uring
    // holds it), so an answer counts only if it does not go away.
    const fabric::TimeNs began_ns = fabric::RealClock::ReadNow();
    while (fabric::ConnectSocket(socket).ok()) {
      if (fabric::RealClock::ReadNow() - began_ns > kDyingListenerNs) {
        return absl::AlreadyExistsError(
            fmt::format("socket {}: a memory server is serving it already", socket));
      }
      sched_yield();
    }
    if (unlink(socket.c_str()) != 0) return SocketError(socket, "taking it over");
  }
  UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.valid()) return SocketError(socket, "socket");
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SocketError(socket, "bind");
  }
  // Anybody may knock: who gets in is decided per pool, by credentials.
  if (chmod(socket.c_str(), 0666) != 0) return SocketError(socket, "chmod");
  if (listen(listener.get(), 1024) != 0) return SocketError(socket, "listen");
  return listener;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options) {
  if (absl::Status valid = Validate(options); !valid.ok()) return valid;
  std::unique_ptr<Server> server(new Server());
  const std::string socket = fabric::ResolveSocket(options.socket);
  absl::StatusOr<UniqueFd> lock = LockSocketPath(socket);
  if (!lock.ok()) return lock.status();
  server->socket_lock_ = *std::move(lock);
  if (absl::Status opened = server->OpenPools(options); !opened.ok()) return opened;
  absl::StatusOr<std::unique_ptr<IoLoop>> loop = IoLoop::Create();
  if (!loop.ok()) return loop.status();
  server->loop_ = *std::move(loop);
  absl::StatusOr<fabric::Doorbell> mail = fabric::Doorbell::Create();
  if (!mail.ok()) return mail.status();
  server->mailbox_ = std::make_unique<Mailbox>(*std::move(mail));
  absl::StatusOr<UniqueFd> listener = Listen(socket);
  if (!listener.ok()) return listener.status();
  server->socket_ = socket;  // from here on the path is ours to remove
  if (absl::Status started = server->StartShards(options); !started.ok()) return started;
  absl::StatusOr<fabric::Life> life = fabric::Life::Create();
  if (!life.ok()) return life.status();
  server->life_ = *std::move(life);
  server->sessions_ =
      std::make_unique<Sessions>(server->loop_.get(), *std::move(listener), &server->pools_,
                                 &server->shards_, options.link, server->life_.fd());
  Server* self = server.get();
  server->control_ = std::thread([self] { self->RunControl(); });
  pthread_setname_np(server->control_.native_handle(), "apta-control");
  return server;
}

absl::Status Server::OpenPools(const ServerOptions& options) {
  for (const PoolOptions& pool_options : options.pools) {
    absl::StatusOr<std::unique_ptr<Pool>> pool = Pool::Open(pool_options, options.shards);
    if (!pool.ok()) return pool.status();
    if ((*pool)->region().existed()) {
      const Recovery& recovery = (*pool)->recovery();
      spdlog::info("pool {}: {} objects found in {}, {} incomplete ones dropped, {} damaged",
                   pool_options.name, recovery.objects, pool_options.backing, recovery.half_made,
                   recovery.damaged);
      for (const std::string& finding : recovery.findings) {
        spdlog::error("pool {}: {}: {}", pool_options.name, pool_options.backing, finding);
      }
    }
    pools_.push_back(*std::move(pool));
    if (pool_options.durability != "log") continue;
    if (absl::Status opened = OpenLog(pools_.size() - 1); !opened.ok()) {
      return absl::Status(opened.code(),
                          fmt::format("pool {}: log {}: {}", pool_options.name, pool_options.log,
                                      std::string(opened.message())));
    }
  }
  return absl::OkStatus();
}

// Fills the pool from its log.
absl::Status Server::OpenLog(std::size_t pool_index) {
  Pool* pool = pools_[pool_index].get();
  const PoolOptions& options = pool->options();
  absl::StatusOr<std::unique_ptr<log::FolderMedium>> medium =
      log::FolderMedium::OpenFolder(options.log);
  if (!medium.ok()) return medium.status();
  const fabric::TimeNs began_ns = fabric::RealClock::ReadNow();
  absl::StatusOr<std::unique_ptr<log::PoolLog>> opened = log::PoolLog::Open(
      *std::move(medium),
      {.segment_bytes = options.log_segment_bytes,
       .recovery_target_ms = options.recovery_target_ms},
      [pool](const log::LoggedObject& object) { return LoadObject(pool, object); });
  if (!opened.ok()) return opened.status();
  const log::LogContents& found = (*opened)->found();
  pool->superblock()->last_version.store(found.last_version);
  pool->set_journal(opened->get());
  spdlog::info("pool {}: {} objects found in log {}, {} records after its checkpoint, {} ms",
               options.name, found.objects, options.log, found.replayed_records,
               (fabric::RealClock::ReadNow() - began_ns) / 1'000'000);
  if (!found.cut_at.empty()) {
    spdlog::error(
        "pool {}: log {} is damaged at {}: what was put later, in {} batches or more, is lost",
        options.name, options.log, found.cut_at, found.cut_batches);
  }
  logs_[pool_index] = *std::move(opened);
  return absl::OkStatus();
}

void Server::StartLogs() {
  for (const auto& [pool_index, pool_log] : logs_) {
    Pool* pool = pools_[pool_index].get();
    pool_log->Start(
        {.name = pool->options().name,
         .visit_objects =
             [pool](const log::ObjectVisitor& visit) { return VisitObjects(*pool, visit); },
         .last_version = [pool] { return pool->superblock()->last_version.load(); },
         .deliver =
             [this, index = static_cast<int>(pool_index)](int shard,
                                                          std::vector<LogOutcome> outcomes) {
               shards_[static_cast<std::size_t>(shard)]->PostLogged(index, std::move(outcomes));
             }});
  }
}

absl::Status Server::StartShards(const ServerOptions& options) {
  std::vector<Pool*> pools;
  for (const auto& pool : pools_) pools.push_back(pool.get());
  const Shard::Observer observer = {
      .on_forgotten =
          [this](NodeId node) { mailbox_->Post([this, node] { sessions_->OnForgotten(node); }); },
      .on_hostile =
          [this](NodeId node) { mailbox_->Post([this, node] { sessions_->OnHostile(node); }); },
      .on_fenced =
          [this](NodeId node, const FenceReason& reason) {
            mailbox_->Post([this, node, reason] { sessions_->OnFenced(node, reason); });
          },
  };
  for (int index = 0; index < options.shards; ++index) {
    absl::StatusOr<std::unique_ptr<Shard>> shard =
        Shard::Start(index, pools, options.link, scheduler::FindPolicy(options.policy), observer);
    if (!shard.ok()) return shard.status();
    shards_.push_back(*std::move(shard));
  }
  std::vector<Shard*> all;
  for (const auto& shard : shards_) all.push_back(shard.get());
  for (Shard* shard : all) shard->RunAndWait([shard, &all] { shard->Meet(all); });
  StartLogs();
  return absl::OkStatus();
}

void Server::RunControl() {
  life_.Begin();  // before anybody can attach: that is done on this thread
  // Readable until it is read, which keeps the loop simple: this doorbell is ours alone.
  loop_->Watch(mailbox_->doorbell().fd(), [this] {
    std::uint64_t rings;
    [[maybe_unused]] const ssize_t bytes = read(mailbox_->doorbell().fd(), &rings, sizeof(rings));
    mailbox_->Run();
  });
  while (!stop_.load()) {
    loop_->RunOnce(sessions_->CloseSilent(fabric::RealClock::ReadNow()));
  }
  life_.End();
}

Server::~Server() {
  if (control_.joinable()) {
    stop_.store(true);
    mailbox_->doorbell().Ring();
    control_.join();
  }
  if (!socket_.empty()) unlink(socket_.c_str());
  for (const auto& shard : shards_) shard->Stop();  // before any is gone: they send each other mail
  for (const auto& [pool_index, pool_log] : logs_) pool_log->Stop();  // and are sent some by these
  shards_.clear();  // they look at the sessions' ports
  sessions_.reset();
}

}  // namespace apta::daemon

namespace apta {

absl::StatusOr<MemoryServer> MemoryServer::Start(const ServerOptions& options) {
  absl::StatusOr<std::unique_ptr<daemon::Server>> server = daemon::Server::Start(options);
  if (!server.ok()) return server.status();
  return MemoryServer(*std::move(server));
}

MemoryServer::MemoryServer(std::unique_ptr<daemon::Server> server) : server_(std::move(server)) {}
MemoryServer::MemoryServer(MemoryServer&&) noexcept = default;
MemoryServer& MemoryServer::operator=(MemoryServer&&) noexcept = default;
MemoryServer::~MemoryServer() = default;
const std::string& MemoryServer::socket() const { return server_->socket(); }

}  // namespace apta
