// Time, the home's turns, links and faults.

#include "tests/sim/world.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "fabric/hash.h"
#include "fmt/format.h"

namespace apta::sim {

using fabric::Port;
using fabric::Reply;
using fabric::Request;

namespace {

// Ports are made once and cleared for each use: their staging areas are large, and rarely touched.
class Ports {
 public:
  Port* Take() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<Port>(*Port::Create(0, 1)));
      return all_.back().get();
    }
    Port* port = free_.back();
    free_.pop_back();
    std::memset(static_cast<void*>(port->invalidations(0)), 0, sizeof(fabric::InvalidationRing<>));
    std::memset(static_cast<void*>(port->holds()), 0, sizeof(fabric::HoldTable));
    std::memset(static_cast<void*>(port->lane(0)), 0, sizeof(fabric::Lane) * fabric::kLanes);
    return port;
  }
  void Give(Port* port) { free_.push_back(port); }

 private:
  std::vector<std::unique_ptr<Port>> all_;
  std::vector<Port*> free_;
};
Ports g_ports;

}  // namespace

World::World(const Profile& profile, std::size_t trace_lines)
    : profile_(profile),
      random_(profile.seed * 0x9e37'79b9'7f4a'7c15u + 1),
      operations_left_(profile.operations),
      trace_lines_(trace_lines) {
  for (std::uint64_t i = 0; i < profile_.keys; ++i) {
    key_name_.push_back(fmt::format("key{}", i));
    key_hash_.push_back(fabric::KeyHash(key_name_.back()));
  }
  if (profile_.logged) disk_.emplace();
  if (profile_.restart_every > 0 && !profile_.logged) {
    region_path_ = fmt::format("/dev/shm/apta-sim-{}-{}", getpid(), profile.seed);
    std::filesystem::remove(region_path_);
  }
}

World::~World() {
  for (const auto& node : nodes_) Kill(node.get());
  home_.reset();
  log_.reset();
  pool_.reset();
  for (Slot& slot : slots_) {
    if (slot.port != nullptr) g_ports.Give(slot.port);
  }
  if (!region_path_.empty()) std::filesystem::remove(region_path_);
}

void World::At(TimeNs time_ns, Step step) {
  events_.push({std::max(time_ns, now_ns_), ++last_order_, std::move(step)});
}

void World::AtNode(TimeNs time_ns, Node* node, Step step) {
  At(time_ns, [this, node, incarnation = node->incarnation, step = std::move(step)] {
    if (!node->attached || node->incarnation != incarnation) return;
    if (node->stalled_until_ns > now_ns_) {
      AtNode(node->stalled_until_ns + Random(500), node, step);
      return;
    }
    step();
  });
}

void World::TraceLine(const std::string& line) {
  trace_.push_back(fmt::format("{:>9} {}", now_ns_, line));
  if (trace_.size() > trace_lines_) trace_.pop_front();
}

void World::Fail(const std::string& what) {
  if (outcome_.failure.empty()) outcome_.failure = fmt::format("at {} ns: {}", now_ns_, what);
}

// --- the home

void World::OpenPool() {
  PoolOptions options{
      .name = "sim",
      .bytes = kPoolBytes,
      .coherence = std::string(fabric::kCoherenceNames[static_cast<std::size_t>(profile_.mode)]),
      .directory_entries = profile_.directory_entries,
      .ack_deadline_ms = profile_.ack_deadline_ms,
      .node_quota_bytes = profile_.node_quota_bytes};
  if (!region_path_.empty()) options.backing = "file:" + region_path_;
  absl::StatusOr<std::unique_ptr<daemon::Pool>> pool = daemon::Pool::Open(options, 1);
  if (!pool.ok()) {
    Fail(std::string(pool.status().message()));
    return;
  }
  pool_ = *std::move(pool);
  server_ = std::make_shared<Server>();
  if (disk_) OpenLog();
  if (profile_.restart_every == 0) return;
  auto region = fabric::Region::Map(*pool_->region().client_fd(), pool_->region().size_bytes(),
                                    /*writable=*/false);
  server_->region = *std::move(region);
}

void World::StartHome() {
  daemon::NodeGate* const gate = this;
  home_.emplace(pool_.get(), 0, /*hosts_functions=*/true, gate,
                scheduler::FindPolicy(
                    scheduler::kPolicyNames[profile_.policy % std::size(scheduler::kPolicyNames)]));
  ++home_incarnation_;
  HomeTurn();
}

// One poll of the home's thread; it comes again after a while, as a thread does that shares a core.
void World::HomeTurn() {
  PollHome();
  At(now_ns_ + 50 + Random(2'000), [this, incarnation = home_incarnation_] {
    if (incarnation == home_incarnation_) HomeTurn();
  });
}

void World::PollHome() {
  if (!home_) return;  // between two memory servers
  std::vector<Node*> order;
  for (const auto& node : nodes_) {
    if (node->attached && !node->fenced && !node->is_orphan) order.push_back(node.get());
  }
  std::shuffle(order.begin(), order.end(), random_);
  for (Node* node : order) {
    for (int taken = 0; taken < 3; ++taken) {
      if (node->fenced || node->requests.empty() || node->requests.front().first > now_ns_) break;
      StepRequest(node);
    }
  }
  home_->Poll(now_ns_);
  // A home asks before it sleeps, and it sleeps only when nobody wants anything any more.
  if (profile_.agents_sleep && NobodyWaits()) home_->NudgeOwing();
  CheckInvariants();
}

// Within a node's step, between its reads of memory that the home writes.
void World::Interleave() {
  if (!Chance(3)) return;
  for (std::uint64_t polls = Random(3) + 1; polls > 0; --polls) PollHome();
}

void World::StepRequest(Node* node) {
  const Request request = node->requests.front().second;
  node->requests.pop_front();
  answered_ = 0;
  const bool is_good = home_->Step(node->slot, request, now_ns_);
  if (!is_good) Fail(fmt::format("the home refused a request of n{}", node->index));
  // Invariant 1 of protocol.md: what concerns an object is answered in the same step, in every mode
  // but sync, unless its payload is still on its way.
  const bool concerns_object = request.op <= fabric::Op::kStat;
  const bool is_whole = (request.flags & fabric::kBodyStaged) == 0;
  const bool may_wait = disk_ && request.op != fabric::Op::kGet && request.op != fabric::Op::kStat;
  if (concerns_object && is_whole && !may_wait && profile_.mode != Coherence::kSync &&
      answered_ == 0) {
    Fail(fmt::format("a request of n{} waits at the home", node->index));
  }
  if ((request.flags & fabric::kHasEffects) != 0 && request.op == fabric::Op::kReady) {
    const Thread& thread = node->threads[request.lane];
    JudgeEffects(thread.group_index, thread.token);
  }
  CheckInvariants();
}

// --- processes

void World::Attach(Node* node) {
  NodeId slot = 0;
  while (slots_[slot].port != nullptr) ++slot;
  ++node->incarnation;
  node->slot = slot;
  node->attached = true;
  node->fenced = false;
  node->port = g_ports.Take();
  slots_[slot] = {.port = node->port, .node = node, .answered_ns = now_ns_};
  node->told = {};
  node->issuer.emplace(node->port->invalidations(0));
  node->pins = compute::PinDomain::Acquire();
  node->is_orphan = false;
  node->server = server_;
  fabric::IndexView view = pool_->share(0).index.view();
  if (server_->region) view = fabric::IndexView(server_->region->data(), *pool_->superblock());
  node->cache = std::make_unique<compute::Cache>(view, profile_.mode, profile_.cache_bytes, 1,
                                                 node->port, node->pins, profile_.link.enabled(),
                                                 fabric::LifeView(&server_->life));
  const std::uint64_t link_seed = random_();
  node->to_home = fabric::LinkDirection(profile_.link, link_seed);
  node->to_node = fabric::LinkDirection(profile_.link, link_seed / 3);
  node->threads.clear();
  node->threads.resize(static_cast<std::size_t>(profile_.threads));
  home_->AttachNode(slot);
  Trace("n{} attaches as {}", node->index, slot);
  StartNode(node);
}

// Its memory is gone with all that it had begun; the home learns of it a little later.
void World::Kill(Node* node) {
  if (!node->attached) return;
  node->attached = false;
  node->stalled_until_ns = 0;
  node->requests.clear();
  for (Held& held : node->held) {
    if (held.got.pinned) held.got.pinned->pin->Drop();
  }
  node->held.clear();
  for (Thread& thread : node->threads) {
    thread.get.reset();
    thread.put.reset();
    thread.puts.clear();
    DropCut(&thread);
  }
  node->cache.reset();
  compute::PinDomain::Return(node->pins);
  if (node->is_orphan) {
    g_ports.Give(node->port);
  } else {
    slots_[node->slot].node = nullptr;
  }
  node->server.reset();
}

void World::Forget(Node* node, NodeId slot, TimeNs after_ns) {
  At(now_ns_ + after_ns, [this, slot, incarnation = home_incarnation_] {
    if (incarnation != home_incarnation_) return;
    a_node_dies_ = true;
    home_->ForgetNode(slot);
    a_node_dies_ = false;
  });
  AttachAgain(node, after_ns + Random(200'000));
}

void World::AttachAgain(Node* node, TimeNs after_ns) {
  At(now_ns_ + after_ns, [this, node] {
    if (node->attached || !outcome_.failure.empty()) return;
    if (home_) {
      Attach(node);
    } else {
      AttachAgain(node, 1 + Random(100'000));
    }
  });
}

// The node has found that its session is over: what it had under way ends unknown, it lets go of
// what it reads, hangs up and comes back with an empty cache.
void World::LoseSession(Node* node) {
  Trace("n{} finds its session over", node->index);
  if (!node->is_orphan) CheckHeld(node);
  EndProcess(node, Random(20'000));
}

// Its memory server learns of it after a while, if that still lives.
void World::EndProcess(Node* node, TimeNs after_ns) {
  const bool was_orphan = node->is_orphan;
  const NodeId slot = node->slot;
  Kill(node);
  if (was_orphan) {
    AttachAgain(node, after_ns);
  } else {
    Forget(node, slot, after_ns);
  }
}

// The memory server is killed, and another one is at work before nodes that are stopped continue:
// they have their caches and do not know. Those that run know at once.
void World::Restart() {
  if (!home_) return;
  Trace("the memory server is killed");
  ++outcome_.restarts;
  outcome_.evictions += home_->counters().directory_evictions;
  outcome_.untracked += home_->counters().untracked;
  server_->life.store(0);
  for (const auto& node : nodes_) {
    if (!node->attached) continue;
    CheckHeld(node.get());
    const TimeNs stopped_until_ns = std::max(node->stalled_until_ns, now_ns_ + Random(1'000'000));
    if (!Chance(2)) {
      Kill(node.get());
      continue;
    }
    Orphan(node.get());
    node->stalled_until_ns = stopped_until_ns;
    AtNode(stopped_until_ns + Random(20'000), node.get(),
           [this, orphan = node.get()] { LoseSession(orphan); });
  }
  ++home_incarnation_;
  home_.reset();
  if (disk_) CrashLog();
  pool_.reset();
  for (Slot& slot : slots_) {
    if (slot.port != nullptr) g_ports.Give(slot.port);
    slot = {};
  }
  rounds_.clear();
  deferred_.clear();
  OpenPool();
  if (pool_ == nullptr) return;
  At(now_ns_ + Random(100'000), [this] { StartHome(); });
  for (const auto& node : nodes_) {
    if (!node->attached) AttachAgain(node.get(), 100'000 + Random(100'000));
  }
}

// What it still reads may change under it: README.md, "Limits of this version".
void World::Orphan(Node* node) {
  Trace("n{} is stopped meanwhile", node->index);
  ++outcome_.orphans;
  node->is_orphan = true;
  node->requests.clear();
  for (Held& held : node->held) {
    if (held.got.pinned) held.got.pinned->pin->Drop();
  }
  node->held.clear();
  slots_[node->slot] = {};  // the port is the node's now
}

void World::MaybeFault() {
  Node* victim = nodes_[Random(nodes_.size())].get();
  if (Chance(profile_.kill_every) && victim->attached) {
    Trace("n{} is killed", victim->index);
    ++outcome_.kills;
    EndProcess(victim, 500 + Random(60'000));
  } else if (Chance(profile_.stall_every) && victim->attached) {
    const TimeNs stall_ns = Chance(3) ? Random(6'000'000) : Random(200'000);
    Trace("n{} is stopped for {} ns", victim->index, stall_ns);
    ++outcome_.stalls;
    victim->stalled_until_ns = std::max(victim->stalled_until_ns, now_ns_ + stall_ns);
  } else if (Chance(profile_.restart_every)) {
    At(Soon(), [this] { Restart(); });
  } else if (Chance(profile_.disk_fault_every)) {
    FailDisk();
  }
}

bool World::NobodyWaits() const {
  return operations_left_ == 0 && std::all_of(nodes_.begin(), nodes_.end(), [](const auto& node) {
           return std::none_of(node->threads.begin(), node->threads.end(),
                               [](const Thread& thread) { return thread.busy; });
         });
}

bool World::IsQuiet() const {
  return NobodyWaits() && std::all_of(nodes_.begin(), nodes_.end(), [&](const auto& node) {
           return node->attached && !node->is_orphan && node->held.empty() &&
                  node->requests.empty() && node->stalled_until_ns <= now_ns_;
         });
}

std::string World::WhoIsBusy() const {
  std::string who;
  for (const auto& node : nodes_) {
    who += fmt::format("n{}: attached {} held {} requests {} ", node->index, node->attached,
                       node->held.size(), node->requests.size());
    for (const Thread& thread : node->threads) {
      if (!thread.busy) continue;
      who +=
          fmt::format("lane {} waits for #{} of {}; ", thread.lane, thread.request_id, thread.key);
    }
  }
  return who;
}

Outcome World::Run() {
  fabric::t_interleaved = [this] { Interleave(); };
  fabric::t_witness = [this](fabric::Asked asked, std::uint64_t key_hash, std::uint32_t node,
                             bool has_answered) {
    WitnessOtc(asked, key_hash, static_cast<NodeId>(node), has_answered);
  };
  OpenPool();
  for (std::uint64_t i = 0; i < profile_.nodes && pool_ != nullptr; ++i) {
    nodes_.push_back(std::make_unique<Node>());
    nodes_.back()->index = static_cast<int>(i);
  }
  if (pool_ != nullptr) {
    StartHome();
    for (const auto& node : nodes_) Attach(node.get());
  }
  TimeNs quiet_since_ns = 0;
  while (outcome_.failure.empty() && !events_.empty()) {
    // const_cast: the queue gives no other way to move out of it.
    Event event = std::move(const_cast<Event&>(events_.top()));
    events_.pop();
    now_ns_ = event.time_ns;
    event.step();
    if (now_ns_ > progress_ns_ + 100'000'000) Fail("it does not come to rest: " + WhoIsBusy());
    if (!IsQuiet()) {
      quiet_since_ns = 0;
    } else if (quiet_since_ns == 0) {
      quiet_since_ns = now_ns_;
    } else if (now_ns_ - quiet_since_ns > 3'000'000) {  // agents have had their turns
      break;
    }
  }
  fabric::t_interleaved = nullptr;
  fabric::t_witness = nullptr;
  if (outcome_.failure.empty()) CheckEnd();
  outcome_.operations = history_.size();
  outcome_.scheduled_gets = scheduled_.size();
  outcome_.trace.assign(trace_.begin(), trace_.end());
  return outcome_;
}

// --- NodeGate

const std::string& World::NameOf(std::uint64_t key_hash) const {
  const auto found = std::find(key_hash_.begin(), key_hash_.end(), key_hash);
  return key_name_[static_cast<std::size_t>(found - key_hash_.begin())];
}

World::Node* World::AtSlot(NodeId slot) {
  Node* node = slots_[slot].node;
  return node != nullptr && node->attached && node->slot == slot ? node : nullptr;
}

void World::Issue(NodeId slot, std::uint64_t sequence, const fabric::Invalidation& record) {
  Node* node = AtSlot(slot);
  if (node == nullptr) return;  // dead, and not known to be
  fabric::Invalidation stamped = record;
  if (profile_.link.enabled()) {
    stamped.visible_at_ns = node->to_node.VisibleAt(now_ns_, sizeof(stamped), false);
  }
  Trace("home invalidates n{} #{}: {} older than v{}", node->index, sequence,
        NameOf(record.key_hash), record.version);
  if (Upholds(fabric::Rule::kInvalidateBeforeCommit)) {
    node->issuer->Issue(sequence, stamped);
    return;
  }
  // Published when the home has long committed and answered.
  At(now_ns_ + 3'000, [this, slot, incarnation = node->incarnation, sequence, stamped] {
    Node* late = AtSlot(slot);
    if (late != nullptr && late->incarnation == incarnation) late->issuer->Issue(sequence, stamped);
  });
}

void World::IssueDropAll(NodeId slot, std::uint64_t sequence) {
  Node* node = AtSlot(slot);
  if (node == nullptr) return;
  Trace("home tells n{} to drop all up to #{}", node->index, sequence);
  ++outcome_.overflows;
  node->issuer->IssueDropAll(sequence);
}

std::uint64_t World::Acknowledged(NodeId slot) {
  return slots_[slot].port->invalidations(0)->acknowledged.load();
}

const fabric::HoldTable& World::Holds(NodeId slot) { return *slots_[slot].port->holds(); }

void World::Answer(const scheduler::Waiter& to, const Reply& reply, std::uint64_t payload_bytes) {
  ++answered_;
  Node* node = AtSlot(to.node);
  if (node == nullptr || node->fenced || to.lane >= node->threads.size()) return;
  Thread* thread = &node->threads[to.lane];
  Trace("home -> n{}.{} #{}: {}", node->index, to.lane, to.request_id,
        reply.code == 0
            ? fmt::format("v{} at {:x}", reply.version, reply.extent_offset)
            : fmt::format("code {}, reason {}", reply.code, static_cast<int>(reply.reason)));
  TimeNs visible_ns = now_ns_;
  if (profile_.link.enabled()) {
    visible_ns = node->to_node.VisibleAt(now_ns_, fabric::kCacheLineBytes + payload_bytes, false);
  }
  AtNode(visible_ns + 20 + Random(Chance(8) ? 20'000 : 300), node,
         [thread, id = to.request_id, reply, answered_ns = now_ns_] {
           if (thread->request_id == id && thread->on_reply) {
             thread->answered_ns = answered_ns;
             const auto on_reply = std::exchange(thread->on_reply, nullptr);
             on_reply(reply);
           }
         });
}

std::uint64_t World::StagedBytes(NodeId slot, std::uint16_t lane) {
  return slots_[slot].port->lane(lane)->staged_bytes.load();
}
const std::byte* World::Staging(NodeId slot, std::uint16_t lane) {
  return slots_[slot].port->staging(lane);
}
void World::SetDrained(NodeId slot, std::uint16_t lane, std::uint64_t bytes) {
  slots_[slot].port->lane(lane)->drained_bytes.store(bytes);
}

void World::Nudge(NodeId slot) {
  Node* node = AtSlot(slot);
  if (node == nullptr) return;
  AtNode(now_ns_ + 2'000 + Random(40'000), node, [this, node] { AgentTurn(node, true); });
}

void World::Fence(NodeId slot, const daemon::FenceReason&) {
  CheckFence(slot);
  Node* node = AtSlot(slot);
  if (node == nullptr) return;
  Trace("home fences n{}", node->index);
  node->fenced = true;
  node->requests.clear();
  node->issuer->Fence();
  AtNode(now_ns_ + 5'000 + Random(100'000), node, [this, node] { LoseSession(node); });
}

void World::OnNodeForgotten(NodeId slot) {
  g_ports.Give(slots_[slot].port);
  slots_[slot] = {};
}

}  // namespace apta::sim
