// Blocking back-invalidation (mode `sync`, protocol.md): puts that wait at their home for all
// acknowledgements, and the requests of the same objects that wait behind them, in order.
//
// Part of a home; one thread, no system call, no clock. Allocates: this mode is a baseline.
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

  // A change of the object waits for acknowledgements: requests for it are to be deferred.
  bool IsBusy(std::uint64_t key_hash) const {
    const auto found = waiting_.find(key_hash);
    return found != waiting_.end() && found->second.change.has_value();
  }
  // REQUIRES: not busy.
  void Begin(const Change& change) { waiting_[change.key_hash].change = change; }
  // REQUIRES: busy.
  void Defer(Deferred deferred);

  // Every sharer has acknowledged `version`: the change to make now.
  std::optional<Change> Take(std::uint64_t key_hash, Version version);
  // Requests that may go on, in order, one at a time: each is to be carried out before the next
  // call, and may begin another change of its object.
  std::optional<Deferred> NextReady();

  // The node's deferred requests are dropped; `discard` gets their extents. A change of its own
  // that waits for others will be made, and answered to nobody (kNoLane).
  void ForgetNode(NodeId node, const std::function<void(std::uint64_t)>& discard);

 private:
  struct Waiting {
    std::optional<Change> change;
    std::deque<Deferred> queue;
  };
  absl::flat_hash_map<std::uint64_t, Waiting> waiting_;
  std::deque<std::uint64_t> ready_;  // objects whose change was taken
};

}  // namespace apta::daemon
