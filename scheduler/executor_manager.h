// EM, the Executor Manager: queues invocations of functions, places them on nodes, runs them again
// when a node dies, and answers their callers.
//
// A node's worker threads ask for work (Ready) and wait for the answer, which is an invocation; the
// next Ready carries the result. So an invocation is one message to the EM, one to the node, one
// back.
//
// A pure state machine: one thread; no system call, no clock. Everything that it needs of the
// memory server it says in Environment, which it declares itself.
//
// Invariants
//   1. No invocation starts on a node that owes an acknowledgement (placement.h).
//   2. An invocation ends exactly once: its first result counts, later ones are ignored.
//   3. Payloads belong to the EM from Call or Finish until it answers or releases them. An input is
//      released only when no node runs the invocation any more: functions read it in place, also
//      after the caller's deadline.
//   4. What a node can make the EM remember is bounded: a worker per lane, kMaxFunctionsPerNode
//      functions, kMaxInvocations invocations; names go with the last node and invocation.
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
#include "fabric/clock.h"
#include "fabric/message.h"

namespace apta::scheduler {

using fabric::FunctionLimits;
using fabric::NodeId;
using fabric::TimeNs;
using InvocationId = std::uint64_t;
using FunctionId = std::uint64_t;  // never used twice

// An extent that carries an input, a result, or an error's message. extent 0 = empty.
struct Payload {
  std::uint64_t extent = 0;
};

// A lane of a node that waits for a reply.
struct Waiter {
  NodeId node;
  std::uint16_t lane;
  std::uint32_t request_id;
};

// An invocation on its way to a worker.
struct Delivery {
  InvocationId id;
  std::uint32_t local_function;  // which of the node's functions, in order of registration
  std::uint32_t attempt;         // from 1
  Payload input;
  TimeNs left_ns;  // until the deadline
};

// How an invocation ended.
struct Outcome {
  absl::StatusCode code = absl::StatusCode::kOk;
  fabric::Reason reason = fabric::Reason::kNone;
  std::uint64_t attempts = 0;
  Payload payload;  // the result; the message where reason is kFunctionFailed
};

class Environment {
 public:
  virtual ~Environment() = default;
  // From the OIC's counters.
  virtual bool OwesAcknowledgement(NodeId node) const = 0;
  // An invocation waits for this node's acknowledgements.
  virtual void AskForAcknowledgements(NodeId node) = 0;
  virtual void Deliver(const Waiter& worker, const Delivery& delivery) = 0;
  // The waiter owns the payload from here on.
  virtual void Answer(const Waiter& waiter, const Outcome& outcome) = 0;
  virtual void Release(Payload payload) = 0;
};

class ExecutorManager {
 public:
  static constexpr std::size_t kMaxQueued = 4096;        // invocations that wait for a node
  static constexpr std::size_t kMaxInvocations = 65536;  // also those whose result nobody took yet
  static constexpr std::size_t kMaxFunctionsPerNode = 1024;

  explicit ExecutorManager(Environment* environment) : environment_(environment) {}

  // kNone, kAlreadyRegistered or kQueueFull (too many functions).
  fabric::Reason Register(NodeId node, std::string_view function, const FunctionLimits& limits);
  void Ready(const Waiter& worker);
  // The node's workers are answered with CANCELLED, those that wait and those that ask later,
  // until it registers again.
  void Unready(NodeId node);
  // A result from a node; `payload` is the EM's. Ignored when the invocation does not run there.
  void Finish(NodeId node, InvocationId id, absl::StatusCode code, Payload payload);

  std::optional<FunctionId> FindFunction(std::string_view function) const;
  // Whether some node still has it.
  bool IsOffered(FunctionId function) const;
  // Queues an invocation. `waiter` gets the outcome as soon as it is known; nullopt: somebody
  // will Wait. nullopt result: the queue is full, and `input` has been released.
  // REQUIRES: IsOffered(function).
  std::optional<InvocationId> Call(NodeId caller, std::optional<Waiter> waiter, FunctionId function,
                                   Payload input, TimeNs deadline_ns, TimeNs now_ns);
  // Only the caller's node may ask. False: no such invocation.
  bool Wait(const Waiter& waiter, InvocationId id);
  std::optional<bool> Poll(NodeId caller, InvocationId id) const;
  void Forget(NodeId caller, InvocationId id);

  // The node's workers, functions, invocations and calls go with it.
  void ForgetNode(NodeId node);

  // Places what can be placed and ends what is past its deadline; returns how many moved.
  int Poll(TimeNs now_ns);
  bool has_queued() const { return queued_ > 0; }
  // The earliest deadline, or ~0.
  TimeNs next_deadline_ns() const {
    return by_deadline_.empty() ? ~TimeNs{0} : by_deadline_.begin()->first;
  }

  std::vector<std::string> FunctionsOf(NodeId node) const;
  std::size_t known_functions() const { return function_.size(); }
  std::uint64_t RunningOn(NodeId node) const { return node_[node].running; }

 private:
  struct Invocation {
    FunctionId function;
    NodeId caller;
    std::optional<Waiter> waiter;
    Payload input;
    TimeNs deadline_ns;
    std::uint32_t attempts = 0;
    std::uint32_t max_attempts = 1;  // of the node that ran it last
    std::optional<NodeId> runs_on;
    bool forgotten = false;  // nobody will ask for the outcome
    bool ended = false;
    std::optional<Outcome> outcome;  // ended, and somebody may still ask
  };
  struct LocalFunction {
    FunctionId function;
    FunctionLimits limits;
    std::uint32_t running = 0;
  };
  struct Node {
    std::vector<LocalFunction> functions;
    std::vector<Waiter> idle_workers;
    std::uint32_t running = 0;
    bool takes_work = true;
  };
  struct FunctionState {
    std::string name;
    std::vector<NodeId> nodes;       // that have it
    std::deque<InvocationId> queue;  // placed in order
    std::size_t invocations = 0;     // that name it, in whatever state
  };

  int PlaceQueued(FunctionId function, TimeNs now_ns);
  bool PlaceOne(FunctionId function, InvocationId id, TimeNs now_ns);
  LocalFunction* FindLocal(NodeId node, FunctionId function);
  void Enqueue(InvocationId id, bool in_front);
  void StopRunning(Invocation* invocation);
  void DropIfUnused(FunctionId function);
  void Lose(InvocationId id);
  void Dequeue(InvocationId id);
  void SetDeadline(InvocationId id, TimeNs deadline_ns);
  void ClearDeadline(InvocationId id);
  void End(InvocationId id, const Outcome& outcome);
  void EraseIfDone(InvocationId id);

  Environment* environment_;
  std::array<Node, fabric::kMaxNodes> node_;
  absl::flat_hash_map<std::string, FunctionId> function_id_;
  std::map<FunctionId, FunctionState> function_;  // ordered, as invocation_
  FunctionId last_function_ = 0;
  std::map<InvocationId, Invocation> invocation_;  // ordered: iteration must be deterministic
  std::multimap<TimeNs, InvocationId> by_deadline_;
  InvocationId last_id_ = 0;
  std::size_t queued_ = 0;
};

}  // namespace apta::scheduler
