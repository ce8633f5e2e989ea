// Samples of one turn, and what is made of them over the rounds.
#pragma once

#include <cstdint>
#include <vector>

namespace apta::peers {

// What was timed together took `ns` per operation.
struct Sample {
  float ns;
  std::uint32_t ops;
};

// The clock's step, and what reading it twice costs: measured once. Ten nanoseconds and more on
// virtual machines whose time stamp counter is scaled.
struct ClockFacts {
  double step_ns = 1;
  double cost_ns = 0;
};
const ClockFacts& TheClock();
std::int64_t NowNs();

// The value that the given share (0 to 1) of the operations does not exceed, ns; sorts. Between the
// clock's steps it is interpolated: an operation of 43 ns is measured as 40 seven times of ten.
double QuantileNs(std::vector<Sample>* samples, double share);

double MedianOf(std::vector<double> values);
double VariationOf(const std::vector<double>& values);  // standard deviation / mean

// One kind of operation of one system in one cell.
struct Rounds {
  std::vector<double> medians_ns, p99s_ns, ops_per_s;
  std::uint64_t samples = 0;

  // Nothing, if that kind did not occur.
  void Add(std::vector<Sample> round, double rate);
};

}  // namespace apta::peers
