// What the compute servers of a simulated cluster do.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "tools/apta-sim/cluster.h"
#include "tools/apta-sim/scenario.h"

namespace apta::perf {

class Workload {
 public:
  virtual ~Workload() = default;
  virtual absl::Status Load() = 0;  // the objects that are there before
  virtual void Start() = 0;
  virtual bool IsDone() const = 0;
};

// Closed loops of gets and puts: one per thread of each node.
std::unique_ptr<Workload> MakeSynthetic(const Scenario& scenario, Cluster* cluster);
// What applications did, as examples/run --record has written it down: run after run, each with
// objects of its own. INVALID_ARGUMENT: no such file, or not its form.
absl::StatusOr<std::unique_ptr<Workload>> MakeReplay(const Scenario& scenario, Cluster* cluster,
                                                     Metrics* metrics);

}  // namespace apta::perf
