// PUTC, the PUT controller of the compute side: what a put, a commit in place, or a delete does to
// its node's own cache.
//
// The entry is replaced before the put returns, so that the next get of this node reads that put or
// a newer one, whatever of the home's records is still under way. A state machine; thread-safe as
// the cache is.
#pragma once

#include <cstdint>
#include <utility>

#include "compute/cache.h"
#include "fabric/message.h"

namespace apta::compute {

class Putc {
 public:
  Putc(Cache* cache, std::uint64_t key_hash)
      : cache_(cache), key_hash_(key_hash), id_(cache->BeginPut(key_hash)) {}
  ~Putc() {
    if (cache_ != nullptr) cache_->AbandonPut(id_);
  }
  Putc(const Putc&) = delete;
  Putc& operator=(const Putc&) = delete;

  std::uint64_t key_hash() const { return key_hash_; }
  // REQUIRES: reply.code == 0; else just drop this. `copies`: nothing is cached in place.
  void OnReply(const fabric::Reply& reply, std::uint64_t payload_bytes, bool copies,
               fabric::TimeNs now_ns) {
    const bool may_cache = (reply.value[0] & fabric::kUntracked) == 0 && !copies;
    std::exchange(cache_, nullptr)
        ->EndPut(id_, key_hash_,
                 {.version = reply.version,
                  .extent = may_cache ? reply.extent_offset : 0,
                  .payload_bytes = payload_bytes,
                  .issued = reply.value[1],
                  .has_own_record = (reply.value[0] & fabric::kOwnRecord) != 0,
                  .old_extent = reply.value[2]},
                 now_ns);
  }

 private:
  Cache* cache_;  // nullptr: ended
  const std::uint64_t key_hash_;
  const Cache::PutId id_;
};

}  // namespace apta::compute
