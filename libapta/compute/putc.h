// PUTC, the PUT controller of the compute side: what a put, a commit in place, or a delete does to
// its node's own cache.
//
// The entry is replaced before the put returns, so that the next get of this node reads that put or
// a newer one, whatever of the home's records is still under way. A state machine; thread-safe as
// the cache is.
#pragma once

#include <cstdint>
#include <memory>

#include "compute/cache.h"
#include "fabric/message.h"

namespace apta::compute {

class Putc {
 public:
  Putc(Cache* cache, std::uint64_t key_hash) : cache_(cache), fill_(cache->BeginPut(key_hash)) {}
  ~Putc() {
    if (fill_ != nullptr) cache_->AbandonFill(fill_);
  }
  Putc(const Putc&) = delete;
  Putc& operator=(const Putc&) = delete;

  int shard() const { return fill_->shard(); }
  // REQUIRES: reply.code == 0; else just drop this. `copies`: nothing is cached in place. False:
  // the node's own record of the put is in its ring, or it has none.
  bool OnReply(const fabric::Reply& reply, std::uint64_t payload_bytes, bool copies) {
    const bool may_cache = (reply.value[0] & fabric::kUntracked) == 0 && !copies;
    return cache_->EndPut(std::exchange(fill_, nullptr),
                          {.version = reply.version,
                           .extent = may_cache ? reply.extent_offset : 0,
                           .payload_bytes = payload_bytes,
                           .own_sequence = reply.value[1],
                           .old_extent = reply.value[2]});
  }

 private:
  Cache* cache_;
  std::shared_ptr<Cache::Fill> fill_;
};

}  // namespace apta::compute
