// Payloads of calls that fit into a lane: kept beside the heap, in as many slots as there ever were
// at a time. A home's own; not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "apta/object.h"
#include "fabric/message.h"
#include "scheduler/environment.h"

namespace apta::daemon {

class SmallPayloads {
 public:
  // Whether the payload is one of these, and no extent.
  static bool IsSmall(scheduler::Payload payload) { return (payload.extent & kMark) != 0; }

  // REQUIRES: at most kLanePayloadBytes.
  scheduler::Payload Keep(BytesView content) {
    if (free_.empty()) {
      free_.push_back(static_cast<std::uint32_t>(slot_.size()));
      slot_.emplace_back();
    }
    const std::uint32_t index = free_.back();
    free_.pop_back();
    Slot& slot = slot_[index];
    slot.bytes = content.size();
    std::memcpy(slot.content.data(), content.data(), content.size());
    return {kMark | index};
  }
  // REQUIRES of these: IsSmall, and kept.
  BytesView Get(scheduler::Payload payload) const {
    const Slot& slot = slot_[static_cast<std::uint32_t>(payload.extent)];
    return {slot.content.data(), slot.bytes};
  }
  void Release(scheduler::Payload payload) {
    free_.push_back(static_cast<std::uint32_t>(payload.extent));
  }

 private:
  static constexpr std::uint64_t kMark = std::uint64_t{1} << 63;
  struct Slot {
    std::size_t bytes = 0;
    std::array<std::byte, fabric::kLanePayloadBytes> content;
  };
  std::deque<Slot> slot_;
  std::vector<std::uint32_t> free_;
};

}  // namespace apta::daemon
