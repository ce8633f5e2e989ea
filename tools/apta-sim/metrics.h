// What a simulated run was like: latencies, counts, and, if asked for, what happened when.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fabric/clock.h"

namespace apta::perf {

using fabric::TimeNs;

// All that was measured of one kind; percentiles are exact.
class Series {
 public:
  void Add(TimeNs ns) {
    values_.push_back(ns);
    sum_ += static_cast<double>(ns);
    is_sorted_ = false;
  }
  std::size_t count() const { return values_.size(); }
  double sum() const { return sum_; }
  double mean() const { return values_.empty() ? 0 : sum_ / static_cast<double>(count()); }
  TimeNs Percentile(double percent) const {
    if (values_.empty()) return 0;
    if (!is_sorted_) std::sort(values_.begin(), values_.end());
    is_sorted_ = true;
    const double rank = percent / 100 * static_cast<double>(count() - 1);
    return values_[static_cast<std::size_t>(rank + 0.5)];
  }

 private:
  mutable std::vector<TimeNs> values_;
  mutable bool is_sorted_ = false;
  double sum_ = 0;
};

enum class Kind : std::uint8_t { kHit, kMiss, kPut, kCall, kCompute };
inline constexpr std::array<std::string_view, 5> kKindNames = {"hit", "miss", "put", "call",
                                                               "compute"};

struct Span {  // of the timeline
  Kind kind;
  int node;
  int lane;
  TimeNs begin_ns;
  TimeNs end_ns;
  std::string what;
};

struct Metrics {
  std::array<Series, kKindNames.size()> operations;
  Series outstanding;  // an invalidation: from issued to acknowledged, at the home
  Series runs;         // a trace: of each run
  std::uint64_t invalidations = 0;
  std::uint64_t invalidating_puts = 0;
  std::uint64_t overflows = 0;  // rings: a node was told to drop all
  std::uint64_t failed = 0;     // operations: errors, and those of nodes that died
  std::uint64_t failures = 0;   // nodes
  std::uint64_t fenced = 0;
  std::uint64_t owing_looks = 0, owing_nodes = 0;  // sampled when a put is committed
  double bytes_to_home = 0, bytes_to_nodes = 0;
  double home_busy_ns = 0;  // all shards
  double max_home_busy_ns = 0;
  std::uint64_t directory_evictions = 0, untracked = 0;
  TimeNs begin_ns = 0, end_ns = 0;
  std::size_t max_spans = 0;
  std::vector<Span> spans;

  void Add(Kind kind, int node, int lane, TimeNs begin, TimeNs end, std::string_view what) {
    operations[static_cast<std::size_t>(kind)].Add(end - begin);
    if (spans.size() < max_spans) {
      spans.push_back({kind, node, lane, begin, end, std::string(what)});
    }
  }
  const Series& of(Kind kind) const { return operations[static_cast<std::size_t>(kind)]; }
};

}  // namespace apta::perf
