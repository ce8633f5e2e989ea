// GetMany: when do versions of several objects, got one after the other, make one consistent cut,
// in every coherence mode?
//
// They do if there is a moment at which all of them were current. Two proofs:
//
//   words   All were found in this node's cache, as a registered sharer, or filled into it, and
//   from
//           before the first to after the last nothing was invalidated that had not been applied
//           before. Then each stood from when it was got until the end. (A home publishes a
//           commit's invalidations, for a group those of all its keys, before the first slot
//           changes.) No message and no look at the heap: what a cut of cached objects costs.
//   heap    After the last was got, the index still named each of them, and no commit group was
//   being
//           made visible meanwhile. Versions do not come back, so each was current at the moment
//           between. Whatever has moved is got again.
//
// A state machine for one thread: no system call, no clock, no waiting.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "compute/cache.h"
#include "fabric/clock.h"
#include "fabric/superblock.h"

namespace apta::compute {

class Cut {
 public:
  // `cache` and what the keys refer to outlive it.
  explicit Cut(Cache* cache) : cache_(cache) {}
  void Add(std::uint64_t key_hash, std::string_view key) {
    objects_.push_back({.key_hash = key_hash, .key = key});
  }

  // Before each round of gets.
  void Begin(fabric::TimeNs now_ns);
  // `is_registered`: pinned in the cache, not copied by somebody whom the home does not know.
  void Got(std::size_t index, std::uint64_t version, bool is_registered);

  // After the round.
  bool StandsByWords() const;
  // Those that are to be got again; none: it is a cut. nullopt: look again in a moment.
  std::optional<std::vector<std::size_t>> MovedInHeap() const;

 private:
  struct Wanted {
    std::uint64_t key_hash;
    std::string_view key;
    std::uint64_t version = 0;
  };

  Cache* const cache_;
  std::vector<Wanted> objects_;
  std::array<std::uint64_t, fabric::kMaxShards> applied_{};  // when the first round began
  bool has_begun_ = false;
  bool may_stand_by_words_ = true;
};

}  // namespace apta::compute
