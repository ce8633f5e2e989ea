// The link model: when a message may be seen by its receiver (protocol.md, "Emulated link").
#pragma once

#include <algorithm>
#include <cstdint>

#include "apta/server.h"
#include "fabric/clock.h"

namespace apta::fabric {

// One direction of one link. The sender asks it for the stamp of each message; the receiver does
// not look at a message before its stamp. Not thread-safe. Deterministic: jitter comes from a
// generator seeded by the caller.
class LinkDirection {
 public:
  LinkDirection() = default;
  LinkDirection(const LinkOptions& options, std::uint64_t seed)
      : options_(options), random_(seed | 1) {}

  bool enabled() const { return options_.enabled(); }

  // The instant at which a message of `bytes` that is sent at `now_ns` may be seen. Messages queue
  // for the link's bandwidth one after another.
  TimeNs VisibleAt(TimeNs now_ns, std::uint64_t bytes, bool is_call) {
    TimeNs when_ns = now_ns;
    if (options_.bandwidth_gbps > 0) {
      const auto occupied_ns =
          static_cast<TimeNs>(static_cast<double>(bytes) * 8 / options_.bandwidth_gbps);
      busy_until_ns_ = std::max(busy_until_ns_, now_ns) + occupied_ns;
      when_ns = busy_until_ns_;
    }
    when_ns += options_.latency_ns + (is_call ? options_.call_ns : 0);
    if (options_.jitter_ns > 0) {
      random_ ^= random_ << 13;  // xorshift64
      random_ ^= random_ >> 7;
      random_ ^= random_ << 17;
      when_ns += random_ % (options_.jitter_ns + 1);
    }
    return when_ns;
  }

 private:
  LinkOptions options_;
  TimeNs busy_until_ns_ = 0;
  std::uint64_t random_ = 1;
};

}  // namespace apta::fabric
