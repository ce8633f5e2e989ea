// What homes do to nodes: the thread shell of a shard behind it, or a test, or the simulator.
#pragma once

#include <cstdint>

#include "daemon/commit_group.h"
#include "daemon/oic.h"
#include "daemon/pool.h"
#include "fabric/clock.h"
#include "fabric/message.h"
#include "scheduler/environment.h"

namespace apta::daemon {

using fabric::Reply;
using fabric::TimeNs;

// Why a node was fenced, for the message that it gets.
struct FenceReason {
  std::uint64_t outstanding = 0;  // acknowledgements that it owes
  TimeNs silent_ns = 0;           // since it acknowledged anything
  std::uint64_t held_bytes = 0;   // of old versions that wait for it
  std::uint64_t allowed_silent_ns = 0;
  std::uint64_t allowed_bytes = 0;
};

// Everything that a home may do to nodes.
class NodeGate : public InvalidationGate {
 public:
  // `payload_bytes`: what the reply lets the node read in place; counts for an emulated link.
  virtual void Answer(const scheduler::Waiter& to, const Reply& reply,
                      std::uint64_t payload_bytes) = 0;
  // The same, with a payload of at most kLanePayloadBytes in the lane; sets extent_offset.
  virtual void AnswerWith(const scheduler::Waiter& to, const Reply& reply, BytesView payload) = 0;
  // The staged body of a lane: a ring of kStagingBytes, of which the node says that the first
  // StagedBytes bytes of the body have been written. Hostile.
  virtual std::uint64_t StagedBytes(NodeId node, std::uint16_t lane) = 0;
  virtual const std::byte* Staging(NodeId node, std::uint16_t lane) = 0;
  virtual void SetDrained(NodeId node, std::uint16_t lane, std::uint64_t bytes) = 0;
  // Asks a node that may be asleep to look at its invalidation ring.
  virtual void Nudge(NodeId node) = 0;
  // The home has fenced the node: it, and the other homes, must learn of it.
  virtual void Fence(NodeId node, const FenceReason& reason) = 0;
  // Nothing of the node is left in this home: its slot may be reused.
  virtual void OnNodeForgotten(NodeId node) = 0;
  // An object was found damaged, and is lost. An empty key: that, too.
  virtual void OnDamaged(const Pool* pool, std::string_view key, std::uint64_t extent) = 0;
  // To another home of the pool, whose OnGroupMessage gets it soon; in order.
  virtual void SendToHome(const Pool* pool, int shard, GroupMessage message) = 0;
};

}  // namespace apta::daemon
