// Objects that are busy, and the requests for them that wait, in order. Busy is an object whose put
// waits at its home for all acknowledgements (blocking back-invalidation: mode `sync`,
// protocol.md), and one that a commit group has been prepared for.
//
// Part of a home; one thread, no system call, no clock. Allocates: mode `sync` is a baseline, a
// group holds its objects for a moment, and what waits for a log waits for a disk.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "apta/object.h"
#include "fabric/index.h"
#include "fabric/message.h"
#include "scheduler/executor_manager.h"

namespace apta::daemon {

using fabric::NodeId;

// A put or delete that has its version and only has to be made visible and answered.
struct Change {
  scheduler::Waiter from;
  std::uint64_t key_hash = 0;
  fabric::IndexSlot* slot = nullptr;
  std::uint64_t extent = 0;  // 0: a delete
  Version version = 0;
  bool tracked = false;            // the writer may cache what it wrote
  std::uint64_t own_sequence = 0;  // of the writer's own record; 0 = none
  std::uint64_t old_extent = 0;
};

class BlockingPuts {
 public:
  struct Deferred {
    scheduler::Waiter from;
    fabric::Op op;  // kGet, kPut or kDelete
    std::uint64_t key_hash = 0;
    std::string key;             // of a get or delete
    std::uint64_t argument = 0;  // of the request
    std::uint64_t extent = 0;    // of a put
  };

  // Changes of the object are to be deferred.
  bool IsBusy(std::uint64_t key_hash) const {
    if (waiting_.empty()) return false;
    const auto found = waiting_.find(key_hash);
    return found != waiting_.end() && found->second.is_busy();
  }
  // And gets, too.
  bool IsUnreadable(std::uint64_t key_hash) const {
    if (waiting_.empty()) return false;
    const auto found = waiting_.find(key_hash);
    return found != waiting_.end() && found->second.is_busy() && !found->second.is_readable;
  }
  bool IsIdle() const { return waiting_.empty() && ready_.empty(); }
  // REQUIRES: not busy.
  void Begin(const Change& change) { waiting_[change.key_hash].change = change; }
  // A commit group's, until LetGo. REQUIRES: not busy. `is_readable`: gets go on, until
  // HoldFromGets.
  void Hold(std::uint64_t key_hash, bool is_readable) {
    waiting_[key_hash].is_held = true;
    waiting_[key_hash].is_readable = is_readable;
  }
  void HoldFromGets(std::uint64_t key_hash) { waiting_.find(key_hash)->second.is_readable = false; }
  void LetGo(std::uint64_t key_hash);
  // REQUIRES: busy.
  void Defer(Deferred deferred);

  // Every sharer has acknowledged `version`: the change to make now.
  std::optional<Change> Take(std::uint64_t key_hash, Version version);
  // Requests whose object is busy no more, in order, one at a time: each is to be carried out
  // before the next call, and may begin another change of its object.
  std::optional<Deferred> NextReady();

  // The node's deferred requests are dropped; `discard` gets their extents. A change of its own
  // that waits for others will be made, and answered to nobody (kNoLane).
  void ForgetNode(NodeId node, const std::function<void(std::uint64_t)>& discard);

 private:
  struct Waiting {
    std::optional<Change> change;  // that waits for acknowledgements
    bool is_held = false;
    bool is_readable = false;  // while it is held
    bool is_busy() const { return change.has_value() || is_held; }
    std::deque<Deferred> queue;
  };
  absl::flat_hash_map<std::uint64_t, Waiting> waiting_;
  std::deque<std::uint64_t> ready_;  // objects that were busy
};

}  // namespace apta::daemon
