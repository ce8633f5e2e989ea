#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "tools/apta-sim/workload.h"

namespace apta::perf {
namespace {

struct Phase {
  enum class What { kGet, kCompute, kPut } what;
  std::string key;
  std::uint64_t amount = 0;  // bytes, or ns
};
struct Invocation {
  std::string function;
  std::string node;
  std::vector<std::size_t> after;  // of the trace: that have ended before
  std::vector<Phase> phases;
};
struct Trace {
  std::vector<std::pair<std::string, std::uint64_t>> objects;  // put before
  std::vector<Invocation> invocations;
};

// Throws nlohmann's exceptions on what is not as it must be.
Trace TraceFrom(const nlohmann::json& json) {
  Trace trace;
  for (const auto& object : json.at("objects")) {
    trace.objects.emplace_back(object.at(0), object.at(1));
  }
  for (const auto& each : json.at("invocations")) {
    Invocation invocation{.function = each.at("function"),
                          .node = each.at("node"),
                          .after = each.at("after"),
                          .phases = {}};
    for (const auto& phase : each.at("phases")) {
      const std::string what = phase.at(0);
      if (what == "compute") {
        invocation.phases.push_back({Phase::What::kCompute, "", phase.at(1)});
      } else {
        invocation.phases.push_back(
            {what == "get" ? Phase::What::kGet : Phase::What::kPut, phase.at(1), phase.at(2)});
      }
    }
    trace.invocations.push_back(std::move(invocation));
  }
  return trace;
}

class Replay final : public Workload {
 public:
  Replay(Trace trace, const Scenario& scenario, Cluster* cluster, Metrics* metrics)
      : trace_(std::move(trace)),
        w_(scenario.workload),
        nodes_(static_cast<int>(scenario.servers.compute)),
        threads_(static_cast<int>(scenario.servers.threads)),
        cluster_(*cluster),
        metrics_(*metrics) {
    for (const Invocation& invocation : trace_.invocations) functions_.insert(invocation.function);
    cluster_.OnAttached([this](int node) {
      if (node < nodes_) RegisterNext(node, functions_.begin());
    });
  }

  absl::Status Load() override {
    for (std::int64_t run = 0; run < w_.runs; ++run) {
      for (const auto& [key, bytes] : trace_.objects) {
        absl::Status loaded = cluster_.Load(KeyOf(run, key), bytes);
        if (!loaded.ok()) return loaded;
      }
    }
    return absl::OkStatus();
  }

  void Start() override {
    for (int node = 0; node < nodes_; ++node) RegisterNext(node, functions_.begin());
  }
  bool IsDone() const override { return run_ == w_.runs; }

 private:
  static std::string KeyOf(std::int64_t run, const std::string& key) {
    return fmt::format("{}/{}", run, key);
  }

  // A node's functions one after the other, then its workers; then, when all nodes have, the runs.
  void RegisterNext(int node, std::set<std::string>::const_iterator function) {
    if (function == functions_.end()) {
      for (int lane = 0; lane < threads_; ++lane) AskForWork(node, lane, 0);
      if (++ready_ == nodes_) BeginRun();
      return;
    }
    cluster_.Register(node, 0, *function,
                      [this, node, function](bool) { RegisterNext(node, std::next(function)); });
  }

  void BeginRun() {
    begin_ns_ = cluster_.now();
    ended_.assign(trace_.invocations.size(), false);
    called_ = ended_;
    CallWhatMay();
  }

  void CallWhatMay() {
    for (std::size_t i = 0; i < trace_.invocations.size(); ++i) {
      const Invocation& invocation = trace_.invocations[i];
      const bool may =
          std::ranges::all_of(invocation.after, [&](std::size_t before) { return ended_[before]; });
      if (called_[i] || !may) continue;
      called_[i] = true;
      Cluster::CallTo to{
          .function = invocation.function, .node = w_.pinned ? invocation.node : "", .reads = {}};
      for (const Phase& phase : invocation.phases) {
        if (phase.what == Phase::What::kGet) to.reads.push_back(KeyOf(run_, phase.key));
      }
      cluster_.Call(cluster_.driver(), static_cast<std::uint16_t>(i), to, i, [this, i](bool ok) {
        if (!ok) ++metrics_.failed;
        ended_[i] = true;
        EndOne();
      });
    }
  }

  void EndOne() {
    if (std::ranges::count(ended_, false) > 0) return CallWhatMay();
    metrics_.runs.Add(cluster_.now() - begin_ns_);
    if (++run_ < w_.runs) BeginRun();
  }

  void AskForWork(int node, int lane, std::uint64_t attempt) {
    cluster_.Ready(node, static_cast<std::uint16_t>(lane), attempt,
                   [this, node, lane](std::uint64_t next, std::uint64_t token) {
                     RunPhase(node, lane, next, static_cast<std::size_t>(token), 0);
                   });
  }

  void RunPhase(int node, int lane, std::uint64_t attempt, std::size_t invocation,
                std::size_t index) {
    const std::vector<Phase>& phases = trace_.invocations[invocation].phases;
    if (index == phases.size()) {
      AskForWork(node, lane, attempt);
      return;
    }
    const Phase& phase = phases[index];
    const auto next = [this, node, lane, attempt, invocation, index](bool ok) {
      if (!ok) ++metrics_.failed;
      RunPhase(node, lane, attempt, invocation, index + 1);
    };
    const auto at = static_cast<std::uint16_t>(lane);
    switch (phase.what) {
      case Phase::What::kGet:
        cluster_.Get(node, at, KeyOf(run_, phase.key), next);
        return;
      case Phase::What::kPut:
        cluster_.Put(node, at, KeyOf(run_, phase.key), phase.amount, next);
        return;
      case Phase::What::kCompute: {
        const double ns = static_cast<double>(phase.amount) * w_.compute_scale;
        cluster_.After(node, ns, [this, node, at, next, invocation, begin_ns = cluster_.now()] {
          metrics_.Add(Kind::kCompute, node, at, begin_ns, cluster_.now(),
                       trace_.invocations[invocation].function);
          next(true);
        });
        return;
      }
    }
  }

  const Trace trace_;
  const Scenario::Workload w_;
  const int nodes_, threads_;
  Cluster& cluster_;
  Metrics& metrics_;
  std::set<std::string> functions_;
  int ready_ = 0;
  std::int64_t run_ = 0;
  TimeNs begin_ns_ = 0;
  std::vector<bool> called_, ended_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Workload>> MakeReplay(const Scenario& scenario, Cluster* cluster,
                                                     Metrics* metrics) {
  const std::string& path = scenario.workload.trace;
  std::ifstream file(path);
  if (!file) return absl::InvalidArgumentError(fmt::format("{}: cannot be read", path));
  try {
    Trace trace = TraceFrom(nlohmann::json::parse(file));
    if (trace.invocations.size() >= fabric::kLanes) {
      return absl::InvalidArgumentError(
          fmt::format("{}: more than {} invocations", path, fabric::kLanes - 1));
    }
    return std::make_unique<Replay>(std::move(trace), scenario, cluster, metrics);
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: {}; examples/run --record FILE writes what is read here", path, error.what()));
  }
}

}  // namespace apta::perf
