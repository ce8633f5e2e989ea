// EM, the Executor Manager: queues invocations of functions, places them on nodes, runs them again
// when a node dies or an attempt takes too long, and answers their callers.
//
// A node's worker threads ask for work (Ready) and wait for the answer, which is an attempt at an
// invocation; the next Ready carries its result. So an invocation is one message to the EM, one to
// the node, one back.
//
//   queued -- placed --> running -- its result ----------------------------> ended
//     ^                     |------ an error, its deadline, its node died -> queued | ended
//     |---- the invocation's deadline, its caller died --------------------> ended
//
// Limits belong to the node that registers them: its max_concurrency and threads bound what runs
// there, its deadline the attempts that it runs, and its max_attempts counts for an invocation
// that an attempt there has failed.
//
// A pure state machine: one thread; no system call, no clock. Everything that it needs of the
// memory server it says in Environment, which it declares itself.
//
// Invariants
//   1. No invocation starts on a node that owes an acknowledgement (placement.h).
//   2. An invocation ends exactly once: by the result of the attempt that counts, its `current`
//      one; what that has written commits only then (BeginCommit). Others (lost, past their
//      deadline, of a dead caller) are ignored when they come.
//   3. Payloads belong to the EM from Call or Finish until it answers or releases them. An input is
//      released only when no attempt runs any more: functions read it in place, also after the
//      caller's deadline.
//   4. What a node can make the EM remember is bounded: a worker per lane, an attempt per lane and
//      one that waits per waiting lane, kMaxFunctionsPerNode functions, kMaxQueuedOfCaller and
//      kMaxInvocations invocations; names go with the last node and invocation.
//   5. An attempt that waits for an invocation of its own takes no thread of its node and does not
//      count against max_concurrency: a chain needs no more of either than its links that run.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "scheduler/deadline_heap.h"
#include "scheduler/environment.h"

namespace apta::scheduler {

class ExecutorManager {
 public:
  static constexpr std::size_t kMaxQueued = 16'384;          // invocations that wait for a node
  static constexpr std::size_t kMaxQueuedOfCaller = 12'288;  // ... of one node
  static constexpr std::size_t kMaxInvocations = 65'536;     // also those whose result nobody took
  static constexpr std::size_t kMaxFunctionsPerNode = 1024;
  static constexpr std::size_t kMaxExplanations = 64;  // the last are kept
  static constexpr std::size_t kMaxHistory = 8;

  // `policy`: never deleted.
  explicit ExecutorManager(Environment* environment,
                           const Policy* policy = FindPolicy(kPolicyNames[0]));

  // kNone; kAlreadyRegistered, with the same limits; kOtherLimits; kQueueFull: too many functions.
  fabric::Reason Register(NodeId node, std::string_view function, const FunctionLimits& limits);
  void Ready(const Waiter& worker);
  // The node's workers are answered with CANCELLED, those that wait and those that ask later,
  // until it registers again; its functions are not offered meanwhile.
  void Unready(NodeId node);
  // A result from a node; `payload` is the EM's. Ignored when the attempt does not count. An error
  // is an attempt that failed: the last one, or that of a call with errors_are_final, ends it.
  void Finish(NodeId node, InvocationId attempt, absl::StatusCode code, Payload payload,
              TimeNs now_ns);

  // As Finish, in two steps, of an attempt whose writes commit together with its result. True: it
  // counts; nobody else runs the invocation, and no deadline or death ends it, until one of the
  // others is called. False: it does not, and Finish follows.
  bool BeginCommit(NodeId node, InvocationId attempt);
  void EndCommit(InvocationId attempt, absl::StatusCode code, Payload payload, TimeNs now_ns);
  // The node died before it could commit: as if it had died running it.
  void LoseCommit(InvocationId attempt, TimeNs now_ns);

  // A function that an attached node has (of that name, unless it is "").
  std::optional<FunctionId> FindFunction(std::string_view function,
                                         std::string_view node_name = "") const;
  // Whether some node still has it.
  bool IsOffered(FunctionId function, std::string_view node_name = "") const;
  struct Called {
    fabric::Reason reason = fabric::Reason::kNone;  // not kNone: refused, and the input released
    InvocationId id = 0;
  };
  // kNone, kQueueFull, kCallerQueueFull, or kCancelled: the attempt that calls counts no more.
  // REQUIRES: IsOffered(function).
  Called Call(const CallSpec& spec, TimeNs now_ns);
  // Only the caller's node may ask. False: no such invocation.
  bool Wait(const Waiter& waiter, InvocationId id);
  std::optional<bool> Poll(NodeId caller, InvocationId id) const;
  void Forget(NodeId caller, InvocationId id);
  // Of a call that asked for it, also after its end, as long as not too many others did since.
  const Explanation* Explain(NodeId caller, InvocationId id) const;

  // The node's workers, functions, attempts and calls go with it.
  void ForgetNode(NodeId node);

  // Places what can be placed and ends what is past its deadline; returns how many moved. There is
  // something to do only if IsDue.
  int Poll(TimeNs now_ns);
  bool IsDue(TimeNs now_ns) const {
    return (queued_ > 0 && (has_changed_ || waits_for_acks_ || looks_on_)) ||
           (!due_.empty() && due_.next_ns() <= now_ns);
  }
  bool has_queued() const { return queued_ > 0; }
  // The earliest deadline, or ~0.
  TimeNs next_deadline_ns() const { return due_.empty() ? ~TimeNs{0} : due_.next_ns(); }

  std::vector<std::string> FunctionsOf(NodeId node) const;
  NodeLoad LoadOf(NodeId node) const;
  std::size_t known_functions() const { return function_.size(); }
  const Policy& policy() const { return *policy_; }

 private:
  struct FunctionState;
  // Nodes that a workflow's invocations were placed on.
  struct Track {
    std::uint64_t workflow = 0;                                // 0 = free
    std::array<std::pair<NodeId, std::uint32_t>, 8> placed{};  // node, how many
  };
  struct Invocation {
    InvocationId id = 0;  // 0 = the slot is free
    FunctionState* function = nullptr;
    NodeId caller = 0;
    std::optional<Waiter> waiter;
    Payload input;
    TimeNs queued_ns = 0;  // since when
    TimeNs deadline_ns = 0;
    std::uint32_t attempts = 0;
    std::uint32_t max_attempts = 1;   // of the node that ran it last
    std::optional<NodeId> runs_on;    // the attempt that counts
    std::uint32_t live_attempts = 0;  // also those that do not count, and one that commits
    bool is_committing = false;       // BeginCommit: the attempt that counts runs no more
    FailedAttempt last_node;          // that concluded an attempt, or commits one
    InvocationId parent = 0;          // the attempt that called
    bool parent_waits = false;
    std::uint64_t workflow = 0;  // 0 = it is its own, as far as is known
    bool declares_reads = false;
    bool explain = false;
    bool errors_are_final = false;
    bool forgotten = false;  // nobody will ask for the outcome
    bool ended = false;
    std::int64_t place = 0;  // in its queue
    std::string node_name;
    std::vector<std::uint64_t> reads;
    std::vector<FailedAttempt> history;
    std::string waited_for;
    std::optional<Outcome> outcome;  // ended, and somebody may still ask
  };
  struct Attempt {
    InvocationId id;
    std::uint32_t local_function;
    std::uint32_t waits = 0;    // for so many invocations of its own
    bool is_abandoned = false;  // its result does not count
  };
  struct LocalFunction {
    FunctionId function;
    FunctionLimits limits;
    std::uint32_t running = 0;  // attempts, but for those that wait
  };
  struct Node {
    std::vector<LocalFunction> functions;
    std::vector<Waiter> idle_workers;
    std::vector<Attempt> attempts;
    std::uint32_t threads = 0;
    std::uint32_t active = 0;   // attempts that neither wait nor are abandoned
    std::uint32_t waiting = 0;  // for invocations of their own
    std::uint32_t stuck = 0;    // abandoned ones
    std::uint32_t queued = 0;   // invocations that it called
    std::uint32_t invocations = 0;
    std::uint64_t attachments = 0;  // of this slot, so far
    bool takes_work = true;

    // Invariant 4: a node that asks again without having finished gets no more than that.
    bool HasLane() const {
      return attempts.size() - waiting < fabric::kLanes &&
             attempts.size() < fabric::kLanes + fabric::kWaitLanes;
    }
  };
  struct Offer {
    NodeId node;
    std::uint32_t local_function;
  };
  using Queue = std::map<std::int64_t, InvocationId>;  // by place
  // Those that are queued, placed in the order of their places, whichever queue they are in. What
  // any node may run, whatever it reads, waits for the first of its kind; not so what only some
  // nodes can run: that is looked at one by one, as many as one poll may, then on from there.
  struct Queued {
    Queue ordinary;
    Queue particular;
    std::int64_t first_place = 0;
    std::int64_t last_place = 0;
    std::int64_t look_at = kFirst;  // where the next look at particular ones begins
    bool has_passed_over = false;   // those before it have not been looked at since a change

    static constexpr std::int64_t kFirst = INT64_MIN;
    bool empty() const { return ordinary.empty() && particular.empty(); }
    Queue& Of(const Invocation& invocation) {
      return invocation.declares_reads || !invocation.node_name.empty() ? particular : ordinary;
    }
  };
  struct FunctionState {
    FunctionId id = 0;
    std::string name;
    std::vector<Offer> offers;
    Queued queue;
    std::size_t invocations = 0;  // that name it, in whatever state
    std::uint64_t placed = 0;
    std::optional<NodeId> last_node;
  };

  // executor_manager.cc: an invocation's life.
  Invocation* Find(InvocationId id);
  const Invocation* Find(InvocationId id) const;
  std::uint64_t WorkflowOf(const CallSpec& spec);
  Attempt* FindAttempt(NodeId node, InvocationId id);
  FailedAttempt AttemptOn(NodeId node) const;
  std::string LabelOf(NodeId node) const;
  // Names may be shared, and slots are used again.
  std::uint64_t AttachmentOf(NodeId node) const {
    return node_[node].attachments * fabric::kMaxNodes + node;
  }
  void Abandon(Invocation* invocation);
  void Conclude(Invocation* invocation, absl::StatusCode code, Payload payload, TimeNs now_ns);
  void FailAttempt(Invocation* invocation, const Outcome& last, TimeNs now_ns);
  void Cancel(Invocation* invocation);
  void RemoveAttempt(NodeId node, Attempt* attempt);
  void SetWaiting(Invocation* invocation, bool waits);
  void Expire(Invocation* invocation, TimeNs now_ns);
  void End(Invocation* invocation, const Outcome& outcome);
  void EraseIfDone(Invocation* invocation);
  void DropIfUnused(FunctionId function);

  // executor_placement.cc: queue and placement.
  void Enqueue(Invocation* invocation, bool in_front);
  void Dequeue(Invocation* invocation);
  bool HasRoom(const FunctionState& function) const;
  int PlaceQueued(FunctionState* function, bool has_changed, TimeNs now_ns);
  bool PlaceOne(Invocation* invocation, TimeNs now_ns);
  std::size_t Look(const Invocation& invocation, absl::Span<Candidate> candidates) const;
  void Start(Invocation* invocation, const Offer& offer, TimeNs now_ns);
  void Record(const Invocation& invocation, absl::Span<const Candidate> candidates,
              const std::optional<Choice>& choice, TimeNs now_ns);
  std::uint32_t Predecessors(std::uint64_t workflow, NodeId node) const;
  void CountPredecessor(std::uint64_t workflow, NodeId node);

  Environment* environment_;
  const Policy* policy_;
  std::array<Node, fabric::kMaxNodes> node_;
  absl::flat_hash_map<std::string, FunctionId> function_id_;
  std::map<FunctionId, FunctionState> function_;  // ordered: iteration must be deterministic
  FunctionId last_function_ = 0;
  std::deque<Invocation> invocation_;  // by slot; never moved
  std::vector<std::uint32_t> free_slots_;
  DeadlineHeap due_;  // by slot: of the current attempt, or of the invocation
  std::uint64_t last_sequence_ = 0;
  std::size_t queued_ = 0;
  bool has_changed_ = false;     // since the queues were looked at: room may have been made
  bool waits_for_acks_ = false;  // something queued would start, were it not for invariant 1
  bool looks_on_ = false;        // the last look at the queues has not come to their ends
  std::vector<Track> track_;
  std::vector<Candidate> candidates_;  // PlaceOne's: too many to be made anew for each call
  std::deque<Explanation> explanation_;
};

}  // namespace apta::scheduler
