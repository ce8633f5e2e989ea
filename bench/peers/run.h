// The whole run: every dataset, workload and number of clients, over all systems in turns.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bench/peers/dataset.h"
#include "bench/peers/peer.h"
#include "bench/peers/report.h"

namespace apta::peers {

struct SizeClass {
  std::string label;              // as --sizes has it
  std::uint32_t value_bytes = 0;  // 0 = the sizes of the Azure trace
  std::size_t key_count = 0;
};

struct RunOptions {
  std::vector<SizeClass> sizes;
  std::vector<Popularity> popularities;
  std::vector<std::string> workloads;  // names
  std::vector<int> clients;
  int rounds = 5;
  std::int64_t turn_ns = 0;
  std::int64_t warm_ns = 0;
  std::size_t depth = 16;  // operations under way of pipelined systems
  std::size_t batch = 1;   // operations timed together of the others, where all are alike
};

// CANCELLED once `stop` is set; what was measured until then is in the report. Any other error
// names the system, and what it did wrong.
absl::Status RunAll(const RunOptions& options, const Systems& systems,
                    const std::atomic<bool>& stop, Report* report);

}  // namespace apta::peers
