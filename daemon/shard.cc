#include "daemon/shard.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <future>

#include "absl/status/status.h"
#include "fabric/control.h"
#include "fmt/format.h"
#include "spdlog/spdlog.h"

namespace apta::daemon {

using fabric::Lane;

namespace {

// Requests taken from one node before the next one's turn.
constexpr int kBatch = 16;
// The clock is read once in so many polls: deadlines are a matter of milliseconds.
constexpr std::uint32_t kPollsPerClockReading = 32;

// No emulated link takes nearly as long; a stamp beyond it is no stamp.
constexpr TimeNs kLongestFlightNs = 10'000'000'000;

absl::Status AddToEpoll(int epoll, int fd) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;  // never read: see Doorbell
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
    return absl::ErrnoToStatus(errno, "epoll_ctl");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Shard>> Shard::Start(int index, std::vector<Pool*> pools,
                                                    const LinkOptions& link,
                                                    const scheduler::Policy* policy,
                                                    Observer observer) {
  absl::StatusOr<fabric::Doorbell> mail = fabric::Doorbell::Create();
  if (!mail.ok()) return mail.status();
  fabric::UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return absl::ErrnoToStatus(errno, "epoll_create1");
  const absl::Status added = AddToEpoll(epoll.get(), mail->fd());
  if (!added.ok()) return added;
  std::unique_ptr<Shard> shard(new Shard(index, std::move(pools), link, policy, std::move(observer),
                                         *std::move(mail), std::move(epoll)));
  Shard* self = shard.get();
  shard->thread_ = std::thread([self] { self->Run(); });
  pthread_setname_np(shard->thread_.native_handle(), fmt::format("apta-home-{}", index).c_str());
  return shard;
}

Shard::Shard(int index, std::vector<Pool*> pools, const LinkOptions& link,
             const scheduler::Policy* policy, Observer observer, fabric::Doorbell mail,
             fabric::UniqueFd epoll)
    : index_(index),
      pools_(std::move(pools)),
      link_(link),
      is_link_emulated_(link.enabled()),
      observer_(std::move(observer)),
      mailbox_(std::move(mail)),
      epoll_(std::move(epoll)) {
  NodeGate* const gate = this;
  for (Pool* pool : pools_) {
    homes_.push_back(
        std::make_unique<Home>(pool, index, /*hosts_functions=*/index == 0, gate, policy));
  }
  attached_.reserve(fabric::kMaxNodes);
  answered_.reserve(fabric::kLanes * 4);
}

Shard::~Shard() { Stop(); }

void Shard::Stop() {
  if (!thread_.joinable()) return;
  stop_.store(true);
  mailbox_.doorbell().Ring();
  thread_.join();
}

void Shard::RunAndWait(const std::function<void()>& job) {
  std::promise<void> done;
  Post([&] {
    job();
    done.set_value();
  });
  done.get_future().wait();
}

absl::Status Shard::WatchDoorbell(int doorbell_fd) { return AddToEpoll(epoll_.get(), doorbell_fd); }

void Shard::AttachNode(NodeId node, std::string_view name, int pool_index, const fabric::Port* port,
                       int socket) {
  const fabric::LinkDirection to_node(link_, (std::uint64_t{node} << 32) + 1);
  node_[node].emplace(port, socket, &home(pool_index), index_, to_node);
  attached_.emplace_back(node, &*node_[node]);
  home(pool_index).AttachNode(node, name);
}

void Shard::FenceNode(NodeId node) {
  if (!node_[node]) return;  // gone meanwhile
  std::erase_if(attached_, [node](const auto& attached) { return attached.first == node; });
  node_[node]->invalidations.Fence();
  node_[node]->home->FenceNode(node);
  WakeAnswered();
}

void Shard::ForgetNode(NodeId node) {
  std::erase_if(attached_, [node](const auto& attached) { return attached.first == node; });
  node_[node]->home->ForgetNode(node);
  WakeAnswered();  // nothing may point into its port afterwards
  node_[node].reset();
}

// ---------------------------------------------------------------------------------------------

void Shard::Run() {
  fabric::IdleStrategy idle;
  while (!stop_.load(std::memory_order_relaxed)) {  // the doorbell orders it, see Sleep
    if (PollOnce() > 0) {
      idle.Reset(has_answered_here_);
      if (!has_answered_here_) continue;
      has_answered_here_ = false;  // who was answered gets this core without another look
    }
    if (idle.Idle() == fabric::IdleStrategy::Advice::kSleep) {
      Sleep();
      idle.Reset();
    }
  }
}

int Shard::PollOnce() {
  if (is_link_emulated_ || polls_++ % kPollsPerClockReading == 0) {
    now_ns_ = fabric::RealClock::ReadNow();
  }
  int done = mailbox_.Run();
  for (const auto& [node, state] : attached_) {
    if (state->requests.Peek() != nullptr) done += PollNode(node, state);
  }
  for (const auto& home : homes_) done += home->Poll(now_ns_);
  if (!answered_.empty()) WakeAnswered();
  return done;
}

int Shard::PollNode(NodeId node, NodeState* state) {
  int taken = 0;
  while (taken < kBatch) {
    const Request* slot = state->requests.Peek();
    if (slot == nullptr) break;
    // Copied before it is looked at: the node can still write to the slot.
    Request request;
    fabric::CopyRequest(*slot, &request);
    const TimeNs visible_at_ns = is_link_emulated_ ? slot->visible_at_ns : 0;
    const bool is_on_its_way = visible_at_ns > now_ns_;
    const bool is_lie = is_on_its_way && visible_at_ns - now_ns_ > kLongestFlightNs;
    if (is_on_its_way && !is_lie) return taken + 1;  // do not sleep
    state->requests.Consume();
    ++taken;
    if (request.lane < fabric::kLanes) {
      asker_core_ = &(state->core[request.lane] = request.core);
    }
    const bool is_good = !is_lie && state->home->Step(node, request, now_ns_);
    asker_core_ = nullptr;
    if (!is_good && ++state->bad_requests == kMaxBadRequests) {
      observer_.on_hostile(node);
    }
  }
  return taken;
}

// After the replies, never before: the system call is paid when nobody waits for us any more.
void Shard::WakeAnswered() {
  for (Lane* lane : answered_) {
    // Sequentially consistent, after the store of done_id: see doorbell.h.
    if (lane->asleep.load() != 0) fabric::FutexWake(&lane->done_id);
  }
  answered_.clear();
}

void Shard::SetAsleep(std::uint32_t asleep) {
  for (Pool* pool : pools_) {
    pool->superblock()->home[index_].asleep.store(asleep);
  }
}

void Shard::Sleep() {
  SetAsleep(1);
  polls_ = 0;  // read the clock
  if (PollOnce() == 0 && !stop_.load()) {
    TimeNs deadline_ns = ~TimeNs{0};
    for (const auto& home : homes_) deadline_ns = std::min(deadline_ns, home->next_deadline_ns());
    int timeout_ms = -1;
    if (deadline_ns != ~TimeNs{0}) {
      const TimeNs left_ns = deadline_ns > now_ns_ ? deadline_ns - now_ns_ : 0;
      timeout_ms = static_cast<int>(std::min<TimeNs>(left_ns / 1'000'000 + 1, 1'000'000));
    }
    std::array<epoll_event, 16> events;
    epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  }
  SetAsleep(0);
  polls_ = 0;
}

// ---------------------------------------------------------------------------------------------

// Who waits in the lane, on `core`, shares that with this thread, or with the node whose request is
// the reason why it is answered: two of a call's three threads have one core. If that is not known,
// what was last said stands.
void Shard::TellSharing(const std::uint16_t& core, Lane* lane) {
  const bool is_here = core == fabric::ThisCore();
  has_answered_here_ = has_answered_here_ || is_here;
  const bool has_peer = asker_core_ != nullptr && asker_core_ != &core && *asker_core_ != 0;
  if (!is_here && !has_peer) return;
  // Relaxed: ordered by the store of done_id.
  lane->shares_core.store(is_here || *asker_core_ == core ? 1 : 0, std::memory_order_relaxed);
}

void Shard::Answer(const scheduler::Waiter& to, const Reply& reply, std::uint64_t payload_bytes) {
  if (!node_[to.node]) return;
  NodeState& state = *node_[to.node];
  Lane* lane = state.port->lane(to.lane);
  // Acquire: the lane's last reply may be another shard's (its store of done_id); the node confirms
  // the same through the request that we answer.
  (void)lane->done_id.load(std::memory_order_acquire);
  lane->SetReply(reply);
  const bool is_said = to.lane < state.core.size() && state.core[to.lane] != 0;
  if (is_said) TellSharing(state.core[to.lane], lane);
  if (is_link_emulated_) {
    lane->SetVisibleAt(state.to_node.VisibleAt(now_ns_, fabric::kCacheLineBytes + payload_bytes,
                                               /*is_call=*/false));
  }
  // Sequentially consistent: the reply is published before WakeAnswered looks whether its reader
  // sleeps (doorbell.h), and after its content (partner: the acquire load of the waiting thread).
  lane->done_id.store(to.request_id);
  answered_.push_back(lane);
}

void Shard::AnswerWith(const scheduler::Waiter& to, const Reply& reply, BytesView payload) {
  if (!node_[to.node]) return;
  Lane* lane = node_[to.node]->port->lane(to.lane);
  (void)lane->done_id.load(std::memory_order_acquire);  // as in Answer
  lane->SetPayload(payload.data(), payload.size());
  Reply with = reply;
  with.extent_offset = fabric::kInLane + payload.size();
  Answer(to, with, payload.size());
}

std::uint64_t Shard::StagedBytes(NodeId node, std::uint16_t lane) {
  // Sequentially consistent for the sleep hand-shake: a slice published after we announced our
  // sleep is either seen here or rung for.
  return node_[node]->port->lane(lane)->staged_bytes.load();
}

const std::byte* Shard::Staging(NodeId node, std::uint16_t lane) {
  return node_[node]->port->staging(lane);
}

void Shard::SetDrained(NodeId node, std::uint16_t lane, std::uint64_t bytes) {
  // Release: our reads of the slice end before the node overwrites it; partner: the acquire load
  // in the node's upload.
  node_[node]->port->lane(lane)->drained_bytes.store(bytes, std::memory_order_release);
}

void Shard::Nudge(NodeId node) {
  if (!node_[node]) return;
  const auto nudge = static_cast<std::uint32_t>(fabric::Notice::kNudge);
  // MSG_DONTWAIT: a node that does not read its socket cannot hold us up.
  [[maybe_unused]] const ssize_t sent =
      send(node_[node]->socket, &nudge, sizeof(nudge), MSG_DONTWAIT | MSG_NOSIGNAL);
}

// From within a home: the list of nodes may be being walked, so the rest follows as a job.
void Shard::Fence(NodeId node, const FenceReason& reason) {
  node_[node]->invalidations.Fence();
  Post([this, node] { FenceNode(node); });
  observer_.on_fenced(node, reason);
}

void Shard::OnNodeForgotten(NodeId node) { observer_.on_forgotten(node); }

void Shard::OnDamaged(const Pool* pool, std::string_view key, std::uint64_t extent) {
  spdlog::error("pool {}: {} at {:#x} of {} is damaged, and lost: its checksum is wrong",
                pool->options().name, key.empty() ? "an object" : "object " + Quoted(key), extent,
                pool->options().backing);
}

// By mail: a group over several shards is rare beside puts, and its messages may be of any size.
void Shard::SendToHome(const Pool* pool, int shard, GroupMessage message) {
  const auto pool_index = std::find(pools_.begin(), pools_.end(), pool) - pools_.begin();
  Shard* to = shards_[static_cast<std::size_t>(shard)];
  to->Post([to, pool_index, message = std::move(message)]() mutable {
    to->home(static_cast<int>(pool_index)).OnGroupMessage(std::move(message), to->now_ns_);
    to->WakeAnswered();
  });
}

// By mail as well: one for all that one write of the log has made durable.
void Shard::PostLogged(int pool_index, std::vector<LogOutcome> outcomes) {
  Post([this, pool_index, outcomes = std::move(outcomes)] {
    home(pool_index).OnLogged(outcomes, now_ns_);
    WakeAnswered();
  });
}

void Shard::Issue(NodeId node, std::uint64_t sequence, const fabric::Invalidation& invalidation) {
  NodeState& state = *node_[node];
  fabric::Invalidation stamped = invalidation;
  if (is_link_emulated_) {
    stamped.visible_at_ns = state.to_node.VisibleAt(now_ns_, sizeof(stamped), /*is_call=*/false);
  }
  state.invalidations.Issue(sequence, stamped);
}

void Shard::IssueDropAll(NodeId node, std::uint64_t sequence) {
  node_[node]->invalidations.IssueDropAll(sequence);
}

std::uint64_t Shard::Acknowledged(NodeId node) {
  return node_[node] ? node_[node]->invalidations.Acknowledged() : 0;
}

const fabric::HoldTable& Shard::Holds(NodeId node) { return *node_[node]->port->holds(); }

}  // namespace apta::daemon
