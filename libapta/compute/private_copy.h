// Copies of object versions in this process's own memory: for far memory and emulated links
// (Placement::kLocalCopy), and for gets that are registered nowhere.
//
// Laid out as an extent, so that readers need not know where a version is.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "fabric/extent.h"
#include "fabric/index.h"

namespace apta::compute {

class PrivateCopy {
 public:
  struct Delete {
    void operator()(PrivateCopy* copy) const { copy->Drop(); }
  };
  using Owner = std::unique_ptr<PrivateCopy, Delete>;

  // Copies the version that stands at `place`, or nullptr: something else does by now. Any thread;
  // the reader need not be registered. One allocation, one copy.
  static Owner Make(const fabric::IndexView& view, const fabric::IndexView::Place& place,
                    std::string_view key);

  const fabric::ExtentHeader* header() const {
    return reinterpret_cast<const fabric::ExtentHeader*>(this + 1);
  }
  // Relaxed: whoever shares holds a reference.
  void Share() { references_.fetch_add(1, std::memory_order_relaxed); }
  // Any thread; the last one frees it. Acquire and release: all reads of the bytes end before.
  void Drop();

  // As a place in the cache (see Cache::Place): the address, with a bit that no offset has.
  static constexpr std::uint64_t kPlaceBit = std::uint64_t{1} << 48;
  static bool IsPlace(std::uint64_t place) { return (place & kPlaceBit) != 0; }
  std::uint64_t place() const { return reinterpret_cast<std::uintptr_t>(this) | kPlaceBit; }
  static PrivateCopy* At(std::uint64_t place) {
    return reinterpret_cast<PrivateCopy*>(place & ~kPlaceBit);
  }

 private:
  explicit PrivateCopy(void* block) : block_(block) {}

  // A line of its own: the header that follows is cache-line aligned, as in the heap.
  alignas(fabric::kCacheLineBytes) std::atomic<std::uint64_t> references_{1};
  void* const block_;  // what was allocated
};
static_assert(sizeof(PrivateCopy) == fabric::kCacheLineBytes);

}  // namespace apta::compute
