// How a call is timed.
//
// A virtual machine's cores are moved about by its host, some hundred milliseconds near to each
// other, then far: a line's way between two cores takes 70 ns now and 390 ns a moment later. So
// what is made of such ways is measured in short turns between two measurements of a reference (the
// bare ring round trip, or a copy of the same size), and counts only where both agree.
//
// Invariants
//   1. A benchmark's time is the median of the calls of one repetition; the suite reports the
//      median of the repetitions, and their spread.
//   2. A sample with a reference stands in a turn whose two references agree; if there are enough
//      turns whose reference is near the best one of this run, they alone count.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace apta::bench {

using Clock = std::chrono::steady_clock;

inline double NsSince(Clock::time_point began) {
  return std::chrono::duration<double, std::nano>(Clock::now() - began).count();
}

// Calls of one kind, ns each.
class Samples {
 public:
  void Add(double ns) { ns_.push_back(ns); }
  void Add(const std::vector<double>& ns) { ns_.insert(ns_.end(), ns.begin(), ns.end()); }
  std::size_t size() const { return ns_.size(); }
  double Quantile(double q);  // 0 without any; reorders
  double Median() { return Quantile(0.5); }
  const std::vector<double>& all() const { return ns_; }
  // Counters `name`_p50_s and `name`_p99_s.
  void Report(benchmark::State* state, const std::string& name);

 private:
  std::vector<double> ns_;
};

struct Sampling {
  std::uint32_t calls = 1;  // timed together; 1 where each call matters (p99)
  std::uint32_t least = 5;  // samples
  std::uint32_t most = 50'000;
  double seconds = 0;  // 0 = as long as this run's repetitions are
  double turn_ns = 1'500'000;
};
void SetSecondsPerRepetition(double seconds);
double SecondsPerRepetition();

// What the ring round trip is at most when this machine's cores are near each other, by whoever
// knows it (--near). Repetitions then wait a while for that.
void SetNearRing(double ns);

struct Reference {
  std::string name;
  std::function<double()> take;  // ns, measured now
};

// Pages that the calling thread has touched for the first time in some mapping, so far.
std::uint64_t FirstTouches();

// What it costs to read the clock twice; taken off each sample.
double ClockNs();

// Runs the one iteration of a repetition; `sample(i)` yields ns, or a negative number when a call
// failed or was not what it should be. `reference` may be null.
void TakeSamples(benchmark::State& state, const Sampling& sampling, const Reference* reference,
                 const std::function<double(std::uint64_t)>& sample);

// `prepare(i)`, not timed, then `calls` times `call(n)`, timed, n counting from 0 without end.
template <typename Prepare, typename Call>
void Measure(benchmark::State& state, const Sampling& sampling, const Reference* reference,
             Prepare prepare, Call call) {
  std::uint64_t n = 0;
  TakeSamples(state, sampling, reference, [&](std::uint64_t i) {
    bool ok = prepare(i);
    const auto began = Clock::now();
    for (std::uint32_t k = 0; k < sampling.calls; ++k) ok = call(n++) && ok;
    const double ns = NsSince(began);
    return ok ? std::max(0.0, ns - ClockNs()) / sampling.calls : -1;
  });
}
template <typename Call>
void Measure(benchmark::State& state, const Sampling& sampling, const Reference* reference,
             Call call) {
  Measure(
      state, sampling, reference, [](std::uint64_t) { return true; }, call);
}

}  // namespace apta::bench
