// OSC, the Object Serving Controller of one home: translates an object to its extent and serves it
// whole. In place: what a node gets is the extent's offset, the bytes stay where they are.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "apta/object.h"
#include "daemon/pool.h"

namespace apta::daemon {

// One thread, no state of its own; a look-up costs the lines of one bucket and one header.
class Osc {
 public:
  struct Served {
    fabric::IndexSlot* slot;
    std::uint64_t extent;
    // Copied: in a trusted pool clients can write to headers.
    Version version;
    std::uint64_t payload_bytes;
  };

  Osc(Pool* pool, int shard) : share_(&pool->share(shard)) {}

  std::optional<Served> Translate(std::uint64_t key_hash, std::string_view key) const {
    fabric::ExtentHeader header;
    fabric::IndexSlot* slot = share_->index.FindWritable(key_hash, key, &header);
    if (slot == nullptr) return std::nullopt;
    // Relaxed: this home is the slot's only writer.
    const std::uint64_t extent = fabric::SlotExtentOffset(slot->load(std::memory_order_relaxed));
    return Served{slot, extent, header.version, header.payload_bytes};
  }

 private:
  HeapShare* share_;
};

}  // namespace apta::daemon
