// A suite's frame: its command line, its other roles, and what it prints.
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness.h"
#include "measure.h"

namespace apta::bench {

// How this run is made.
struct Run {
  bool quick = false;   // that everything works; not how fast
  bool all = false;     // also what takes long
  std::string samples;  // a file for raw samples, "" = none
};
const Run& CurrentRun();
int Repetitions();

struct Suite {
  std::string_view name;
  std::string_view about;  // what it measures, for --help
  // What other processes of the suite do, by the name that Process is given.
  std::map<std::string, int (*)(const std::vector<std::string>& words)> roles = {};
  // Registers the benchmarks. Servers that they start live in what it returns, if anything.
  std::function<void()> register_all = {};
  std::function<void()> clean_up = {};  // after the last benchmark
};

int Main(int argc, char** argv, const Suite& suite);

// "op/key:value/key:value": the names of all benchmarks, for who reads the JSON.
using Where = std::vector<std::pair<std::string, std::string>>;
std::string Name(std::string_view op, const Where& where);

// Registers a benchmark that uses Measure, or reports a rate.
template <typename Function, typename... Arguments>
void Add(const std::string& name, Function&& function, Arguments&&... arguments) {
  benchmark::RegisterBenchmark(name.c_str(), std::forward<Function>(function),
                               std::forward<Arguments>(arguments)...)
      ->Iterations(1)
      ->UseManualTime()
      ->Repetitions(Repetitions())
      ->ReportAggregatesOnly(!CurrentRun().quick)
      ->Unit(benchmark::kNanosecond);
}

}  // namespace apta::bench
