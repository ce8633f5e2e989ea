#include "bench/peers/statistics.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

namespace apta::peers {
namespace {

ClockFacts MeasureClock() {
  std::vector<double> costs(20'001);
  for (double& cost : costs) {
    const std::int64_t began = NowNs();
    cost = static_cast<double>(NowNs() - began);
  }
  std::ranges::sort(costs);
  const double median = costs[costs.size() / 2];
  // A mean, since single readings are in steps, of all but what an interrupt fell into.
  double sum = 0;
  std::size_t count = 0;
  while (count < costs.size() && costs[count] < 2 * median) sum += costs[count++];
  ClockFacts facts;
  facts.cost_ns = sum / static_cast<double>(count);
  // Most costs are one of two neighbouring steps.
  const double low = costs[costs.size() / 20], high = costs[costs.size() * 19 / 20];
  facts.step_ns = std::clamp(high - low, 1.0, 100.0);
  return facts;
}

}  // namespace

std::int64_t NowNs() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

const ClockFacts& TheClock() {
  static const ClockFacts facts = MeasureClock();
  return facts;
}

double QuantileNs(std::vector<Sample>* samples, double share) {
  if (samples->empty()) return 0;
  std::ranges::sort(*samples, {}, &Sample::ns);
  double ops = 0;
  for (const Sample& sample : *samples) ops += sample.ops;
  const double wanted = share * ops;
  double until = 0;
  auto at = samples->begin();
  for (; at + 1 != samples->end(); ++at) {
    until += at->ops;
    if (until >= wanted) break;
  }
  // Everything within half a step of it was as long, for all that the clock can tell.
  const double half = TheClock().step_ns / at->ops / 2;
  const double low = std::max(static_cast<double>(at->ns) - half, 0.0);
  const double high = static_cast<double>(at->ns) + half;
  double below = 0, within = 0;
  for (const Sample& sample : *samples) {
    const auto ns = static_cast<double>(sample.ns);
    if (ns < low) below += sample.ops;
    if (ns >= low && ns < high) within += sample.ops;
  }
  return low + (high - low) * std::clamp((wanted - below) / within, 0.0, 1.0);
}

double MedianOf(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double VariationOf(const std::vector<double>& values) {
  double sum = 0, squares = 0;
  for (const double value : values) sum += value;
  const double mean = sum / static_cast<double>(values.size());
  for (const double value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / static_cast<double>(values.size())) / mean;
}

void Rounds::Add(std::vector<Sample> round, double rate) {
  if (round.empty()) return;
  medians_ns.push_back(QuantileNs(&round, 0.5));
  p99s_ns.push_back(QuantileNs(&round, 0.99));
  ops_per_s.push_back(rate);
  samples += round.size();
}

}  // namespace apta::peers
