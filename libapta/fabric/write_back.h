// Write-back of cache lines to persistent memory: what a store needs, besides being made, to
// survive a power loss. A region on any other medium has none (a null pointer, and one branch).
//
// Thread-safe, without state.
#pragma once

#include <cstdint>

namespace apta::fabric {

class WriteBack {
 public:
  virtual ~WriteBack() = default;
  // Starts writing back the lines that hold these bytes; they may stay in the cache.
  virtual void Lines(const void* from, std::uint64_t bytes) = 0;
  // What this thread began to write back is durable before any of its later stores.
  virtual void Fence() = 0;
};

// With the best instruction that this machine has: clwb, clflushopt or clflush.
WriteBack* MachineWriteBack();

}  // namespace apta::fabric
