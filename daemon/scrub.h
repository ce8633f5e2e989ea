// The scrub of one home's share of a pool of durability `region`: goes round its objects at a
// bounded rate, puts a seal (seal.h) on those that have none yet, and compares the others with
// theirs. So puts pay nothing for checksums, and memory that decays is found while it is not used.
//
// A pure state machine of its home's thread, which is why an object that it looks at cannot change
// within a step; between steps it may, and then counts no more. Takes a slice at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "daemon/pool.h"
#include "fabric/clock.h"
#include "fabric/seal.h"

namespace apta::daemon {

class Scrub {
 public:
  static constexpr std::uint64_t kSliceBytes = 64 << 10;
  // What looking at a bucket, or an object without payload, counts for: it takes as long.
  static constexpr std::uint64_t kLookBytes = 512;
  // A home that sleeps is not woken for less.
  static constexpr std::uint64_t kWakeBytes = 1 << 20;
  // From the end of a round to the begin of the next: when something has been put since, and when
  // nothing has.
  static constexpr fabric::TimeNs kRestNs = 500'000'000;
  static constexpr fabric::TimeNs kCalmRestNs = 3'600'000'000'000;

  struct Finding {
    fabric::IndexSlot* slot;
    std::uint64_t extent;
    std::string key;
    // Of the slot, and of the key if that is the header's; nodes know the object by it.
    std::uint64_t key_hash;
    bool is_key_whole;
  };

  // REQUIRES: bytes_per_second > 0.
  Scrub(Pool* pool, int shard, std::uint64_t bytes_per_second);

  // Does a slice, if it is time. What it returns is damaged, and still in the index.
  std::optional<Finding> Step(fabric::TimeNs now_ns);
  // Whether a step would do something now.
  bool IsDue(fabric::TimeNs now_ns) const;
  // When a home that has nothing else to do should step again.
  fabric::TimeNs wake_ns() const;

 private:
  struct Current {
    fabric::IndexSlot* slot;
    std::uint64_t word;  // what the slot says
    std::uint64_t version;
    const std::byte* payload;  // as it was checked: the header may decay meanwhile
    std::uint64_t payload_bytes;
    std::uint64_t done_bytes;
    fabric::Seal seal;
  };

  // The next object; false: the round has ended.
  bool Begin(std::uint64_t* looked_at_bytes, std::optional<Finding>* finding);
  void BeginAt(fabric::IndexSlot* slot, std::optional<Finding>* finding);
  bool IsSame(const Current& current) const;
  std::optional<Finding> End();
  void EndRound(fabric::TimeNs now_ns);
  Version LastVersion() const;
  fabric::ExtentHeader* HeaderOf(const Current& current) const;

  Pool* const pool_;
  HeapShare* const share_;
  const std::uint64_t shard_;
  const std::uint64_t bytes_per_second_;

  std::uint64_t bucket_;        // that comes next, or is being looked at
  std::uint64_t position_ = 0;  // of the next slot in it
  std::optional<Current> current_;
  Version began_at_version_ = 0;  // the round
  fabric::TimeNs next_ns_ = 0;
  fabric::TimeNs calm_until_ns_ = 0;  // 0: in a round
};

}  // namespace apta::daemon
