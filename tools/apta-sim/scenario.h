// What apta-sim is told to simulate: a TOML file, in the units that its names end in.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "fabric/coherence.h"

namespace apta::perf {

struct Scenario {
  std::uint64_t seed = 1;
  std::string mode = "lazy";  // coherence: strict | lazy | sync | versioned | uncached
  std::string policy = "criterion+locality";

  struct Servers {
    std::int64_t compute = 3;
    std::int64_t threads = 1;  // of each: operations, or functions, at a time
    std::int64_t shards = 1;   // of the memory server
  } servers;

  struct Link {  // of each compute server, in each direction
    double latency_ns = 500;
    double bandwidth_gbps = 80;   // 0 = unlimited
    double memory_gbps = 0;       // of each shard's own port, which all share; 0 = unlimited
    double call_ns = 0;           // of each get or put that asks a home: software
    std::string jitter = "none";  // none | uniform (0 … jitter_ns) | normal (sigma) | exponential
    double jitter_ns = 0;         // (mean)
    std::string transfer = "bulk";  // whole objects; or "lines": cache line by cache line
    std::int64_t lines_outstanding = 128;
  } link;

  struct Costs {                                  // of one step of a controller, or of a node
    double otc_ns = 20 / 3.0, osc_ns = 20 / 3.0;  // the paper's: 20 cycles at 3 GHz
    double opc_ns = 20 / 3.0, oic_ns = 20 / 3.0;  // not published; of one put, of one invalidation
    double em_ns = 20 / 3.0;                      // of one message to the Executor Manager
    double copy_gbps = 0;                         // of a put's payload at its home; 0 = no time
    double hit_ns = 60;                           // of a look-up in the node's own cache
    double local_gbps = 200;                      // of the node's own memory, for hits
    double client_ns = 0;                         // before each request, on the node
    double agent_ns = 0;                          // from an invalidation's arrival to its turn
  } costs;

  struct Memory {
    std::int64_t cache_bytes = std::int64_t{256} << 20;  // of each compute server
    std::int64_t pool_bytes = std::int64_t{256} << 20;
    std::int64_t directory_entries = 0;  // 0 = by the pool's size
    // The simulator's own memory holds objects in 1/scale of their size, as it does the two above.
    std::int64_t scale = 1;
    std::int64_t ack_deadline_ms = 2000;
  } memory;

  struct Faults {
    double hours_between_failures = 0;  // of one compute server, exponential; 0 = none
    double detect_us = 100;             // until the memory server knows
    double restart_us = 10'000;         // until it is there again, with an empty cache
  } faults;

  struct Workload {
    std::string trace;  // a file of examples/run --record, replayed `runs` times; else synthetic:
    std::int64_t operations = 100'000;
    std::int64_t keys = 1'000;
    std::int64_t bytes = 4096, max_bytes = 0;  // of an object: or log-uniform between the two
    double zipf = 0.99;                        // 0 = all alike
    double get_share = 0.95;
    double think_ns = 0;  // between two operations of a thread; exponential
    std::int64_t runs = 1;
    bool pinned = true;        // a trace: its functions run where they ran; else the EM decides
    double compute_scale = 1;  // of a trace's compute phases
  } workload;

  fabric::Coherence coherence() const { return *fabric::ParseCoherence(mode); }
};

// `file_name` is for errors, which name it, the line, the field, and what may stand there.
absl::StatusOr<Scenario> ParseScenario(const std::string& text, const std::string& file_name);
absl::StatusOr<Scenario> ReadScenario(const std::string& path);

}  // namespace apta::perf
