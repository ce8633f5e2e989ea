// Coherence modes (protocol.md, "Coherence modes"), and the rules of the protocol by name.
#pragma once

#include <array>
#include <cstdint>
#ifdef APTA_MUTATION
#include <functional>
#endif
#include <optional>
#include <string_view>

namespace apta::fabric {

// What a pool promises of cached objects; fixed-width, it travels in the welcome.
enum class Coherence : std::uint32_t {
  kStrict = 0,     // a hit looks at the invalidation word first
  kLazy = 1,       // a hit does not look; the node's agent applies invalidations
  kSync = 2,       // as lazy, but a put commits only when every sharer has acknowledged
  kVersioned = 3,  // a hit asks the home whether its version is current
  kUncached = 4,   // every get reads the heap
};
inline constexpr std::array<std::string_view, 5> kCoherenceNames = {"strict", "lazy", "sync",
                                                                    "versioned", "uncached"};

inline std::optional<Coherence> ParseCoherence(std::string_view name) {
  for (std::uint32_t i = 0; i < kCoherenceNames.size(); ++i) {
    if (kCoherenceNames[i] == name) return static_cast<Coherence>(i);
  }
  return std::nullopt;
}

// Whether homes keep a directory of sharers and invalidate them. Without, a reader protects itself:
// it copies and then checks that the version still stands (index.h, invariant 4).
constexpr bool TracksSharers(Coherence mode) {
  return mode == Coherence::kStrict || mode == Coherence::kLazy || mode == Coherence::kSync;
}

// The rules that the protocol stands on. Each is named where the code upholds it, in the model
// (tests/model), and in the mutation check, which switches one off at a time to see that the
// simulator notices. In every other build a rule holds, and Upholds is a constant.
enum class Rule : std::uint8_t {
  kNone = 0,
  kInvalidateBeforeCommit,  // invalidations are published before the index names the new version
  kStrictLook,              // a strict hit looks at the invalidation word
  kFillDelaysAck,           // no acknowledgement before the fill that it met has been resolved
  kOvertakenFillNotCached,  // a fill older than an invalidation that it met is not cached
  kHoldBeforeAck,           // pinned extents are listed before their invalidation is acknowledged
  kReleaseAfterAck,         // an extent is reused only after all holders have acknowledged
  kReleaseAfterHold,        // ... and none of them lists it
  kOwnPutReplaces,          // a put replaces its node's own entry before it returns
  kDropAllOnOverflow,       // a node that finds a mark drops its whole cache
  kScheduleOnlyClean,       // nothing starts on a node that owes an acknowledgement
  kEvictionInvalidates,     // a directory entry goes only when its sharers have been invalidated
  kFencedStaysQuarantined,  // what a fenced node may read stays until it is gone
  kFencedWord,              // a fenced node finds no hit any more
  kSyncWaits,               // sync: a put commits when every sharer has acknowledged
  kUntrackedNotCached,      // what the directory has no room for is not cached in place
  kCheckAfterCopy,          // an unregistered reader looks at version and slot again
  kAskBeforeHit,            // versioned: a hit asks the home
  kDeadOwesNothing,         // a dead node leaves every round
  kLifeLook,                // what was found counts if the memory server still lives then
  kGroupTogether,           // all index slots of a commit group change in one step
  kCutHolds,                // GetMany: all that was read still stands when the last was
  kOneAttemptCommits,       // effects commit when their attempt counts, once
  kDurableBeforeTold,       // a log's record counts when it is durable
  kVersionsGoOn,            // what recovery finds in the log used up its versions
  kUnappliedStays,          // the log keeps what is not in the index: no checkpoint has it
  kCount,
};

#ifdef APTA_MUTATION
#ifndef APTA_BROKEN_RULE  // of a whole program
#define APTA_BROKEN_RULE kNone
#endif
inline thread_local Rule t_broken_rule = Rule::APTA_BROKEN_RULE;
inline bool Upholds(Rule rule) { return t_broken_rule != rule; }
#else
constexpr bool Upholds(Rule) { return true; }
#endif

// Tells the simulator what the directory is asked for, and when it has answered: when the witness
// goes. Nothing in every other build.
enum class Asked : std::uint8_t { kGet, kPut, kDelete, kAckComplete, kEvict, kDead };
#ifdef APTA_MUTATION
inline thread_local std::function<void(Asked, std::uint64_t key_hash, std::uint32_t node,
                                       bool has_answered)>
    t_witness;
class Witness {
 public:
  Witness(Asked asked, std::uint64_t key_hash, std::uint32_t node = 0)
      : asked_(asked), key_hash_(key_hash), node_(node) {
    if (t_witness) t_witness(asked_, key_hash_, node_, false);
  }
  ~Witness() {
    if (t_witness) t_witness(asked_, key_hash_, node_, true);
  }
  Witness(const Witness&) = delete;
  Witness& operator=(const Witness&) = delete;

 private:
  const Asked asked_;
  const std::uint64_t key_hash_;
  const std::uint32_t node_;
};
#else
struct Witness {
  constexpr explicit Witness(Asked, std::uint64_t = 0, std::uint32_t = 0) {}
};
#endif

// Marks a place within a step where what other processes do makes a difference: there the simulator
// lets them run.
#ifdef APTA_MUTATION
inline thread_local std::function<void()> t_interleaved;
inline void Interleave() {
  if (t_interleaved) t_interleaved();
}
#else
constexpr void Interleave() {}
#endif

}  // namespace apta::fabric
