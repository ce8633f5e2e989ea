// What the Executor Manager takes and gives, and what it needs of the memory server.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "fabric/call_head.h"
#include "fabric/clock.h"
#include "fabric/message.h"
#include "scheduler/placement.h"

namespace apta::scheduler {

using fabric::FunctionLimits;
using fabric::NodeId;
using fabric::TimeNs;
// Of one attempt; the invocation's own is that of "attempt 0" (fabric::InvocationOf). Never used
// twice, but for every 256th attempt of one invocation.
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

// An attempt on its way to a worker.
struct Delivery {
  InvocationId id;
  std::uint32_t local_function;  // which of the node's functions, in order of registration
  std::uint32_t attempt;         // from 1
  Payload input;
  TimeNs left_ns;  // until the deadline
};

// An attempt that did not end the invocation well.
struct FailedAttempt {
  enum class End : std::uint8_t { kNodeGone, kDeadline, kError };
  std::string node;  // for people
  End end;
  absl::StatusCode code = absl::StatusCode::kOk;  // of kError: what the function returned
  std::uint64_t attachment = 0;                   // which node it was
};

// How an invocation ended.
struct Outcome {
  absl::StatusCode code = absl::StatusCode::kOk;
  fabric::Reason reason = fabric::Reason::kNone;
  std::uint64_t attempts = 0;
  Payload payload;  // the result; the message where reason is kFunctionFailed
  absl::Span<const FailedAttempt> history;  // the last of them
  std::string_view waited_for;              // WhyNone, if it was past its deadline in the queue
};

// What a caller asks for. Views are the caller's; the EM copies.
struct CallSpec {
  NodeId caller;
  std::optional<Waiter> waiter;  // gets the outcome; nullopt: somebody will Wait
  FunctionId function;
  Payload input;
  TimeNs deadline_ns;
  std::string_view node_name;             // "" = any
  absl::Span<const std::uint64_t> reads;  // hashes of the declared keys
  bool declares_reads = false;            // false: anything may be read
  InvocationId parent = 0;                // the attempt that calls; 0 = none
  std::uint64_t workflow = 0;             // the caller's number for what this is a part of
  bool explain = false;                   // keep an Explanation
  bool errors_are_final = false;          // an error that an attempt returns ends it
};

// How an invocation was placed, or why it is not yet.
struct Explanation {
  struct Considered {
    std::string node;
    Candidate candidate;
  };
  InvocationId id = 0;
  NodeId caller = 0;
  std::string_view policy;
  std::vector<Considered> considered;
  std::optional<std::size_t> chosen;  // of considered
  Because because = Because::kOnlyOne;
  std::uint32_t attempt = 0;
  TimeNs queued_ns = 0;  // how long
};

class Environment {
 public:
  virtual ~Environment() = default;
  // Whether the node may hold something stale: of `reads`, hashes of keys, if declares_reads, else
  // of anything. From the OIC's books; what cannot be known counts as owed.
  virtual bool OwesAcknowledgement(NodeId node, bool declares_reads,
                                   absl::Span<const std::uint64_t> reads) const = 0;
  // An invocation waits for this node's acknowledgements.
  virtual void AskForAcknowledgements(NodeId node) = 0;
  // Adds to each candidate's local_bytes what it caches of these keys, as far as is known. A hint.
  virtual void AddLocalBytes(absl::Span<const std::uint64_t> reads,
                             absl::Span<Candidate> candidates) const = 0;
  virtual std::string_view NameOf(NodeId node) const = 0;
  virtual void Deliver(const Waiter& worker, const Delivery& delivery) = 0;
  // The waiter owns the payload from here on.
  virtual void Answer(const Waiter& waiter, const Outcome& outcome) = 0;
  virtual void Release(Payload payload) = 0;
};

// What a node has and does, for people to look at.
struct NodeLoad {
  std::uint32_t threads = 0;  // that it says it has
  std::uint32_t idle = 0;
  std::uint32_t running = 0;  // attempts: those that wait for others and stuck ones too
  std::uint32_t waiting = 0;
  std::uint32_t stuck = 0;
};

}  // namespace apta::scheduler
