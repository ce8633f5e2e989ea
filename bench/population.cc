#include "population.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace apta::bench {

absl::Status AwaitPopulation(const Client& client) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::seconds kPatience(60);
  std::uint64_t last_bytes = 0;
  for (auto changed = Clock::now();;) {
    const absl::StatusOr<std::vector<PoolInfo>> pools = client.Pools();
    if (!pools.ok()) return pools.status();
    const auto waiting = std::ranges::find_if(
        *pools, [](const PoolInfo& pool) { return pool.bytes_populated < pool.bytes; });
    if (waiting == pools->end()) return absl::OkStatus();
    std::uint64_t bytes = 0;
    for (const PoolInfo& pool : *pools) bytes += pool.bytes_populated;
    if (std::exchange(last_bytes, bytes) != bytes) changed = Clock::now();
    if (Clock::now() - changed > kPatience) {
      return absl::DeadlineExceededError(fmt::format(
          "pool {}: {} of {} bytes are populated, and no more for {} s; is the machine busy, or "
          "out of memory?",
          waiting->name, waiting->bytes_populated, waiting->bytes, kPatience.count()));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace apta::bench
