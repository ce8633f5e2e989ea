// The home of one shard of one pool: the single ordering point of its objects. Steps OTC, OSC, OPC
// and OIC, and for shard 0 the Executor Manager, through one request at a time.
//
// A pure state machine: requests and the time in, replies and invalidations out through NodeGate.
// One thread; no system call, clock or lock; no request ever waits for another node. A body that
// does not fit into its request is copied in slices between polls, so that a large put does not
// delay a small get.
//
// Invariants (protocol.md, "Order inside one put")
//   1. A put's payload is whole in an extent that nobody can see before anything else happens.
//   2. Invalidations are published, then the index commits, then the writer is answered; no other
//      request of the home comes between the first two.
//   3. What a request says is believed only after it was copied and checked; a bad one is
//      answered, counted, and changes nothing.
//   4. What a dead node had begun (uploads, drafts, lent extents, calls) is undone or released.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"

#include "daemon/blocking_puts.h"
#include "daemon/group_commits.h"
#include "daemon/node_gate.h"
#include "daemon/oic.h"
#include "daemon/opc.h"
#include "daemon/osc.h"
#include "daemon/otc.h"
#include "daemon/pool.h"
#include "daemon/scrub.h"
#include "daemon/small_payloads.h"
#include "fabric/call_head.h"
#include "fabric/clock.h"
#include "fabric/coherence.h"
#include "fabric/message.h"
#include "scheduler/executor_manager.h"

namespace apta::daemon {

using fabric::Reply;
using fabric::Request;
using fabric::TimeNs;

struct HomeCounters {
  std::uint64_t requests = 0;
  std::uint64_t bad_requests = 0;
  std::uint64_t directory_evictions = 0;
  std::uint64_t untracked = 0;  // gets and puts that the directory had no room for
  std::uint64_t fenced_nodes = 0;
  std::uint64_t tampered_extents = 0;  // trusted pools: releases of what a client has overwritten
};

class Home final : private RoundObserver,
                   private scheduler::Environment,
                   private GroupCommits::Owner {
 public:
  // `hosts_functions`: this home is the one that the pool's Executor Manager lives in.
  Home(Pool* pool, int shard, bool hosts_functions, NodeGate* gate,
       const scheduler::Policy* policy = scheduler::FindPolicy(scheduler::kPolicyNames[0]));
  ~Home() override;  // no other home of the pool is at work
  Home(const Home&) = delete;
  Home& operator=(const Home&) = delete;

  void AttachNode(NodeId node, std::string_view name = "");
  // The node is cut off: it owes nothing and sends nothing more, but until ForgetNode it may read
  // what it could read now. Done by the home itself for a node that is past its acknowledgement
  // deadline or its quota; once for each node.
  void FenceNode(NodeId node);
  // The node is dead or has left: it sends nothing more. OnNodeForgotten follows from Poll.
  void ForgetNode(NodeId node);

  // One request, copied out of the ring. Returns false when it was bad.
  bool Step(NodeId node, const Request& request, TimeNs now_ns);

  // From another home of the pool.
  void OnGroupMessage(GroupMessage message, TimeNs now_ns);

  // From the pool's log: how records that this home appended have ended, in order.
  void OnLogged(const std::vector<LogOutcome>& outcomes, TimeNs now_ns);

  // Uploads, acknowledgements, deadlines, dead nodes: whatever goes on without a request. Returns
  // how much was done; 0 = idle.
  int Poll(TimeNs now_ns) {
    now_ns_ = now_ns;
    return now_ns < quiet_until_ns_ ? 0 : PollAll();
  }

  // Asks nodes that owe acknowledgements, once per invalidation: something waits for them. (Of
  // idle nodes that nobody waits for, those that have not answered for a quarter of the deadline
  // are asked.)
  void NudgeOwing() override;

  TimeNs next_deadline_ns() const;
  const HomeCounters& counters() const { return counters_; }
  const Oic& oic() const { return oic_; }
  const Otc& otc() const { return otc_; }
  const scheduler::ExecutorManager* executor() const { return executor_.get(); }

 private:
  // A body on its way through the staging area of a lane.
  struct Upload {
    NodeId node;
    std::uint16_t lane;
    std::uint32_t request_id;
    fabric::Op op;
    std::uint8_t flags;
    std::uint64_t argument;
    std::uint64_t key_hash;       // of a put
    std::uint64_t extent;         // 0: the payload is empty
    std::uint64_t staging_start;  // of the body, in the lane's ring
    std::uint64_t body_bytes;     // staged; the payload begins at payload_offset
    std::uint64_t payload_offset;
    std::uint64_t payload;  // where it belongs in the region
    std::uint64_t drained_bytes;
    scheduler::FunctionId function;
  };
  // What a client may write to until it commits; what we must not forget is kept here.
  struct Draft {
    std::uint64_t extent;
    std::uint64_t key_hash;
  };
  struct Node {
    std::string name;
    std::vector<Draft> drafts;          // of kCreate
    std::vector<std::uint64_t> lent;    // extents that replies lent
    std::uint64_t nudged_at = 0;        // invalidations issued when it was last nudged
    std::uint64_t nudged_for = 0;       // as nudged_at, of all shards, for the scheduler
    std::uint64_t uploading_lanes = 0;  // bit per lane
    TimeNs over_quota_since_ns = 0;     // 0 = it is not
    bool is_fenced = false;
  };

  // Verbs, one each (home_verbs.cc).
  void Get(const scheduler::Waiter& from, std::uint64_t key_hash, std::string_view key,
           std::uint64_t held_version);
  void Stat(const scheduler::Waiter& from, std::uint64_t key_hash, std::string_view key);
  void Delete(const scheduler::Waiter& from, std::uint64_t key_hash, std::string_view key,
              std::uint64_t if_version);
  void Create(const scheduler::Waiter& from, std::uint64_t key_hash, std::string_view key,
              std::uint64_t payload_bytes);
  void CommitDraft(const scheduler::Waiter& from, std::uint64_t extent);
  bool AbortDraft(NodeId node, std::uint64_t extent);  // false: not this node's
  bool Release(NodeId node, std::uint64_t extent);
  bool DiscardIf(bool is_its_own, std::uint64_t extent);
  void Register(const scheduler::Waiter& from, std::string_view function, std::uint64_t limits);
  void CallOnInvocation(const scheduler::Waiter& from, const Request& request);

  // Requests with a payload: begin, copy in slices, end.
  void BeginPut(const scheduler::Waiter& from, const Request& request, std::uint64_t key_hash,
                std::string_view key, TimeNs now_ns);
  void Receive(Upload upload, const Request& request, const fabric::CallSaid* said, TimeNs now_ns);
  static Upload MakeUpload(const scheduler::Waiter& from, const Request& request);
  static std::uint64_t StagingStart(const Request& request);
  int AdvanceUploads(TimeNs now_ns);
  bool AdvanceUpload(Upload* upload);  // true: the body is whole
  void EndUpload(const Upload& upload, const fabric::CallSaid* said, TimeNs now_ns);
  void EndPut(const scheduler::Waiter& from, std::uint8_t flags, std::uint64_t key_hash,
              std::uint64_t extent, std::uint64_t if_version);
  void CommitPut(const scheduler::Waiter& from, std::uint64_t key_hash, std::uint64_t extent,
                 std::uint64_t if_version);

  // Functions (home_functions.cc).
  bool BeginCall(const scheduler::Waiter& from, const Request& request, std::string_view key,
                 TimeNs now_ns);
  void BeginReady(const scheduler::Waiter& from, const Request& request, TimeNs now_ns);
  void EndCall(const Upload& upload, const fabric::CallSaid& said, TimeNs now_ns);
  void EndReady(const Upload& upload, TimeNs now_ns);
  void Explain(const scheduler::Waiter& from, std::uint64_t invocation);
  scheduler::Payload MakeText(std::string_view text);
  std::uint64_t Lend(NodeId node, std::string_view text);  // 0: there is no room
  static bool IsSmall(const Request& request) {
    return (request.flags & fabric::kBodyStaged) == 0 && request.payload_bytes > 0 &&
           request.payload_bytes <= fabric::kLanePayloadBytes;
  }
  scheduler::Payload KeepSmall(const Request& request);
  std::optional<BytesView> MessageOf(scheduler::Payload payload) const;
  void Answer(const scheduler::Waiter& waiter, const scheduler::Outcome& outcome,
              scheduler::Payload payload);
  void AnswerWithHistory(const scheduler::Waiter& waiter, const scheduler::Outcome& outcome);
  static std::uint32_t LaneKey(const Upload& upload) {
    return std::uint32_t{upload.node} << 16 | upload.lane;
  }

  // Commit groups (home_groups.cc).
  void KeepBack(const scheduler::Waiter& from, std::uint64_t key_hash, std::uint64_t extent);
  void EndGroup(const Upload& upload);
  bool CommitEffects(const Upload& upload, scheduler::Payload result);

  int PollAll();
  bool IsQuiet() const;
  bool CheckVersion(const scheduler::Waiter& from, const std::optional<Osc::Served>& served,
                    std::uint64_t if_version);
  void Supersede(Change* change, const std::optional<Osc::Served>& old);
  void Finish(const Change& change);
  void RunDeferred();
  void EvictCold(std::uint64_t served_key_hash) {
    if (otc_.IsCrowded()) EvictSome(served_key_hash);
  }
  void EvictSome(std::uint64_t served_key_hash);
  void Ask(NodeId node);  // once for what it owes this home now
  void CheckDebts();
  std::optional<FenceReason> CheckDebt(NodeId node);
  void Bury(const Scrub::Finding& finding);
  void EndRequestsOf(NodeId node);
  void Fail(const scheduler::Waiter& to, absl::StatusCode code, fabric::Reason reason,
            std::uint64_t value0 = 0, std::uint64_t value1 = 0, std::uint64_t value2 = 0);
  void FailFull(const scheduler::Waiter& to, std::uint64_t key_bytes, std::uint64_t payload_bytes);
  void Reject(const scheduler::Waiter& to);

  // RoundObserver
  void OnAcknowledged(const RoundSpec& round) override;
  void OnOwes(NodeId node, std::uint64_t sequence) override {
    // Release: set before the put is answered, so that a call that its writer makes next finds it;
    // partner: the acquire in OwesAcknowledgement. So it is with owed_keys.
    share_->owes[node].store(sequence, std::memory_order_release);
  }
  void OnOwesKey(NodeId node, std::uint64_t key_hash, bool owes) override {
    owes ? share_->owed_keys.Add(node, key_hash) : share_->owed_keys.Remove(node, key_hash);
  }
  void OnOwesAll(NodeId node) override { share_->owed_keys.AddAll(node); }
  void OnOwesNoKey(NodeId node) override { share_->owed_keys.Clear(node); }
  void OnReleased(std::uint64_t extent) override;

  // GroupCommits::Owner
  void SendToHome(int shard, GroupMessage message) override;
  void Discard(std::uint64_t extent) override;
  void OnChanged(std::uint64_t key_hash) override { EvictCold(key_hash); }
  void OnGroupEnded(const GroupCommits::Ended& ended) override;
  TimeNs now_ns() const override { return now_ns_; }

  // scheduler::Environment
  bool OwesAcknowledgement(NodeId node, bool declares_reads,
                           absl::Span<const std::uint64_t> reads) const override;
  void AskForAcknowledgements(NodeId node) override;
  void AddLocalBytes(absl::Span<const std::uint64_t> reads,
                     absl::Span<scheduler::Candidate> candidates) const override;
  std::string_view NameOf(NodeId node) const override { return node_[node].name; }
  void Deliver(const scheduler::Waiter& worker, const scheduler::Delivery& delivery) override;
  void Answer(const scheduler::Waiter& waiter, const scheduler::Outcome& outcome) override;
  void Release(scheduler::Payload payload) override;

  Pool* pool_;
  HeapShare* share_;
  NodeGate* gate_;
  Osc osc_;
  Opc opc_;
  Otc otc_;
  Oic oic_;
  std::unique_ptr<scheduler::ExecutorManager> executor_;
  std::optional<BlockingPuts> blocking_;  // mode sync, or several shards
  GroupCommits groups_;
  std::optional<Scrub> scrub_;  // durability `region`

  const fabric::Coherence coherence_;
  const TimeNs ack_deadline_ns_;
  const std::uint64_t quota_bytes_;
  TimeNs now_ns_ = 0;  // of the step that is being done
  // Until then nothing goes on here but what others begin: whatever they begin sets it to 0.
  TimeNs quiet_until_ns_ = 0;
  TimeNs next_check_ns_ = 0;           // of debts
  std::uint64_t told_held_bytes_ = 0;  // what share_ says
  std::array<Node, fabric::kMaxNodes> node_;
  std::vector<Upload> uploads_;
  SmallPayloads small_;
  absl::flat_hash_map<std::uint32_t, std::string> heads_;  // of calls in uploads_, by LaneKey
  struct Forgetting {
    NodeId node;
    std::uint64_t position;
  };
  std::deque<Forgetting> forgetting_;
  HomeCounters counters_;
};

}  // namespace apta::daemon
