// Messages of the fabric: fixed layouts that two processes exchange through a port.
//
// A Request travels from a thread of a node to an object's home in a submission ring; its Reply
// comes back in the lane that the request names; an Invalidation travels from a home to a node.
// Everything that a client writes is hostile: the home copies it, checks the copy, uses the copy.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "fabric/extent.h"

namespace apta::fabric {

// A slot of the memory server for one attached node; reused after the node is gone.
using NodeId = std::uint16_t;
#ifdef APTA_MAX_NODES  // of tools/apta-sim, whose nodes are no processes
inline constexpr int kMaxNodes = APTA_MAX_NODES;
#else
inline constexpr int kMaxNodes = 256;
#endif

// How many requests of one node can be under way at once: one per lane.
inline constexpr int kLanes = 64;
// Further lanes, numbered from kLanes on, for kWait alone: functions that wait for calls of their
// own. Requests in them have no body.
inline constexpr int kWaitLanes = 2048;

enum class Op : std::uint8_t {
  kGet = 1,   // key; argument: version that the node has a copy of, or 0 -> version, extent; the
              // node becomes a sharer
  kPut,       // key + payload; argument: precondition -> version, extent; the node is the sharer.
              // value[1]: invalidations issued to the node until the commit, [2]: the extent of its
              // own record of it (kOwnRecord)
  kDelete,    // key; argument: precondition -> version; value as kPut
  kStat,      // key -> version, value: payload bytes, sharers
  kCreate,    // key; argument: payload bytes to come in place (trusted pools) -> extent
  kCommit,    // argument: the extent of kCreate -> as kPut
  kAbort,     // argument: the extent of kCreate
  kRelease,   // argument: an extent that an earlier reply lent. No reply
  kRegister,  // key: function name; argument: FunctionLimits
  kReady,     // payload: result of `argument` (an attempt; 0 = none) -> the next attempt
  kUnready,   // every kReady of this node that still waits is answered with CANCELLED
  kCall,      // key: function; payload: input; argument: deadline, ns from now -> result
  kStart,     // as kCall -> value[0]: invocation
  kWait,      // argument: invocation -> its result, once it is there
  kPoll,      // argument: invocation -> value[0]: 1 = it has ended
  kForget,    // argument: invocation; its result will not be asked for. No reply
  kExplain,   // argument: invocation -> how it was placed: JSON, in an extent
  kCommitGroup,  // payload: group_message.h -> version; value[0] as kPut, for all; [1] as kPut
  kEffects,      // argument: attempt that runs here; payload: group_message.h
};
inline constexpr std::uint8_t kMaxOp = static_cast<std::uint8_t>(Op::kEffects);

// What a node allows for one of its functions; travels packed into a request's argument.
struct FunctionLimits {
  std::uint16_t max_concurrency = 1;
  std::uint8_t max_attempts = 3;
  std::uint8_t threads = 0;            // of the node, for all its functions; 0 = as many as ask
  std::uint32_t deadline_ms = 60'000;  // of an attempt

  std::uint64_t Pack() const {
    return max_concurrency | std::uint64_t{max_attempts} << 16 | std::uint64_t{threads} << 24 |
           std::uint64_t{deadline_ms} << 32;
  }
  static FunctionLimits Unpack(std::uint64_t packed) {
    return {static_cast<std::uint16_t>(packed), static_cast<std::uint8_t>(packed >> 16),
            static_cast<std::uint8_t>(packed >> 24), static_cast<std::uint32_t>(packed >> 32)};
  }
  bool operator==(const FunctionLimits&) const = default;
};

// A node with so many attempts that run past their deadline gets no more work.
inline constexpr std::uint32_t kMaxStuckThreads = 4;

// The lane of requests that get no reply: they disturb none that is under way.
inline constexpr std::uint16_t kNoLane = 0xffff;
constexpr bool IsOneWay(Op op) {
  return op == Op::kAbort || op == Op::kRelease || op == Op::kForget;
}

// Set in Request::flags when key and payload stand in the lane's staging buffer, not inline.
inline constexpr std::uint8_t kBodyStaged = 1;
// kCall, kStart: the key is a CallHead (call_head.h).
inline constexpr std::uint8_t kHeaded = 2;
// kReady: brings a result and asks for nothing more; answered at once, with CANCELLED.
inline constexpr std::uint8_t kLastOfWorker = 4;
// kPut: not committed, but kept back as the node's draft -> extent, which a group names, or kAbort.
inline constexpr std::uint8_t kKeepBack = 2;
// kReady: what kEffects has said is committed together with the result. Asks for nothing more:
// answered as a kCommitGroup once it is committed, with CANCELLED if the attempt does not count.
inline constexpr std::uint8_t kHasEffects = 2;
// kReady: the invocation failed; flags' upper bits hold its absl::StatusCode, payload the message.
inline constexpr int kStatusShift = 3;

// In value[0] of the replies to kGet, kPut and kCommit: the node is no sharer. It copies what it
// reads, looks at the version again, and keeps nothing that it would serve without asking.
inline constexpr std::uint64_t kUntracked = 1;
// In value[0] of the replies to kPut, kDelete and kCommit: the last invalidation that was issued to
// the node is its own record of this change, and need not be read from the ring.
inline constexpr std::uint64_t kOwnRecord = 2;

inline constexpr std::uint64_t kAnyVersion = ~std::uint64_t{0};  // no precondition

inline constexpr std::size_t kInlineBytes = 216;
// Beyond any region; what merely does not fit into a pool is answered with its size.
inline constexpr std::uint64_t kMaxPayloadBytes = (std::uint64_t{1} << 48) - 1;

// Packed, so that it begins behind its ring's sequence of 4 bytes: then a key of 32 bytes ends in
// the slot's first line.
struct [[gnu::packed, gnu::aligned(4)]] Request {
  std::uint32_t request_id;  // unlike the lane's last; comes back in Reply::done_id
  Op op;
  std::uint8_t flags;
  std::uint16_t lane;  // < kLanes; of kWait < kLanes + kWaitLanes
  std::uint64_t payload_bytes : 48;
  std::uint64_t core : 16;  // where the sender runs (ThisCore), if another node has to answer; or 0
  std::uint64_t argument;   // by op
  std::uint16_t key_bytes;
  std::uint16_t staging_page;    // where a staged body begins; the key does not wrap
  std::byte body[kInlineBytes];  // key, then payload, where they fit and kBodyStaged is not set
  std::uint64_t visible_at_ns;   // written and read only where a link is emulated
};
static_assert(sizeof(Request) == 252 && alignof(Request) == 4);
static_assert(offsetof(Request, body) == 28);
static_assert(std::is_trivially_copyable_v<Request> && std::is_standard_layout_v<Request>);

// Copies a request that its writer may still be changing: as much of it as the copy says that there
// is, the lines beyond are not touched. Without visible_at_ns.
inline void CopyRequest(const Request& from, Request* to) {
  std::memcpy(to, &from, offsetof(Request, body));
  if ((to->flags & kBodyStaged) != 0) return;
  const std::uint64_t payload_bytes = to->payload_bytes;
  const std::size_t bytes = to->key_bytes + std::min<std::uint64_t>(payload_bytes, kInlineBytes);
  std::memcpy(to->body, from.body, std::min(bytes, kInlineBytes));
}

// Why a request failed, with what it takes to say so in words (see MakeStatus in control.h).
enum class Reason : std::uint16_t {
  kNone = 0,
  kNoSuchObject,
  kVersionMoved,    // value[0]: the key's version now
  kPoolFull,        // value[0]: bytes asked for, [1]: bytes used, [2]: bytes held for nodes
  kObjectTooLarge,  // value[0]: bytes asked for, [1]: the largest that fits an empty pool
  kBadKey,
  kBadRequest,  // a message that no correct client sends
  kNotTrusted,  // kCreate in an isolated pool
  kNoSuchDraft,
  kNoSuchFunction,
  kAlreadyRegistered,
  kQueueFull,  // value[0]: invocations waiting
  kNoSuchInvocation,
  // The extent's payload, if any, says how the attempts ended.
  kDeadline,  // value[0]: attempts made
  kNodeLost,  // value[0]: attempts made; the last node died
  kCancelled,
  kFunctionFailed,   // the message is the extent's payload
  kOtherLimits,      // the node has registered the function with other limits
  kCallerQueueFull,  // value[0]: invocations of this caller that may wait
  kNotOnThatNode,    // no attached node of the name that the call gives has the function
  kAttemptDeadline,  // value[0]: attempts made; the last one was past the function's deadline
  kKeptBackFull,     // value[0]: bytes that the node keeps back, [1]: bytes that it may
  kLogFailed,        // value[0]: errno, [1]: 1 = nothing has been written
  kDamaged,          // the object was found damaged in the pool's memory
};

// A payload of so many bytes at most may travel in the lane, beside its reply: then extent_offset
// is kInLane plus their number, and nobody has to release it.
inline constexpr std::size_t kLanePayloadBytes = 192;
inline constexpr std::uint64_t kInLane = std::uint64_t{1} << 63;

struct Reply {
  std::uint16_t code;  // absl::StatusCode
  Reason reason;
  std::uint64_t version;
  std::uint64_t extent_offset;  // 0 = none
  std::uint64_t value[3];       // by op and reason
};
static_assert(sizeof(Reply) == 48);
// Whoever wrote the reply.
constexpr std::size_t LanePayloadBytes(const Reply& reply) {
  const std::uint64_t bytes = reply.extent_offset & ~kInLane;
  return bytes < kLanePayloadBytes ? bytes : kLanePayloadBytes;
}
static_assert(std::is_trivially_copyable_v<Reply> && std::is_standard_layout_v<Reply>);

// "Whatever you hold of this object that is older than `version` is stale." The extent of the
// version that was current until now goes with it: a node may still be reading that although the
// object has left its cache.
struct Invalidation {
  std::uint64_t key_hash;
  std::uint64_t version;
  std::uint64_t old_extent;     // 0 = there was none
  std::uint64_t visible_at_ns;  // 0 = at once
};
static_assert(sizeof(Invalidation) == 32);
static_assert(std::is_trivially_copyable_v<Invalidation>);

}  // namespace apta::fabric
