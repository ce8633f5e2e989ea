#include "measure.h"

#include <sys/resource.h>

#include <cmath>
#include <map>

namespace apta::bench {
namespace {

double g_seconds = 0.1;

// Two measurements of a reference that are further apart were made on two different machines, as
// it were.
constexpr double kAgree = 1.25;
// Near and far are a factor of 3.5 apart; the best of many measurements is a lucky one.
constexpr double kNear = 1.8;
// A ring round trip of more than that is one between cores that are far from each other, although
// this run has seen none that are nearer.
constexpr double kFarRingNs = 200;
// How much longer than asked for a benchmark waits for the machine to be as it was at its best.
double g_patience = 4;

struct Turn {
  double reference_ns;
  std::vector<double> ns;
};

// The best of each reference in this run, so far.
double& BestOf(const std::string& name) {
  static std::map<std::string, double> best;
  return best.try_emplace(name, INFINITY).first->second;
}

double MedianOf(const std::vector<double>& ns) {
  Samples samples;
  samples.Add(ns);
  return samples.Median();
}

void ReportTurns(benchmark::State* state, const std::string& reference, std::vector<Turn> turns,
                 std::size_t least, Samples* samples) {
  std::size_t near_samples = 0, all_samples = 0;
  const double limit_ns = BestOf(reference) * kNear;
  for (const Turn& turn : turns) {
    all_samples += turn.ns.size();
    near_samples += turn.reference_ns <= limit_ns ? turn.ns.size() : 0;
  }
  if (near_samples >= least) {
    std::erase_if(turns, [&](const Turn& turn) { return turn.reference_ns > limit_ns; });
  }
  Samples references, ratios;
  for (const Turn& turn : turns) {
    samples->Add(turn.ns);
    references.Add(turn.reference_ns);
    ratios.Add(MedianOf(turn.ns) / turn.reference_ns);
  }
  const std::string name = reference.substr(0, reference.find('_'));  // copy_4096: copy
  state->counters[name + "_s"] = references.Median() * 1e-9;
  state->counters["per_" + name] = ratios.Median();
  const bool all_far = reference == "ring" && BestOf(reference) > kFarRingNs;
  state->counters["near"] = all_samples == 0 || all_far ? 0
                                                        : static_cast<double>(near_samples) /
                                                              static_cast<double>(all_samples);
}

// Returns false when a call failed. Turns, each between two references that agree.
bool TakeTurns(const Sampling& sampling, const Reference& reference,
               const std::function<double(std::uint64_t)>& sample, std::vector<Turn>* turns) {
  const double limit_ns = (sampling.seconds > 0 ? sampling.seconds : g_seconds) * 1e9;
  double& best_ns = BestOf(reference.name);
  std::size_t taken = 0, near = 0;
  double near_ns = 0;
  std::uint64_t i = 0;
  const auto began = Clock::now();
  while (taken < sampling.most) {
    const bool is_enough = near >= sampling.least && near_ns >= limit_ns;
    const bool is_late = taken >= sampling.least && NsSince(began) > g_patience * limit_ns;
    if (is_enough || is_late) break;
    const double before_ns = reference.take();
    if (sample(i++) < 0) return false;  // wakes and warms what the reference let go cold
    Turn turn{0, {}};
    const auto turn_began = Clock::now();
    do {
      const double ns = sample(i++);
      if (ns < 0) return false;
      turn.ns.push_back(ns);
    } while (NsSince(turn_began) < sampling.turn_ns);
    const double spent_ns = NsSince(turn_began);
    const double after_ns = reference.take();
    const auto [low, high] = std::minmax(before_ns, after_ns);
    best_ns = std::min(best_ns, low);
    if (high > low * kAgree && NsSince(began) < g_patience * limit_ns) continue;
    turn.reference_ns = (low + high) / 2;
    taken += turn.ns.size();
    if (turn.reference_ns <= best_ns * kNear) {
      near += turn.ns.size();
      near_ns += spent_ns;
    }
    turns->push_back(std::move(turn));
  }
  return true;
}

}  // namespace

double Samples::Quantile(double q) {
  if (ns_.empty()) return 0;
  const auto rank = static_cast<std::ptrdiff_t>(q * static_cast<double>(ns_.size() - 1));
  std::nth_element(ns_.begin(), ns_.begin() + rank, ns_.end());
  return ns_[static_cast<std::size_t>(rank)];
}

void Samples::Report(benchmark::State* state, const std::string& name) {
  state->counters[name + "_p50_s"] = Median() * 1e-9;
  state->counters[name + "_p99_s"] = Quantile(0.99) * 1e-9;
}

void SetNearRing(double ns) {
  BestOf("ring") = ns / kNear;
  g_patience = 100;
}

std::uint64_t FirstTouches() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return static_cast<std::uint64_t>(usage.ru_minflt);
}

void SetSecondsPerRepetition(double seconds) { g_seconds = seconds; }
double SecondsPerRepetition() { return g_seconds; }

double ClockNs() {
  static const double ns = [] {
    Samples samples;
    for (int i = 0; i < 10'000; ++i) {
      const auto began = Clock::now();
      samples.Add(NsSince(began));
    }
    return samples.Median();
  }();
  return ns;
}

void TakeSamples(benchmark::State& state, const Sampling& sampling, const Reference* reference,
                 const std::function<double(std::uint64_t)>& sample) {
  Samples samples;
  std::vector<Turn> turns;
  bool ok = true;
  for (auto _ : state) {
    if (reference != nullptr) {
      ok = TakeTurns(sampling, *reference, sample, &turns);
      if (ok) ReportTurns(&state, reference->name, std::move(turns), sampling.least, &samples);
    } else {
      const double limit_ns = (sampling.seconds > 0 ? sampling.seconds : g_seconds) * 1e9;
      const auto began = Clock::now();
      for (std::uint64_t i = 0; ok && samples.size() < sampling.most &&
                                (i < sampling.least || NsSince(began) < limit_ns);
           ++i) {
        const double ns = sample(i);
        ok = ns >= 0;
        samples.Add(ns);
      }
    }
    state.SetIterationTime(samples.Median() * 1e-9);
  }
  if (!ok) return state.SkipWithError("a call failed, or was not what it is measured as");
  state.counters["p99_s"] = samples.Quantile(0.99) * 1e-9;
  state.counters["samples"] = static_cast<double>(samples.size());
}

}  // namespace apta::bench
