#include "daemon/sessions.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "daemon/config.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // Linux 6.5
#endif

namespace apta::daemon {

using fabric::Hello;
using fabric::UniqueFd;
using fabric::Welcome;

namespace {

constexpr fabric::TimeNs kHelloTimeoutNs = 5'000'000'000;
constexpr std::size_t kMaxGuests = 256;
constexpr std::size_t kStatePacketBytes = 32 << 10;

// The peer's process, so that its death is noticed even if something else keeps its socket open.
// By SO_PEERPIDFD where the kernel has it: a pid could have been reused.
UniqueFd PeerPidfd(int socket, pid_t pid) {
  int fd = -1;
  socklen_t bytes = sizeof(fd);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &bytes) == 0) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    return UniqueFd(fd);
  }
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
}

absl::StatusOr<ucred> PeerCredentials(int socket) {
  ucred peer;
  socklen_t bytes = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) {
    return absl::ErrnoToStatus(errno, "SO_PEERCRED");
  }
  return peer;
}

// A node's name may be any bytes; in the log it stays within its line.
std::string Printable(std::string name) {
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == 127 || (c >= 0 && c < 32); }, '?');
  return name;
}

}  // namespace

absl::Status CheckPoolAccess(const PoolOptions& pool, uid_t peer_uid,
                             const std::vector<gid_t>& peer_gids) {
  if (peer_uid == 0) return absl::OkStatus();
  uid_t owner = geteuid();
  gid_t group = getegid();
  if (!pool.owner.empty()) {
    const passwd* entry = getpwnam(pool.owner.c_str());
    if (entry == nullptr) {
      return absl::PermissionDeniedError(
          fmt::format("pool {}: its owner {} is unknown here", pool.name, pool.owner));
    }
    owner = entry->pw_uid;
  }
  if (!pool.group.empty()) {
    const struct group* entry = getgrnam(pool.group.c_str());
    if (entry == nullptr) {
      return absl::PermissionDeniedError(
          fmt::format("pool {}: its group {} is unknown here", pool.name, pool.group));
    }
    group = entry->gr_gid;
  }
  const bool in_group = std::find(peer_gids.begin(), peer_gids.end(), group) != peer_gids.end();
  const std::uint32_t needed = peer_uid == owner ? 0400 : in_group ? 0040 : 0004;
  if ((pool.mode & needed) != 0) return absl::OkStatus();
  return absl::PermissionDeniedError(
      fmt::format("pool {}: user {} may not attach (owner {}, group {}, mode {:04o})", pool.name,
                  peer_uid, owner, group, pool.mode));
}

Sessions::Sessions(IoLoop* loop, UniqueFd listener, std::vector<std::unique_ptr<Pool>>* pools,
                   std::vector<std::unique_ptr<Shard>>* shards, const LinkOptions& link,
                   int life_fd)
    : loop_(loop),
      listener_(std::move(listener)),
      pools_(*pools),
      shards_(*shards),
      link_(link),
      life_fd_(life_fd),
      listener_watch_(loop_->Watch(listener_.get(), [this] { Accept(); })) {}

// The shards have stopped by now: nothing looks at the ports any more.
Sessions::~Sessions() {
  loop_->Unwatch(listener_watch_);
  for (Guest& guest : guests_) loop_->Unwatch(guest.watch);
  for (const auto& session : session_) {
    if (session == nullptr) continue;
    loop_->Unwatch(session->socket_watch);
    loop_->Unwatch(session->pidfd_watch);
    shutdown(session->socket.get(), SHUT_RDWR);
  }
}

void Sessions::Accept() {
  while (true) {
    UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid()) {
      if (errno == EMFILE || errno == ENFILE) {
        spdlog::error("no descriptor left for a new client; raise ulimit -n");
      }
      return;
    }
    // Who says nothing makes room for who may: the oldest goes first.
    if (guests_.size() >= kMaxGuests) RemoveGuest(guests_.begin());
    guests_.push_back({std::move(socket), fabric::RealClock::ReadNow() + kHelloTimeoutNs});
    const auto guest = std::prev(guests_.end());
    guest->watch = loop_->Watch(guest->socket.get(), [this, guest] { Receive(guest); });
  }
}

void Sessions::RemoveGuest(std::list<Guest>::iterator guest) {
  loop_->Unwatch(guest->watch);
  guests_.erase(guest);
}

fabric::TimeNs Sessions::CloseSilent(fabric::TimeNs now_ns) {
  while (!guests_.empty() && guests_.front().deadline_ns <= now_ns) RemoveGuest(guests_.begin());
  return guests_.empty() ? 3'600'000'000'000 : guests_.front().deadline_ns - now_ns;
}

void Sessions::Receive(std::list<Guest>::iterator guest) {
  Hello hello;
  const absl::StatusOr<std::size_t> bytes =
      fabric::ReceivePacket(guest->socket.get(), &hello, sizeof(hello), nullptr, 0);
  UniqueFd socket = std::move(guest->socket);
  RemoveGuest(guest);
  if (!bytes.ok() || *bytes == 0) return;
  if (*bytes != sizeof(hello) || hello.magic != fabric::kControlMagic ||
      hello.version != fabric::kControlVersion) {
    Welcome refusal{};
    refusal.magic = fabric::kControlMagic;
    refusal.version = fabric::kControlVersion;
    refusal.code = static_cast<std::uint32_t>(absl::StatusCode::kFailedPrecondition);
    fabric::CopyText(refusal.message,
                     "this memory server speaks another version of the protocol; run aptad and its "
                     "clients from one version");
    [[maybe_unused]] const absl::Status sent =
        fabric::SendPacket(socket.get(), &refusal, sizeof(refusal));
    return;
  }
  AnswerHello(hello, std::move(socket));
}

void Sessions::AnswerHello(const Hello& hello, UniqueFd socket) {
  if (hello.kind == Hello::kAskState) {
    SendState(socket.get());
    return;
  }
  const absl::Status attached = hello.kind == Hello::kAttach
                                    ? Attach(hello, &socket)
                                    : absl::InvalidArgumentError("not a kind of hello");
  if (attached.ok()) return;
  Welcome refusal{};
  refusal.magic = fabric::kControlMagic;
  refusal.version = fabric::kControlVersion;
  refusal.code = static_cast<std::uint32_t>(attached.code());
  fabric::CopyText(refusal.message, std::string(attached.message()));
  [[maybe_unused]] const absl::Status sent =
      fabric::SendPacket(socket.get(), &refusal, sizeof(refusal));
}

absl::Status Sessions::CheckAccess(int socket, const PoolOptions& pool) const {
  const absl::StatusOr<ucred> peer = PeerCredentials(socket);
  if (!peer.ok()) return peer.status();
  std::vector<gid_t> gids(64);
  socklen_t bytes = static_cast<socklen_t>(gids.size() * sizeof(gid_t));
  if (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, gids.data(), &bytes) != 0) bytes = 0;
  gids.resize(bytes / sizeof(gid_t));
  gids.push_back(peer->gid);
  return CheckPoolAccess(pool, peer->uid, gids);
}

absl::Status Sessions::Attach(const Hello& hello, UniqueFd* socket) {
  const std::string_view pool_name = fabric::FieldText(hello.pool);
  const auto pool = std::find_if(pools_.begin(), pools_.end(),
                                 [&](const auto& p) { return p->options().name == pool_name; });
  if (pool == pools_.end()) {
    std::vector<std::string_view> names;
    for (const auto& p : pools_) names.push_back(p->options().name);
    return absl::NotFoundError(
        fmt::format("no pool {}; this memory server has: {}", pool_name, fmt::join(names, ", ")));
  }
  const std::string_view name = fabric::FieldText(hello.node);
  if (name.empty()) return absl::InvalidArgumentError("the node's name is empty");
  if (absl::Status access = CheckAccess(socket->get(), (*pool)->options()); !access.ok()) {
    return access;
  }
  const auto slot = std::find(session_.begin(), session_.end(), nullptr);
  if (slot == session_.end()) {
    return absl::ResourceExhaustedError(
        fmt::format("all {} node slots are taken (apta nodes)", fabric::kMaxNodes));
  }
  auto session = std::make_unique<Session>();
  session->node = static_cast<NodeId>(slot - session_.begin());
  session->pool_index = static_cast<std::size_t>(pool - pools_.begin());
  session->name = name;
  const absl::StatusOr<ucred> peer = PeerCredentials(socket->get());
  if (!peer.ok()) return peer.status();
  session->pid = peer->pid;
  session->pidfd = PeerPidfd(socket->get(), peer->pid);
  if (!session->pidfd.valid()) return absl::UnavailableError("the client is gone");
  const int shards = static_cast<int>(shards_.size());
  absl::StatusOr<fabric::Port> port = fabric::Port::Create(session->node, shards);
  if (!port.ok()) return port.status();
  session->port = *std::move(port);
  for (const auto& shard : shards_) {
    absl::StatusOr<fabric::Doorbell> doorbell = fabric::Doorbell::Create();
    if (!doorbell.ok()) return doorbell.status();
    if (absl::Status s = shard->WatchDoorbell(doorbell->fd()); !s.ok()) return s;
    session->doorbells.push_back(*std::move(doorbell));
  }
  // The shards know the node before it can send anything.
  Session* attached = session.get();
  *slot = std::move(session);
  for (const auto& shard : shards_) {
    shard->RunAndWait([&] {
      shard->AttachNode(attached->node, attached->name, static_cast<int>(attached->pool_index),
                        &attached->port, socket->get());
    });
  }
  const NodeId node = attached->node;
  attached->socket = std::move(*socket);
  const absl::Status sent = SendWelcome(*attached, **pool);
  attached->port.TakeFd();  // mapped, and sent
  attached->socket_watch =
      loop_->Watch(attached->socket.get(), [this, node] { OnSocketReadable(node); });
  attached->pidfd_watch = loop_->Watch(attached->pidfd.get(), [this, node] { End(node); });
  if (!sent.ok()) End(node);  // it left while we were at it
  return absl::OkStatus();
}

absl::Status Sessions::SendWelcome(const Session& session, const Pool& pool) {
  absl::StatusOr<UniqueFd> region = pool.region().client_fd();
  if (!region.ok()) return region.status();
  Welcome welcome{};
  welcome.magic = fabric::kControlMagic;
  welcome.version = fabric::kControlVersion;
  welcome.region_bytes = pool.region().size_bytes();
  welcome.shards = static_cast<std::uint32_t>(shards_.size());
  welcome.node = session.node;
  welcome.trusted = pool.trusted() ? 1 : 0;
  welcome.coherence = pool.coherence();
  welcome.link_latency_ns = link_.latency_ns;
  welcome.link_bandwidth_gbps = link_.bandwidth_gbps;
  welcome.link_jitter_ns = link_.jitter_ns;
  welcome.link_call_ns = link_.call_ns;
  std::vector<int> fds = {region->get(), session.port.fd(), life_fd_};
  for (const fabric::Doorbell& doorbell : session.doorbells) fds.push_back(doorbell.fd());
  return fabric::SendPacket(session.socket.get(), &welcome, sizeof(welcome), fds);
}

// A node says nothing on its socket: readable means that it has closed it, or is hostile.
void Sessions::OnSocketReadable(NodeId node) {
  if (session_[node] != nullptr) End(node);
}

void Sessions::End(NodeId node) {
  Session* session = session_[node].get();
  if (session == nullptr || session->has_ended) return;
  session->has_ended = true;
  loop_->Unwatch(session->socket_watch);
  loop_->Unwatch(session->pidfd_watch);
  // The node's threads learn of it now; the descriptor stays until no shard can nudge it.
  shutdown(session->socket.get(), SHUT_RDWR);
  session->shards_left = static_cast<int>(shards_.size());
  for (const auto& shard : shards_) {
    Shard* target = shard.get();
    target->Post([target, node] { target->ForgetNode(node); });
  }
}

void Sessions::OnForgotten(NodeId node) {
  if (--session_[node]->shards_left == 0) session_[node].reset();
}

void Sessions::OnHostile(NodeId node) {
  if (session_[node] == nullptr || session_[node]->has_ended) return;
  spdlog::warn("node {} ({}, pid {}): cut off after {} requests that make no sense", node,
               Printable(session_[node]->name), session_[node]->pid, Shard::kMaxBadRequests);
  End(node);
}

// The session stays until its process has let go of what it reads: it hangs up then, or dies.
void Sessions::OnFenced(NodeId node, const FenceReason& reason) {
  Session* session = session_[node].get();
  if (session == nullptr || session->has_ended || session->is_fenced) return;
  session->is_fenced = true;
  const std::string why =
      reason.silent_ns >= reason.allowed_silent_ns
          ? fmt::format("owed {} acknowledgements and sent none for {} ms (ack_deadline {} ms)",
                        reason.outstanding, reason.silent_ns / 1'000'000,
                        reason.allowed_silent_ns / 1'000'000)
          : fmt::format("held {} of old versions (node_quota {})", FormatBytes(reason.held_bytes),
                        FormatBytes(reason.allowed_bytes));
  spdlog::warn("node {} ({}, pid {}): fenced: it {}", node, Printable(session->name), session->pid,
               why);
  for (const auto& shard : shards_) {
    Shard* target = shard.get();
    target->Post([target, node] { target->FenceNode(node); });
  }
  fabric::Notice notice{};
  notice.kind = fabric::Notice::kFenced;
  fabric::CopyText(notice.message, why);
  // A node that does not read its socket finds the fenced word in its invalidation rings.
  [[maybe_unused]] const ssize_t sent =
      send(session->socket.get(), &notice, sizeof(notice), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Sessions::SendState(int socket) {
  const std::string state = StateAsJson();
  for (std::size_t at = 0; at < state.size(); at += kStatePacketBytes) {
    const std::size_t bytes = std::min(kStatePacketBytes, state.size() - at);
    if (!fabric::SendPacket(socket, state.data() + at, bytes).ok()) return;  // it left
  }
}

std::string Sessions::StateAsJson() {
  nlohmann::json state{{"shards", shards_.size()}, {"nodes", nlohmann::json::array()}};
  for (const auto& pool : pools_) {
    const PoolOptions& options = pool->options();
    std::uint64_t used = 0, held = 0, capacity = 0, objects = 0, damaged = 0, scrubbed = 0;
    std::uint64_t scrubs = ~std::uint64_t{0};
    for (int i = 0; i < pool->shards(); ++i) {
      const HeapShare& share = pool->share(i);
      used += share.used_bytes.load();
      held += share.held_bytes.load();
      objects += share.live_objects.load();
      damaged += share.damaged_objects.load();
      scrubbed += share.scrubbed_bytes.load();
      scrubs = std::min(scrubs, share.scrubs.load());
      capacity += share.objects.capacity_bytes();
    }
    state["pools"].push_back({{"name", options.name},
                              {"backing", options.backing},
                              {"coherence", options.coherence},
                              {"access", options.access},
                              {"durability", options.durability},
                              {"numa_nodes", pool->region().SampleNumaNodes()},
                              {"bytes", pool->region().size_bytes()},
                              {"bytes_used", used - std::min(used, held)},
                              {"bytes_held", held},
                              {"bytes_free", capacity - std::min(capacity, used)},
                              {"objects", objects},
                              {"bytes_populated", pool->region().populated_bytes()},
                              {"page_bytes", pool->region().SamplePageBytes()},
                              {"last_version", pool->superblock()->last_version.load()},
                              {"objects_damaged", damaged},
                              {"scrubs", scrubs},
                              {"bytes_scrubbed", scrubbed}});
    if (pool->journal() == nullptr) continue;
    const LogTotals log = pool->journal()->Totals();
    state["pools"].back().update({{"log_writes", log.writes},
                                  {"log_records", log.records},
                                  {"log_bytes", log.bytes},
                                  {"log_write_ns", log.write_ns},
                                  {"log_checkpoints", log.checkpoints},
                                  {"log_bytes_since_checkpoint", log.bytes_since_checkpoint}});
  }
  for (const auto& session : session_) {
    if (session == nullptr || session->has_ended) continue;
    nlohmann::json node{{"id", session->node},
                        {"name", session->name},
                        {"pid", session->pid},
                        {"pool", pools_[session->pool_index]->options().name}};
    std::uint64_t outstanding = 0;
    std::uint64_t held_bytes = 0;
    for (const auto& shard : shards_) {
      shard->RunAndWait([&] {
        const Home& home = shard->home(static_cast<int>(session->pool_index));
        outstanding += home.oic().Outstanding(session->node);
        held_bytes += home.oic().HeldBytesOf(session->node);
        if (home.executor() == nullptr) return;
        node["functions"] = home.executor()->FunctionsOf(session->node);
        const scheduler::NodeLoad load = home.executor()->LoadOf(session->node);
        node["threads"] = load.threads;
        node["idle"] = load.idle;
        node["running"] = load.running;
        node["waiting"] = load.waiting;
        node["stuck"] = load.stuck;
      });
    }
    node["outstanding"] = outstanding;
    node["held_bytes"] = held_bytes;
    node["fenced"] = session->is_fenced;
    state["nodes"].push_back(std::move(node));
  }
  // A name may be any bytes; JSON may not.
  return state.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace apta::daemon
