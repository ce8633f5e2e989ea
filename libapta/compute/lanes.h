// Which lanes of the port are free. One lane carries one request of one thread at a time. Those for
// waiting are given out apart from the others, which they must not use up.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "fabric/port.h"

namespace apta::compute {

// Thread-safe; lock-free while there are free lanes.
class Lanes {
 public:
  // A free lane, the one that the calling thread used last if it can be had: its staging area and
  // its lines are warm. -1 = all are busy: look again later.
  int TryClaim() {
    thread_local std::size_t t_last = 0;
    for (std::size_t i = 0; i < fabric::kLanes; ++i) {
      const std::size_t lane = (t_last + i) % fabric::kLanes;
      std::atomic<bool>& is_busy = own_[lane].is_busy;
      // Acquire: what the last user of the lane did is over; partner of the release in Free.
      if (i > 0 && is_busy.load(std::memory_order_relaxed)) continue;
      if (is_busy.exchange(true, std::memory_order_acquire)) continue;
      t_last = lane;
      return static_cast<int>(lane);
    }
    return -1;
  }
  void Free(int lane) {
    of(lane).is_busy.store(false, std::memory_order_release);  // partner: TryClaim
  }

  // A request that nobody waits for any more keeps its lane until the home has answered it: the
  // home may still be reading its staging area.
  void Abandon(int lane) {
    abandoned_.fetch_or(std::uint64_t{1} << lane, std::memory_order_release);  // partner: Reap
  }
  // Frees abandoned lanes whose answer has come.
  void Reap(const fabric::Port& port) {
    for (std::uint64_t rest = abandoned_.load(std::memory_order_acquire); rest != 0;
         rest &= rest - 1) {
      const int lane = std::countr_zero(rest);
      const std::uint64_t bit = std::uint64_t{1} << lane;
      if (port.lane(lane)->done_id.load() != last_id(lane)) continue;
      if ((abandoned_.fetch_and(~bit) & bit) != 0) Free(lane);
    }
  }
  // A free lane for waiting; -1 = there is none.
  int ClaimForWaiting() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (free_for_waiting_.empty()) {
      if (end_.load() == kAllLanes) return -1;
      return end_.fetch_add(1);
    }
    const int lane = free_for_waiting_.back();
    free_for_waiting_.pop_back();
    return lane;
  }
  void FreeForWaiting(int lane) {
    std::lock_guard<std::mutex> lock(mutex_);
    free_for_waiting_.push_back(lane);
  }
  // Whoever waits, now or later, does so in a lane below this one, or has yet to claim it.
  // Sequentially consistent, as what its waiter looks at next (Session::Fail).
  int end() const { return end_.load(); }

  bool has_abandoned() const { return abandoned_.load(std::memory_order_relaxed) != 0; }

  // Owner of the lane. Ids are never 0 and differ from the last one.
  std::uint32_t NextId(int lane) {
    std::uint32_t& id = lane < fabric::kLanes ? of(lane).id : wait_id_[IndexOf(lane)];
    if (++id == 0) ++id;
    return id;
  }
  std::uint32_t last_id(int lane) const {
    return lane < fabric::kLanes ? own_[static_cast<std::size_t>(lane)].id
                                 : wait_id_[IndexOf(lane)];
  }
  // Owner of the lane: where in its staging ring a body of `bytes` begins, and its key does not
  // wrap. Bodies follow one another.
  std::uint16_t TakeStaging(int lane, std::uint64_t bytes) {
    std::uint64_t& next = of(lane).next_page;
    const std::uint64_t page = next;
    next = (page + (bytes + fabric::kPageBytes - 1) / fabric::kPageBytes) % fabric::kStagingPages;
    return static_cast<std::uint16_t>(page);
  }

  // Owner of the lane. True once, when bodies have shown that they come one after the other: the
  // rest of the ring is to be populated then, instead of page by page under way.
  bool TakePopulating(int lane) {
    if (of(lane).next_page < kPopulateAfterPages) return false;
    return !std::exchange(of(lane).is_populated, true);
  }

 private:
  static constexpr std::uint64_t kPopulateAfterPages = 32;
  static constexpr int kAllLanes = fabric::kLanes + fabric::kWaitLanes;
  static_assert(fabric::kLanes == 64, "one bit per lane");

  // The lane's owner's; a line of its own.
  struct alignas(fabric::kCacheLineBytes) Own {
    std::atomic<bool> is_busy{false};
    bool is_populated = false;
    std::uint32_t id = 0;
    std::uint64_t next_page = 0;
  };
  Own& of(int lane) { return own_[static_cast<std::size_t>(lane)]; }
  static std::size_t IndexOf(int wait_lane) {
    return static_cast<std::size_t>(wait_lane - fabric::kLanes);
  }

  std::array<Own, fabric::kLanes> own_;
  std::array<std::uint32_t, fabric::kWaitLanes> wait_id_{};  // all that those have of their own
  std::atomic<std::uint64_t> abandoned_{0};
  std::atomic<int> end_{fabric::kLanes};
  std::mutex mutex_;
  std::vector<int> free_for_waiting_;  // under mutex_
};

}  // namespace apta::compute
