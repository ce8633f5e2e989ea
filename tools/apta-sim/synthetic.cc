#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "tools/apta-sim/workload.h"

namespace apta::perf {
namespace {

class Synthetic final : public Workload {
 public:
  Synthetic(const Scenario& scenario, Cluster* cluster)
      : w_(scenario.workload),
        nodes_(static_cast<int>(scenario.servers.compute)),
        threads_(static_cast<int>(scenario.servers.threads)),
        cluster_(*cluster),
        random_(scenario.seed ^ 0x5851'f42d'4c95'7f2du),
        left_(w_.operations) {
    cluster_.OnAttached([this](int node) { StartNode(node); });
  }

  absl::Status Load() override {
    // Zipf: the k-th key is got and put as 1/k^zipf.
    double sum = 0;
    for (std::int64_t i = 0; i < w_.keys; ++i) {
      key_.push_back(fmt::format("k{}", i));
      bytes_.push_back(RandomBytes());
      sum += std::pow(static_cast<double>(i + 1), -w_.zipf);
      up_to_.push_back(sum);
      absl::Status loaded = cluster_.Load(key_.back(), bytes_.back());
      if (!loaded.ok()) return loaded;
    }
    return absl::OkStatus();
  }

  void Start() override {
    for (int node = 0; node < nodes_; ++node) StartNode(node);
  }

  bool IsDone() const override { return left_ == 0 && under_way_ == 0; }

 private:
  double Uniform() { return std::generate_canonical<double, 53>(random_); }

  std::uint64_t RandomBytes() {
    if (w_.max_bytes <= w_.bytes) return static_cast<std::uint64_t>(w_.bytes);
    const double least = static_cast<double>(std::max<std::int64_t>(1, w_.bytes));
    return static_cast<std::uint64_t>(
        least * std::pow(static_cast<double>(w_.max_bytes) / least, Uniform()));
  }

  void StartNode(int node) {
    if (node >= nodes_) return;
    under_way_ -= WaitingOn(node);
    for (int lane = 0; lane < threads_; ++lane) Next(node, lane);
  }

  // Of a node that has died: what it did is lost.
  int WaitingOn(int node) {
    if (busy_.empty()) busy_.assign(static_cast<std::size_t>(nodes_), 0);
    return std::exchange(busy_[static_cast<std::size_t>(node)], 0);
  }

  void Next(int node, int lane) {
    const double think_ns = w_.think_ns == 0 ? 0 : -std::log(1 - Uniform()) * w_.think_ns;
    cluster_.After(node, think_ns, [this, node, lane] { Do(node, lane); });
  }

  void Do(int node, int lane) {
    if (left_ == 0) return;
    --left_;
    ++under_way_;
    ++busy_[static_cast<std::size_t>(node)];
    const auto found = std::lower_bound(up_to_.begin(), up_to_.end(), Uniform() * up_to_.back());
    const auto key = static_cast<std::size_t>(found - up_to_.begin());
    const auto then = [this, node, lane](bool) {
      --under_way_;
      --busy_[static_cast<std::size_t>(node)];
      Next(node, lane);
    };
    const auto at = static_cast<std::uint16_t>(lane);
    if (Uniform() < w_.get_share) {
      cluster_.Get(node, at, key_[key], then);
    } else {
      cluster_.Put(node, at, key_[key], bytes_[key], then);
    }
  }

  const Scenario::Workload w_;
  const int nodes_, threads_;
  Cluster& cluster_;
  std::mt19937_64 random_;
  std::int64_t left_;
  int under_way_ = 0;
  std::vector<int> busy_;  // of under_way_, by node
  std::vector<std::string> key_;
  std::vector<std::uint64_t> bytes_;
  std::vector<double> up_to_;  // of Zipf's distribution
};

}  // namespace

std::unique_ptr<Workload> MakeSynthetic(const Scenario& scenario, Cluster* cluster) {
  return std::make_unique<Synthetic>(scenario, cluster);
}

}  // namespace apta::perf
