// GETC, the GET controller of the compute side: what one get does, in every coherence mode.
//
//   hit                        strict, lazy, sync: no message (Find)
//   miss                       one request to the home; threads of a node share a fill (MSHR)
//   versioned                  a cached copy is served when the home confirms its version
//   uncached                   no message: the heap is read where it is, copied and checked
//   the home sleeps            a small object likewise, in every mode; see was_unregistered
//   untracked                  likewise, when the home has answered that it keeps no note of us
//   kLocalCopy                 the home's answer says where; copied and checked
//
// A state machine for one thread: no system call, no clock, no waiting. Its shell (a blocking
// client call, or the simulator) carries requests and waits.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "apta/client.h"
#include "compute/cache.h"
#include "compute/pins.h"
#include "compute/private_copy.h"
#include "fabric/clock.h"
#include "fabric/message.h"

namespace apta::compute {

// What a get brings: a pinned version (pin set), or a copy that nobody else has (copy set).
struct Got {
  std::optional<PinnedExtent> pinned;
  PrivateCopy::Owner copy;
};

class Getc {
 public:
  // A hit, pinned, without a lock; nullopt: a Getc follows, which may find one after all.
  // Model rule: STRICT_LOOK
  static std::optional<PinnedExtent> Find(Cache* cache, std::uint64_t key_hash,
                                          std::string_view key, PinTable* table) {
    const int shard = static_cast<int>(cache->view().ShardOf(key_hash));
    if (!cache->MayHit(shard)) return std::nullopt;
    const std::optional<PinnedExtent> hit = cache->Lookup(key_hash, key, table);
    if (hit && IsDead(*cache)) [[unlikely]] {
      hit->pin->Drop();
      return std::nullopt;
    }
    return hit;
  }

  // `key` outlives it. `copies`: versions are read from private copies (Placement::kLocalCopy).
  // `follows`: it may wait for what another thread has asked the home; not for one that others wait
  // for, an agent's.
  Getc(Cache* cache, std::uint64_t key_hash, std::string_view key, PinTable* table, bool copies,
       bool follows = true);
  ~Getc();
  Getc(const Getc&) = delete;
  Getc& operator=(const Getc&) = delete;

  enum class Step {
    kAsk,       // send kGet with argument(); then OnReply, or OnNoReply
    kReadHeap,  // when a message to the home would have arrived: OnReadHeap. From there: again
    kFollow,    // when fill() has ended: OnFillEnded
    kFound,     // Take
    kNotFound,  // there is no such object; the home's reply says so, if there is one
    kDead,      // the memory server has died: what was found may be what its successor has reused
  };
  // kFound: a hit. `home_sleeps`: what is small is read without it, and nobody waits for it to wake
  // up. If the cache is_fenced afterwards, nothing else counts.
  Step Begin(bool home_sleeps, fabric::TimeNs now_ns);
  std::uint64_t argument() const { return held_.header != nullptr ? held_.header->version : 0; }
  Step OnReply(const fabric::Reply& reply);
  void OnNoReply();
  Step OnReadHeap();
  const Cache::Fill& fill() const { return *fill_; }
  Step OnFillEnded();
  const Got& got() const { return got_; }
  Got Take() { return std::exchange(got_, {}); }
  // Whether a fill of ours held an acknowledgement back until now: a home that sleeps may wait for
  // it.
  bool held_back() const { return held_back_; }
  // Read without the home, which keeps track of sharers: if somebody gets it again while the home
  // is awake, later gets are hits.
  bool was_unregistered() const { return was_unregistered_; }

 private:
  // Copying more would take longer than waking the home.
  static constexpr std::uint64_t kSmallBytes = 4096;

  static bool IsDead(const Cache& cache) {
    return !cache.life().IsAlive() && fabric::Upholds(fabric::Rule::kLifeLook);
  }
  // After what was found was read or pinned (see Cache::life).
  Step Vouched(Step step) const { return IsDead(*cache_) ? Step::kDead : step; }
  Step BeginAgain();
  Step Lead(const Cache::Miss& miss);
  Step Ask();
  bool MayRead(const fabric::IndexView::Place& place) const;
  Step Found(const PinnedExtent& pinned);
  void AbandonFill();
  void DropHeld();

  Cache* const cache_;
  const std::uint64_t key_hash_;
  const std::string_view key_;
  PinTable* const table_;
  const bool copies_;
  const bool follows_;
  Cache::Fill* fill_ = nullptr;
  bool leads_ = false;  // fill_ is ours to end
  PinnedExtent held_;   // versioned: the copy that the home is asked about
  Got got_;
  bool held_back_ = false;
  bool was_unregistered_ = false;
};

}  // namespace apta::compute
