// Commit groups at one home: the writes that nodes keep back, the groups that this home coordinates
// (commit_group.h), and its part in all groups that write its keys.
//
// Part of a home; one thread, no system call, no clock. In a pool of one shard a group is one
// uninterrupted step of the home: conditions, all invalidations, all index slots, the answer; in
// mode sync it waits between invalidations and slots, as every put does there. In a pool with a log
// every put and delete is a group, of one, and waits for the log between conditions and
// invalidations.
//
// Invariants
//   1. A draft belongs to its node, which may commit or abort it, or die, until a group has been
//      prepared with it; from then on to the group, which commits or discards it.
//   2. From prepare to flip or abort a group's keys are busy: requests for them wait, in order, so
//      that conditions go on holding and nobody reads one key before and another after the flip.
//      (While the log is waited for only changes do: nobody reads any of the new versions.) Those
//      of a recorded group are busy until its record is gone (GroupIntents, invariant 2).
//   3. An old version's extent is discarded after the flip at the earliest.
//   4. What a node keeps back is bounded: kMaxDrafts, and bytes as its quota of old versions.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "daemon/blocking_puts.h"
#include "daemon/commit_group.h"
#include "daemon/group_intents.h"
#include "daemon/journal.h"
#include "daemon/oic.h"
#include "daemon/opc.h"
#include "daemon/osc.h"
#include "daemon/otc.h"
#include "daemon/pool.h"
#include "fabric/coherence.h"
#include "fabric/message.h"
#include "scheduler/executor_manager.h"

namespace apta::daemon {

using fabric::GroupWrite;
using fabric::Reply;
using fabric::TimeNs;

class GroupCommits {
 public:
  static constexpr std::size_t kMaxDrafts = 65536;  // of one node
  static constexpr std::size_t kMaxEffects = 2 * fabric::kLanes;

  // How a group that this home coordinated has ended.
  struct Ended {
    scheduler::Waiter from;  // lane kNoLane: nobody waits
    scheduler::InvocationId invocation = 0;
    scheduler::Payload result;  // of the invocation
    Version version = 0;        // 0: refused
    bool untracked = false;
    std::uint64_t issued = 0;  // to the node, by the only home, up to the commit
    bool is_single = false;    // a put or a delete, no transaction
    std::uint64_t extent = 0;  // of a single put
    // Why it was refused; kNodeLost: its node is gone. Of kVersionMoved value[1] is the write's
    // index in the request.
    Reply error{};
  };
  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void SendToHome(int shard, GroupMessage message) = 0;  // another one of the pool
    virtual void Discard(std::uint64_t extent) = 0;
    virtual void OnChanged(std::uint64_t key_hash) = 0;  // the index has
    virtual void OnGroupEnded(const Ended& ended) = 0;
    virtual void NudgeOwing() = 0;      // a group waits for acknowledgements
    virtual TimeNs now_ns() const = 0;  // of the step that is being done
  };
  // The home's own, which outlive this. `blocking` is null in a pool of one shard whose mode never
  // waits for acknowledgements: there nothing comes between a group's steps.
  struct Controllers {
    Pool* pool;
    int shard;
    Osc* osc;
    Opc* opc;
    Otc* otc;
    Oic* oic;
    BlockingPuts* blocking;
    std::uint64_t quota_bytes;
    Journal* journal;  // null: what the pool holds is in no log
  };

  GroupCommits(const Controllers& controllers, Owner* owner);

  void AttachNode(NodeId node);
  // Groups that are not prepared yet are refused; nobody is answered.
  void FenceNode(NodeId node);
  void ForgetNode(NodeId node);

  // The node's draft of `key_hash`. False: it keeps back too much, and the extent is still the
  // caller's.
  bool KeepBack(NodeId node, std::uint64_t key_hash, std::uint64_t extent);
  bool Abort(NodeId node, std::uint64_t extent);  // false: not this node's
  std::uint64_t kept_bytes(NodeId node) const { return node_[node].kept_bytes; }

  // Whether the writes are such as a client sends: of this pool's keys, each once.
  bool IsGroup(std::vector<GroupWrite>* writes) const;
  // REQUIRES: IsGroup. `caches`: the node will be the sharer of what it writes, if
  // that has one home: the answer tells one home's sequence.
  void Commit(const scheduler::Waiter& from, std::vector<GroupWrite> writes, bool caches,
              scheduler::InvocationId invocation = 0, scheduler::Payload result = {});

  // A put or a delete as a group of one: in a pool with a log. `write.draft` is the home's own, and
  // counts for nobody's quota. REQUIRES: the key is not busy.
  void CommitOne(const scheduler::Waiter& from, GroupWrite write);
  void OnLogged(const LogOutcome& outcome);

  // What the node's attempt of an invocation is going to write. REQUIRES: IsGroup. False: the node
  // has too many.
  bool SetEffects(NodeId node, scheduler::InvocationId invocation, std::vector<GroupWrite> writes);
  std::optional<std::vector<GroupWrite>> TakeEffects(NodeId node,
                                                     scheduler::InvocationId invocation);
  // They will not be: at all homes, the drafts are discarded.
  void DropEffects(NodeId node, std::vector<GroupWrite> writes);

  void OnMessage(GroupMessage message);
  void OnAcknowledged(const RoundSpec& round);
  // True: the extent is still named by the index, and will be discarded after the flip.
  bool IsStillNamed(std::uint64_t extent);
  // Goes on with what waited for keys or acknowledgements.
  void Advance();
  bool IsIdle() const { return parts_.empty() && waiting_.empty() && commits_.empty(); }

 private:
  struct Draft {
    std::uint64_t key_hash;
    std::uint64_t bytes;
  };
  struct Node {
    std::map<std::uint64_t, Draft> drafts;  // by extent
    std::uint64_t kept_bytes = 0;
    std::map<scheduler::InvocationId, std::vector<GroupWrite>> effects;
    std::uint64_t attachment = 0;
    bool is_present = false;  // attached and not fenced
  };
  struct Coordinated {
    CommitGroup machine;
    Ended ended;
    std::uint64_t attachment;
    bool caches;
    bool is_recorded;
    std::map<int, std::vector<GroupWrite>> writes;  // by shard
    bool is_one() const { return writes.size() == 1 && writes.begin()->second.size() == 1; }
  };
  struct Write {
    GroupWrite write;
    fabric::IndexSlot* slot = nullptr;  // nullptr: the deletion of what does not exist
    std::uint64_t old_extent = 0;
    bool has_holders = false;  // the OIC keeps the old extent for them
  };
  struct Part {
    GroupMessage order;  // kPrepare, without its writes
    std::vector<Write> writes;
    Version version = 0;
    std::size_t rounds_awaited = 0;
    std::size_t flipped = 0;  // writes
  };

  void Begin(const Ended& ended, std::vector<GroupWrite> writes, bool caches);
  void Send(int shard, GroupMessage message);
  void Drain();
  void Handle(GroupMessage message);
  void Obey(GroupId id, CommitGroup::Order order);
  void Log(GroupId id);
  void Record(GroupId id);
  void Finish(GroupId id);
  void Tell(const Part& part, GroupMessage::Kind kind, bool untracked = false);

  bool IsPresent(const GroupMessage& order) const;
  bool IsBusy(const GroupMessage& prepare) const;
  void Prepare(GroupMessage prepare);
  std::optional<Reply> TakeDrafts(const GroupMessage& prepare, Part* part);
  std::optional<Reply> FindSlots(const GroupMessage& prepare, Part* part);
  void Undo(Part* part);
  void Publish(Part* part, Version version);
  void PublishOne(Part* part, Write* write);
  void Flip(Part* part);
  void FlipOne(const Part& part, const Write& write);
  void EndFlip(GroupId id);
  void OnAbort(const GroupMessage& abort);
  void DropDrafts(const GroupMessage& order);

  const Controllers c_;
  Owner* const owner_;
  std::optional<GroupIntents> intents_;  // durability `region`
  std::array<Node, fabric::kMaxNodes> node_;
  std::uint64_t last_serial_ = 0;
  std::map<std::uint64_t, Coordinated> commits_;  // by serial
  std::map<GroupId, Part> parts_;
  std::deque<GroupMessage> waiting_;  // to be prepared, in order of arrival
  std::vector<GroupId> acknowledged_;
  std::vector<GroupId> half_flipped_;          // only where Rule::kGroupTogether is broken
  std::map<std::uint64_t, bool> still_named_;  // old extents; true: the OIC has released it
  std::deque<GroupMessage> inbox_;             // from this home to itself
};

}  // namespace apta::daemon
