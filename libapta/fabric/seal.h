// Seals: what tells whether an object in a region is still what was put there. XXH3-64 of header
// (but for the seal itself), key and payload; stands in the header, put there by whoever writes the
// extent, when it has the time (daemon/scrub.h). 0 = not yet.
#pragma once

#include <cstdint>

#include "fabric/extent.h"
#include "fabric/hash.h"

namespace apta::fabric {

// Of one object, in pieces. Not thread-safe.
class Seal {
 public:
  // REQUIRES: the header was checked (IndexView::HeaderAt).
  explicit Seal(const ExtentHeader& header) {
    ExtentHeader sealed = header;
    sealed.checksum = 0;
    XXH3_64bits_reset(&state_);
    XXH3_64bits_update(&state_, &sealed, sizeof(sealed));
    XXH3_64bits_update(&state_, header.key_data(), header.key_bytes);
  }
  void Add(const std::byte* from, std::uint64_t bytes) { XXH3_64bits_update(&state_, from, bytes); }
  std::uint64_t Value() const {
    const std::uint64_t digest = XXH3_64bits_digest(&state_);
    return digest != 0 ? digest : 1;
  }

 private:
  XXH3_state_t state_;
};

inline std::uint64_t SealOf(const ExtentHeader& header) {
  Seal seal(header);
  seal.Add(header.payload(), header.payload_bytes);
  return seal.Value();
}

}  // namespace apta::fabric
