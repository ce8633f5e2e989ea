// What a run found: a table to read, and JSON for tools/plot and for comparing runs.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "bench/peers/statistics.h"

namespace apta::peers {

// To the standard output; one that is closed is nothing to fail for (fmt::print would throw).
void PrintText(std::string_view text);
template <typename... Values>
void Print(fmt::format_string<Values...> format, Values&&... values) {
  PrintText(fmt::format(format, std::forward<Values>(values)...));
}

// One system, workload, size, popularity, number of clients and kind of operation. README.md has
// the JSON's schema, which has the same names.
struct Record {
  std::string system, workload, size, distribution;
  int clients = 1;
  std::string op;        // "get" | "put" | "all"
  double median_ns = 0;  // of the rounds' medians
  double p99_ns = 0;     // of the rounds' 99th percentiles
  double ops_per_s = 0;  // of the rounds'; over all clients
  int rounds = 0;
  double cv = 0;  // of the rounds' medians: standard deviation / mean
  std::uint64_t batch_ops = 1;
  bool pipelined = false;
  std::uint64_t samples = 0;
  double ratio = 0;  // median_ns / Āpta's; 0 if Āpta was not measured
};

// What the rounds of a kind of operation were.
Record MakeRecord(Record cell, std::string op, const Rounds& rounds);

class Report {
 public:
  // One cell's systems, each with its kinds of operations; fills their ratios.
  void Add(std::vector<Record> cell);
  // All workloads of one size, popularity and number of clients, which were added last: a row for
  // each system, in the order in which they were measured, whoever wins.
  void PrintBlock(std::string_view title, absl::Span<const std::string_view> workloads) const;
  // How often who won, and every cell in which Āpta did not.
  void PrintSummary() const;
  absl::Status WriteJson(const std::string& path, const nlohmann::json& settings) const;

 private:
  std::vector<Record> records_;
};

}  // namespace apta::peers
