// The one hash of keys: it names an object in caches, directory and invalidations, chooses its
// bucket in the index and thereby its home.
#pragma once

#include <cstdint>
#include <string_view>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace apta::fabric {

// XXH3-64. Two keys with the same hash are told apart by the index, which compares keys; for
// coherence they are one object: an invalidation of one also invalidates the other, which costs
// a miss and breaks nothing. 0 is never returned, so that it can mean "none".
inline std::uint64_t KeyHash(std::string_view key) {
  const std::uint64_t hash = XXH3_64bits(key.data(), key.size());
  return hash != 0 ? hash : 1;
}

}  // namespace apta::fabric
