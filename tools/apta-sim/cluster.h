// A memory server and its compute servers in virtual time: homes, the Executor Manager, GETC, PUTC
// and caches are those that ship, driven by events; links, costs and failures are the scenario's.
//
// Where time passes: a request waits for its links (the node's, and the home's own, shared by all)
// and for its home, which serves one after the other; a reply for the links back. What a home sends
// beside a reply (invalidations) takes links and the home's OIC, and nobody waits for it but what
// the controllers let wait. Nothing else takes time.
//
// One thread. A lane carries one operation at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "compute/cache.h"
#include "compute/getc.h"
#include "compute/putc.h"
#include "daemon/home.h"
#include "fabric/link.h"
#include "fabric/port.h"
#include "tools/apta-sim/event_queue.h"
#include "tools/apta-sim/metrics.h"
#include "tools/apta-sim/scenario.h"

namespace apta::perf {

class Cluster {
 public:
  // Scenario::servers.compute nodes, 0 …, and a further one that calls (driver()).
  Cluster(const Scenario& scenario, EventQueue* events, Metrics* metrics);
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  // Before all else; in no time. RESOURCE_EXHAUSTED: there is no room for the pool.
  absl::Status Open();
  int driver() const { return static_cast<int>(scenario_.servers.compute); }
  // A committed object that nobody shares; in no time. RESOURCE_EXHAUSTED: the pool is full.
  absl::Status Load(const std::string& key, std::uint64_t bytes);
  void EndLoading();

  // What befalls a node is told to who drives it: its lanes' operations are gone, and go on anew.
  void OnAttached(std::function<void(int node)> tell) { on_attached_ = std::move(tell); }
  bool IsAttached(int node) const { return nodes_[Index(node)].attached; }

  using Then = std::function<void(bool ok)>;
  void Get(int node, std::uint16_t lane, const std::string& key, Then then);
  void Put(int node, std::uint16_t lane, const std::string& key, std::uint64_t bytes, Then then);
  // Runs on the node when time has passed there, unless it dies before.
  void After(int node, double ns, EventQueue::Step step);

  // Functions: a lane of a node registers one, or is a worker that ends an attempt (0: none) and
  // gets the next; another calls. A token, the caller's number, is all that travels.
  void Register(int node, std::uint16_t lane, const std::string& function, Then then);
  using Work = std::function<void(std::uint64_t attempt, std::uint64_t token)>;
  void Ready(int node, std::uint16_t lane, std::uint64_t attempt, Work work);
  struct CallTo {
    std::string function;
    std::string node;  // "" = any
    std::vector<std::string> reads;
  };
  void Call(int node, std::uint16_t lane, const CallTo& to, std::uint64_t token, Then then);

  void Kill(int node);  // and have it again later
  TimeNs now() const { return events_->now_ns(); }
  void FillMetrics() const;

 private:
  struct Node;
  struct GetOp {
    Node* node;
    std::uint16_t lane;
    std::string key;
    std::uint64_t key_hash;
    TimeNs begin_ns;
    bool has_asked = false;  // for the bytes, not only for their version
    Then then;
    std::unique_ptr<compute::Getc> get;
  };
  struct Lane {
    std::uint32_t request_id = 0;
    std::function<void(const fabric::Reply&)> on_reply;
    std::uint64_t token = 0;     // beside the reply
    std::shared_ptr<GetOp> get;  // under way, or the last one
  };
  struct Sent {  // of one invalidation
    std::uint64_t sequence;
    TimeNs issued_ns;
  };
  struct Node {
    int index = 0;
    bool attached = false;
    std::uint64_t incarnation = 0;
    std::optional<fabric::Port> port;
    compute::PinDomain* pins = nullptr;
    compute::PinTable* table = nullptr;
    std::unique_ptr<compute::Cache> cache;
    fabric::LinkDirection to_home, to_node;
    std::vector<Lane> lanes;
    std::vector<std::shared_ptr<GetOp>> followers;
    std::vector<std::uint64_t> published;     // acknowledgements, by shard
    std::vector<std::uint64_t> acknowledged;  // ... that have reached the home
    std::vector<std::deque<Sent>> sent;       // by shard
    int homes_that_know = 0;                  // that it is dead
  };
  struct Gate;
  struct Shard {
    std::unique_ptr<Gate> gate;
    std::unique_ptr<daemon::Home> home;
    fabric::LinkDirection in, out;
    TimeNs free_at_ns = 0;
    double fraction_ns = 0;  // of costs, not yet of free_at_ns
    double busy_ns = 0;
    std::uint64_t issued = 0;  // invalidations, in this step
  };
  struct Message {
    int node;
    std::uint64_t incarnation;
    int shard;
    fabric::Request request;
    std::string staged_key;
    double cost_ns;
  };

  static std::size_t Index(int index) { return static_cast<std::size_t>(index); }
  Node& NodeOf(int index) { return nodes_[Index(index)]; }
  fabric::NodeId SlotOf(const Node& node) const { return static_cast<fabric::NodeId>(node.index); }
  Node* AtSlot(fabric::NodeId slot) {
    return slot < nodes_.size() && nodes_[slot].attached ? &nodes_[slot] : nullptr;
  }
  int ShardOf(std::uint64_t key_hash) const;
  std::uint64_t Stored(std::uint64_t bytes) const;
  double LinesNs(std::uint64_t bytes, int round_trips) const;
  TimeNs Jitter();
  TimeNs Down(Node* node, int shard, std::uint64_t bytes);
  TimeNs Up(Node* node, int shard, std::uint64_t bytes, bool is_call);

  void Attach(Node* node);
  void Forget(int index);
  static void DropOperations(Node* node);
  void AtNode(TimeNs time_ns, Node* node, EventQueue::Step step);
  struct Sending {
    fabric::Op op;
    std::string_view key;
    std::string_view small = {};      // payload as it is
    std::uint64_t payload_bytes = 0;  // or so many bytes
    std::uint64_t argument = 0;
    std::uint8_t flags = 0;
    double cost_ns = 0;
    int shard = 0;
  };
  void Send(Node* node, std::uint16_t lane, const Sending& sending,
            std::function<void(const fabric::Reply&)> on_reply);
  void Arrive(Message message);
  void StepHome(const Message& message);
  void PollHome(int shard);
  void Tick();
  void AdvanceGet(const std::shared_ptr<GetOp>& op, compute::Getc::Step step);
  void EndGet(const std::shared_ptr<GetOp>& op, bool found);
  void Settle(Node* node);
  void Apply(Node* node, int shard);
  void PlanFailure(Node* node);

  // What homes do to nodes (Gate).
  void Answer(int shard, const scheduler::Waiter& to, const fabric::Reply& reply,
              std::uint64_t payload_bytes, std::uint64_t token);
  void Issue(int shard, fabric::NodeId slot, std::uint64_t sequence,
             const fabric::Invalidation& record);
  void IssueDropAll(int shard, fabric::NodeId slot, std::uint64_t sequence);

  const Scenario scenario_;
  const bool copies_;  // read what they find, and look again: see coherence.h
  EventQueue* const events_;
  Metrics* const metrics_;
  std::mt19937_64 random_;
  std::unique_ptr<daemon::Pool> pool_;
  std::vector<Shard> shards_;
  std::vector<Node> nodes_;  // by slot; the last is the loader
  std::vector<std::byte> staging_;
  std::function<void(int node)> on_attached_;
  std::optional<fabric::Reply> loaded_;
  bool is_loading_ = true;
};

}  // namespace apta::perf
