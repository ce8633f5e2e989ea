// A shard: one polling thread that steps the homes of its share of the keys of every pool, over the
// shared-memory ports of the attached nodes (threads=folded: OTC, OSC, OPC and OIC run to
// completion, request by request).
//
// The shell around the state machines: it polls rings, copies requests out, hands them to a home,
// writes replies, wakes sleepers, and sleeps itself when there is nothing to do. Post, doorbells
// and WatchDoorbell may be used from any thread; all else runs on the shard's thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "apta/server.h"
#include "daemon/home.h"
#include "daemon/mailbox.h"
#include "fabric/doorbell.h"
#include "fabric/link.h"
#include "fabric/port.h"

namespace apta::daemon {

class Shard final : private NodeGate {
 public:
  // What the shard tells the control thread; called on the shard's thread.
  struct Observer {
    std::function<void(NodeId)> on_forgotten;  // nothing of the node is left in this shard
    std::function<void(NodeId)> on_hostile;    // it has sent too much that makes no sense
    std::function<void(NodeId, const FenceReason&)> on_fenced;  // by this shard
  };

  // After so many bad requests a node is cut off.
  static constexpr std::uint64_t kMaxBadRequests = 1024;

  static absl::StatusOr<std::unique_ptr<Shard>> Start(int index, std::vector<Pool*> pools,
                                                      const LinkOptions& link,
                                                      const scheduler::Policy* policy,
                                                      Observer observer);
  ~Shard();  // stops the thread

  // Runs `job` on the shard's thread, soon.
  void Post(std::function<void()> job) { mailbox_.Post(std::move(job)); }
  // Runs it and waits for it.
  void RunAndWait(const std::function<void()>& job);
  // Lets `doorbell` wake this shard until its descriptor is closed.
  absl::Status WatchDoorbell(int doorbell_fd);

  // On the shard's thread. `port` and `socket` outlive the node, until on_forgotten.
  void AttachNode(NodeId node, std::string_view name, int pool_index, const fabric::Port* port,
                  int socket);
  void FenceNode(NodeId node);  // was fenced, by this shard or by another
  void ForgetNode(NodeId node);
  // Before the first node: where the other shards are. They outlive this one's thread (Stop).
  void Meet(std::vector<Shard*> shards) { shards_ = std::move(shards); }
  void Stop();  // ends the thread; once. From any other thread
  // From the log of a pool.
  void PostLogged(int pool_index, std::vector<LogOutcome> outcomes);
  Home& home(int pool_index) { return *homes_[static_cast<std::size_t>(pool_index)]; }

 private:
  struct NodeState {
    NodeState(const fabric::Port* its_port, int its_socket, Home* its_home, int shard,
              const fabric::LinkDirection& link)
        : port(its_port),
          socket(its_socket),
          home(its_home),
          requests(its_port->submissions(shard)),
          invalidations(its_port->invalidations(shard)),
          to_node(link) {}

    const fabric::Port* port;
    int socket;
    Home* home;
    fabric::SubmissionConsumer<> requests;
    fabric::InvalidationIssuer<> invalidations;
    fabric::LinkDirection to_node;
    std::uint64_t bad_requests = 0;
    std::array<std::uint16_t, fabric::kLanes> core{};  // of who waits there (Request::core)
  };

  Shard(int index, std::vector<Pool*> pools, const LinkOptions& link,
        const scheduler::Policy* policy, Observer observer, fabric::Doorbell mail,
        fabric::UniqueFd epoll);

  void Run();
  int PollOnce();
  int PollNode(NodeId node, NodeState* state);
  void WakeAnswered();
  void TellSharing(const std::uint16_t& core, fabric::Lane* lane);
  void Sleep();
  void SetAsleep(std::uint32_t asleep);

  // NodeGate
  void Answer(const scheduler::Waiter& to, const Reply& reply,
              std::uint64_t payload_bytes) override;
  void AnswerWith(const scheduler::Waiter& to, const Reply& reply, BytesView payload) override;
  std::uint64_t StagedBytes(NodeId node, std::uint16_t lane) override;
  const std::byte* Staging(NodeId node, std::uint16_t lane) override;
  void SetDrained(NodeId node, std::uint16_t lane, std::uint64_t bytes) override;
  void Nudge(NodeId node) override;
  void Fence(NodeId node, const FenceReason& reason) override;
  void OnNodeForgotten(NodeId node) override;
  void OnDamaged(const Pool* pool, std::string_view key, std::uint64_t extent) override;
  void SendToHome(const Pool* pool, int shard, GroupMessage message) override;
  void Issue(NodeId node, std::uint64_t sequence,
             const fabric::Invalidation& invalidation) override;
  void IssueDropAll(NodeId node, std::uint64_t sequence) override;
  std::uint64_t Acknowledged(NodeId node) override;
  const fabric::HoldTable& Holds(NodeId node) override;

  const int index_;
  const std::vector<Pool*> pools_;
  std::vector<Shard*> shards_;  // by index; set on this shard's thread
  const LinkOptions link_;
  const bool is_link_emulated_;
  const Observer observer_;
  std::vector<std::unique_ptr<Home>> homes_;
  std::array<std::optional<NodeState>, fabric::kMaxNodes> node_;
  std::vector<std::pair<NodeId, NodeState*>> attached_;
  std::vector<fabric::Lane*> answered_;        // since the last WakeAnswered
  const std::uint16_t* asker_core_ = nullptr;  // of the request that is being stepped
  bool has_answered_here_ = false;             // somebody who waits on this thread's core
  TimeNs now_ns_ = 0;
  std::uint32_t polls_ = 0;

  Mailbox mailbox_;
  fabric::UniqueFd epoll_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace apta::daemon
