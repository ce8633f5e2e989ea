// Processes, links, homes.

#include "tools/apta-sim/cluster.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "fabric/hash.h"
#include "fabric/region.h"
#include "fmt/format.h"
#include "scheduler/placement.h"

namespace apta::perf {

using fabric::kCacheLineBytes;
using fabric::NodeId;
using fabric::Op;
using fabric::Reply;
using fabric::Request;

namespace {

// How often homes are polled for what only time brings: debts and deadlines.
constexpr TimeNs kTickNs = 1'000'000;

}  // namespace

// One home's way to the nodes.
struct Cluster::Gate final : daemon::NodeGate {
  Gate(Cluster* its_cluster, int its_shard) : cluster(its_cluster), shard(its_shard) {}

  void Issue(NodeId node, std::uint64_t sequence, const fabric::Invalidation& record) override {
    cluster->Issue(shard, node, sequence, record);
  }
  void IssueDropAll(NodeId node, std::uint64_t sequence) override {
    cluster->IssueDropAll(shard, node, sequence);
  }
  std::uint64_t Acknowledged(NodeId node) override {
    return cluster->nodes_[node].acknowledged[Index(shard)];
  }
  const fabric::HoldTable& Holds(NodeId node) override {
    return *cluster->nodes_[node].port->holds();
  }
  void Answer(const scheduler::Waiter& to, const Reply& reply,
              std::uint64_t payload_bytes) override {
    cluster->Answer(shard, to, reply, payload_bytes, 0);
  }
  void AnswerWith(const scheduler::Waiter& to, const Reply& reply, BytesView payload) override {
    std::uint64_t token = 0;
    std::memcpy(&token, payload.data(), std::min(payload.size(), sizeof(token)));
    Reply with = reply;
    with.extent_offset = fabric::kInLane + payload.size();
    cluster->Answer(shard, to, with, 0, token);
  }
  // Time passes before a request's step: then its body is there, as a whole.
  std::uint64_t StagedBytes(NodeId, std::uint16_t) override { return ~std::uint64_t{0} >> 1; }
  const std::byte* Staging(NodeId, std::uint16_t) override { return cluster->staging_.data(); }
  void SetDrained(NodeId, std::uint16_t, std::uint64_t) override {}
  void Nudge(NodeId slot) override {
    Node* const node = cluster->AtSlot(slot);
    if (node == nullptr) return;
    cluster->AtNode(cluster->Down(node, shard, kCacheLineBytes), node,
                    [this, node] { cluster->Apply(node, shard); });
  }
  void Fence(NodeId slot, const daemon::FenceReason&) override {
    ++cluster->metrics_->fenced;
    if (cluster->AtSlot(slot) != nullptr) cluster->Kill(slot);
  }
  void OnNodeForgotten(NodeId slot) override {
    Node& node = cluster->nodes_[slot];
    if (++node.homes_that_know < static_cast<int>(cluster->shards_.size())) return;
    cluster->events_->At(
        cluster->now() + static_cast<TimeNs>(cluster->scenario_.faults.restart_us * 1000),
        [its_cluster = cluster, &node] {
          if (&node == &its_cluster->nodes_.back()) return;  // the loader
          its_cluster->Attach(&node);
          if (its_cluster->on_attached_) its_cluster->on_attached_(node.index);
        });
  }
  void OnDamaged(const daemon::Pool*, std::string_view, std::uint64_t) override {}  // never
  void SendToHome(const daemon::Pool*, int to, daemon::GroupMessage message) override {
    cluster->events_->At(cluster->now(), [its_cluster = cluster, to, message = std::move(message)] {
      its_cluster->shards_[Index(to)].home->OnGroupMessage(message, its_cluster->now());
    });
  }

  Cluster* const cluster;
  const int shard;
};

Cluster::Cluster(const Scenario& scenario, EventQueue* events, Metrics* metrics)
    : scenario_(scenario),
      copies_(!fabric::TracksSharers(scenario.coherence())),
      events_(events),
      metrics_(metrics),
      random_(scenario.seed * 0x9e37'79b9'7f4a'7c15u + 1),
      shards_(static_cast<std::size_t>(scenario.servers.shards)),
      nodes_(static_cast<std::size_t>(scenario.servers.compute) + 2),
      staging_(fabric::kStagingBytes) {
  for (std::size_t i = 0; i < nodes_.size(); ++i) nodes_[i].index = static_cast<int>(i);
}

Cluster::~Cluster() {
  on_attached_ = nullptr;
  for (Node& node : nodes_) {
    DropOperations(&node);
    node.cache.reset();
    if (node.pins != nullptr) compute::PinDomain::Return(node.pins);
  }
}

absl::Status Cluster::Open() {
  const auto shards = static_cast<int>(shards_.size());
  auto pool = daemon::Pool::Open(
      {.name = "sim",
       .bytes = static_cast<std::uint64_t>(
           std::max<std::int64_t>(16 << 20, scenario_.memory.pool_bytes / scenario_.memory.scale)),
       .coherence = scenario_.mode,
       .directory_entries = static_cast<std::uint64_t>(scenario_.memory.directory_entries),
       .ack_deadline_ms = static_cast<std::uint64_t>(scenario_.memory.ack_deadline_ms)},
      shards);
  if (!pool.ok()) return pool.status();
  pool_ = *std::move(pool);
  const LinkOptions own{.latency_ns = static_cast<std::uint64_t>(scenario_.link.latency_ns),
                        .bandwidth_gbps = scenario_.link.memory_gbps};
  for (int i = 0; i < shards; ++i) {
    Shard& shard = shards_[Index(i)];
    shard.gate = std::make_unique<Gate>(this, i);
    shard.home = std::make_unique<daemon::Home>(pool_.get(), i, i == 0, shard.gate.get(),
                                                scheduler::FindPolicy(scenario_.policy));
    shard.in = shard.out = fabric::LinkDirection(own, 1);
    PollHome(i);
  }
  for (Node& node : nodes_) Attach(&node);
  return absl::OkStatus();
}

void Cluster::Attach(Node* node) {
  const LinkOptions link{.latency_ns = static_cast<std::uint64_t>(scenario_.link.latency_ns),
                         .bandwidth_gbps = scenario_.link.bandwidth_gbps,
                         .call_ns = static_cast<std::uint64_t>(scenario_.link.call_ns)};
  const auto shards = static_cast<int>(shards_.size());
  ++node->incarnation;
  node->attached = true;
  node->homes_that_know = 0;
  node->port.emplace(*fabric::Port::Create(SlotOf(*node), shards));
  node->pins = compute::PinDomain::Acquire();
  node->table = node->pins->ThreadTable();
  // What delays records is the events, which apply them when they are there.
  node->cache = std::make_unique<compute::Cache>(
      pool_->share(0).index.view(), scenario_.coherence(),
      static_cast<std::uint64_t>(scenario_.memory.cache_bytes / scenario_.memory.scale), shards,
      &*node->port, node->pins, /*emulates_link=*/true);
  node->to_home = node->to_node = fabric::LinkDirection(link, 1);
  node->lanes.assign(fabric::kLanes, Lane{});
  node->published.assign(shards_.size(), 0);
  node->acknowledged.assign(shards_.size(), 0);
  node->sent.assign(shards_.size(), {});
  for (Shard& shard : shards_) {
    shard.home->AttachNode(SlotOf(*node), fmt::format("c{}", node->index + 1));
  }
  PlanFailure(node);
}

void Cluster::PlanFailure(Node* node) {
  const double hours = scenario_.faults.hours_between_failures;
  if (hours == 0 || node->index >= driver()) return;
  const double wait_ns =
      -std::log(1 - std::generate_canonical<double, 53>(random_)) * hours * 3.6e12;
  AtNode(now() + static_cast<TimeNs>(wait_ns), node, [this, node] {
    ++metrics_->failures;
    Kill(node->index);
  });
}

void Cluster::Kill(int index) {
  Node& node = NodeOf(index);
  if (!node.attached) return;
  node.attached = false;
  for (const Lane& lane : node.lanes) metrics_->failed += lane.on_reply ? 1 : 0;
  DropOperations(&node);
  events_->At(now() + static_cast<TimeNs>(scenario_.faults.detect_us * 1000),
              [this, index] { Forget(index); });
}

// Events that carry them may be to come, and find that the node is not what it was.
void Cluster::DropOperations(Node* node) {
  node->followers.clear();
  for (Lane& lane : node->lanes) {
    lane.on_reply = nullptr;
    if (lane.get != nullptr) lane.get->get.reset();
    lane.get.reset();
  }
}

// The homes learn of a death.
void Cluster::Forget(int index) {
  Node& node = NodeOf(index);
  node.cache.reset();
  compute::PinDomain::Return(std::exchange(node.pins, nullptr));
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    shards_[i].home->ForgetNode(SlotOf(node));
    PollHome(static_cast<int>(i));
  }
}

void Cluster::AtNode(TimeNs time_ns, Node* node, EventQueue::Step step) {
  events_->At(time_ns, [node, incarnation = node->incarnation, step = std::move(step)] {
    if (node->attached && node->incarnation == incarnation) step();
  });
}

void Cluster::After(int node, double ns, EventQueue::Step step) {
  AtNode(now() + static_cast<TimeNs>(ns + 0.5), &NodeOf(node), std::move(step));
}

// --- loading

absl::Status Cluster::Load(const std::string& key, std::uint64_t bytes) {
  Node& loader = nodes_.back();
  const std::uint64_t key_hash = fabric::KeyHash(key);
  Request request{};
  request.op = Op::kPut;
  request.flags = fabric::kBodyStaged;
  request.request_id = 1;
  request.argument = fabric::kAnyVersion;
  request.key_bytes = static_cast<std::uint16_t>(key.size());
  request.payload_bytes = Stored(bytes) & fabric::kMaxPayloadBytes;
  loaded_.reset();
  StepHome({.node = loader.index,
            .incarnation = loader.incarnation,
            .shard = ShardOf(key_hash),
            .request = request,
            .staged_key = key,
            .cost_ns = 0});
  if (loaded_ && loaded_->code == 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("no room for the workload's objects in [memory] bytes = {}: say more, or "
                  "a larger [memory] scale",
                  scenario_.memory.pool_bytes));
}

void Cluster::EndLoading() {
  nodes_.back().attached = false;
  Forget(nodes_.back().index);
  is_loading_ = false;
  for (Shard& shard : shards_) shard.busy_ns = 0;
  *metrics_ = Metrics{.begin_ns = now(), .max_spans = metrics_->max_spans};
  Tick();
}

// --- links

int Cluster::ShardOf(std::uint64_t key_hash) const {
  return static_cast<int>(pool_->share(0).index.view().ShardOf(key_hash));
}

std::uint64_t Cluster::Stored(std::uint64_t bytes) const {
  const auto scale = static_cast<std::uint64_t>(scenario_.memory.scale);
  return (bytes + scale - 1) / scale;
}

// What an object takes beyond its bulk transfer when it travels line by line: so many lines are
// under way at a time, each for `round_trips`.
double Cluster::LinesNs(std::uint64_t bytes, int round_trips) const {
  const Scenario::Link& link = scenario_.link;
  if (link.transfer != "lines" || bytes == 0) return 0;
  const double lines = std::ceil(static_cast<double>(bytes) / kCacheLineBytes);
  const double windows = std::ceil(lines / static_cast<double>(link.lines_outstanding));
  const double window_bytes =
      std::min(lines, static_cast<double>(link.lines_outstanding)) * kCacheLineBytes;
  const double window_ns = link.bandwidth_gbps == 0 ? 0 : window_bytes * 8 / link.bandwidth_gbps;
  // A window's round trip hides its own transfer, or the other way round; the first one's is the
  // request's.
  const double stall_ns = std::max(0.0, 2 * link.latency_ns * round_trips - window_ns);
  return (windows - 1) * stall_ns + (round_trips - 1) * 2 * link.latency_ns;
}

TimeNs Cluster::Jitter() {
  const Scenario::Link& link = scenario_.link;
  if (link.jitter == "none" || is_loading_) return 0;
  double ns = 0;
  if (link.jitter == "uniform") {
    ns = std::generate_canonical<double, 53>(random_) * link.jitter_ns;
  } else if (link.jitter == "exponential") {
    ns = -std::log(1 - std::generate_canonical<double, 53>(random_)) * link.jitter_ns;
  } else {
    ns = std::normal_distribution<double>(0, link.jitter_ns)(random_);
    ns = std::max(ns, -link.latency_ns);
  }
  return static_cast<TimeNs>(static_cast<std::int64_t>(std::llround(ns)));  // wraps as it must
}

TimeNs Cluster::Down(Node* node, int shard, std::uint64_t bytes) {
  metrics_->bytes_to_nodes += static_cast<double>(bytes);
  const TimeNs own_ns = node->to_node.VisibleAt(now(), bytes, false);
  return std::max(
      now(), std::max(own_ns, shards_[Index(shard)].out.VisibleAt(now(), bytes, false)) + Jitter());
}

TimeNs Cluster::Up(Node* node, int shard, std::uint64_t bytes, bool is_call) {
  metrics_->bytes_to_home += static_cast<double>(bytes);
  const TimeNs own_ns = node->to_home.VisibleAt(now(), bytes, is_call);
  return std::max(
      now(), std::max(own_ns, shards_[Index(shard)].in.VisibleAt(now(), bytes, false)) + Jitter());
}

// --- homes

void Cluster::Arrive(Message message) {
  Shard& shard = shards_[Index(message.shard)];
  // Costs are fractions of a nanosecond's multiple: what is left counts next time.
  const double cost_ns = message.cost_ns + shard.fraction_ns;
  const auto whole_ns = static_cast<TimeNs>(cost_ns);
  shard.fraction_ns = cost_ns - static_cast<double>(whole_ns);
  shard.busy_ns += message.cost_ns;
  shard.free_at_ns = std::max(shard.free_at_ns, now()) + whole_ns;
  events_->At(shard.free_at_ns, [this, message = std::move(message)] { StepHome(message); });
}

void Cluster::StepHome(const Message& message) {
  Node& node = NodeOf(message.node);
  if (!node.attached || node.incarnation != message.incarnation) return;
  Shard& shard = shards_[Index(message.shard)];
  std::memcpy(staging_.data(), message.staged_key.data(), message.staged_key.size());
  shard.issued = 0;
  shard.home->Step(SlotOf(node), message.request, now());
  PollHome(message.shard);
  if (shard.issued > 0) {
    const double oic_ns = scenario_.costs.oic_ns * static_cast<double>(shard.issued);
    shard.busy_ns += oic_ns;
    shard.free_at_ns = std::max(shard.free_at_ns, now()) + static_cast<TimeNs>(oic_ns);
    ++metrics_->invalidating_puts;
  }
  if (message.request.op == Op::kPut) {
    ++metrics_->owing_looks;
    metrics_->owing_nodes += static_cast<std::uint64_t>(shard.home->oic().owing().size());
  }
}

void Cluster::PollHome(int shard) {
  while (shards_[Index(shard)].home->Poll(now()) > 0) {
  }
}

void Cluster::Tick() {
  for (std::size_t i = 0; i < shards_.size(); ++i) PollHome(static_cast<int>(i));
  events_->At(now() + kTickNs, [this] { Tick(); });
}

void Cluster::Answer(int shard, const scheduler::Waiter& to, const Reply& reply,
                     std::uint64_t payload_bytes, std::uint64_t token) {
  if (is_loading_) {
    loaded_ = reply;
    return;
  }
  Node* const node = AtSlot(to.node);
  if (node == nullptr) return;
  const std::uint64_t bytes = payload_bytes * static_cast<std::uint64_t>(scenario_.memory.scale);
  const auto lines_ns = static_cast<TimeNs>(LinesNs(bytes, 1));
  AtNode(Down(node, shard, kCacheLineBytes + bytes) + lines_ns, node,
         [this, node, to, reply, token] {
           Lane& lane = node->lanes[to.lane];
           if (lane.request_id != to.request_id || !lane.on_reply) return;
           lane.token = token;
           const auto on_reply = std::exchange(lane.on_reply, nullptr);
           on_reply(reply);
           Settle(node);
         });
}

void Cluster::Issue(int shard, NodeId slot, std::uint64_t sequence,
                    const fabric::Invalidation& record) {
  Node& node = nodes_[slot];
  if (!node.attached) return;
  if (is_loading_) {  // the loader caches nothing
    node.acknowledged[Index(shard)] = sequence;
    return;
  }
  ++metrics_->invalidations;
  ++shards_[Index(shard)].issued;
  node.sent[Index(shard)].push_back({sequence, now()});
  fabric::Invalidation stamped = record;
  stamped.visible_at_ns =
      Down(&node, shard, kCacheLineBytes) + static_cast<TimeNs>(scenario_.costs.agent_ns);
  fabric::InvalidationIssuer<>(node.port->invalidations(shard)).Issue(sequence, stamped);
  AtNode(stamped.visible_at_ns, &node, [this, &node, shard] { Apply(&node, shard); });
}

void Cluster::IssueDropAll(int shard, NodeId slot, std::uint64_t sequence) {
  Node& node = nodes_[slot];
  if (!node.attached) return;
  if (is_loading_) {
    node.acknowledged[Index(shard)] = sequence;
    return;
  }
  ++metrics_->overflows;
  node.sent[Index(shard)].push_back({sequence, now()});
  fabric::InvalidationIssuer<>(node.port->invalidations(shard)).IssueDropAll(sequence);
  AtNode(Down(&node, shard, kCacheLineBytes), &node, [this, &node, shard] { Apply(&node, shard); });
}

void Cluster::FillMetrics() const {
  metrics_->end_ns = now();
  for (const Shard& shard : shards_) {
    metrics_->home_busy_ns += shard.busy_ns;
    metrics_->max_home_busy_ns = std::max(metrics_->max_home_busy_ns, shard.busy_ns);
    metrics_->directory_evictions += shard.home->counters().directory_evictions;
    metrics_->untracked += shard.home->counters().untracked;
  }
}

}  // namespace apta::perf
