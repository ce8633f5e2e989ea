// What an old version is: one that was superseded before somebody asked. Against a list of what had
// been acknowledged by when, no order of the operations needs to be found.

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sim/history.h"

namespace apta::sim {
namespace {

using Kind = Operation::Kind;
constexpr std::size_t kNoIndex = ~std::size_t{0};

struct Point {
  std::uint64_t time, version;
  std::size_t operation;
};

// Sorts by time and makes each point the newest version up to it.
void Seal(std::vector<Point>* points) {
  std::ranges::sort(*points, {}, &Point::time);
  for (std::size_t i = 1; i < points->size(); ++i) {
    const Point& before = (*points)[i - 1];
    Point& point = (*points)[i];
    if (point.version < before.version) point = {point.time, before.version, before.operation};
  }
}

const Point* Before(const std::vector<Point>& points, std::uint64_t time) {
  const auto next = std::ranges::lower_bound(points, time, {}, &Point::time);
  return next == points.begin() ? nullptr : &*(next - 1);
}

// The writes of a history, by key, and by group of clients: what each group was told.
class KnownWrites {
 public:
  using GroupOf = std::function<std::uint32_t(std::uint32_t client)>;

  explicit KnownWrites(
      std::span<const Operation> history,
      const GroupOf& group_of = [](std::uint32_t) { return 0u; }) {
    for (std::size_t i = 0; i < history.size(); ++i) {
      const Operation& op = history[i];
      if (op.kind == Kind::kGet || op.failed) continue;
      Key& key = keys_[op.key];
      if (op.version != 0 && op.end_ns != kNever) {
        key.acknowledged[group_of(op.client)].push_back({op.end_ns, op.version, i});
      }
      // Of unknown version: perhaps the newest one.
      const std::uint64_t version = op.version == 0 ? kNever : op.version;
      (op.kind == Kind::kDelete ? key.deleted : key.put).push_back({op.begin_ns, version, i});
    }
    for (auto& [_, key] : keys_) {
      for (auto& [group, points] : key.acknowledged) Seal(&points);
      Seal(&key.deleted);
      std::ranges::sort(key.put, {}, &Point::version);
    }
  }

  // A write newer than `version` (0: not found) that was acknowledged to `group` before `begin`, or
  // kNoIndex. The get that saw `version` ended at `end`.
  std::size_t Missed(std::uint64_t key, std::uint64_t version, std::uint64_t begin,
                     std::uint64_t end, std::uint32_t group = 0) const {
    const auto found = keys_.find(key);
    if (found == keys_.end()) return kNoIndex;
    if (version == 0) {
      const Point* const deleted = Before(found->second.deleted, end == kNever ? end : end + 1);
      version = deleted ? deleted->version : 0;
    }
    const auto acknowledged = found->second.acknowledged.find(group);
    if (acknowledged == found->second.acknowledged.end()) return kNoIndex;
    const Point* const newest = Before(acknowledged->second, begin);
    return newest && newest->version > version ? newest->operation : kNoIndex;
  }

  // Whether a put that began by `end` made this version, as far as is known.
  bool MayHavePut(std::uint64_t key, std::uint64_t version, std::uint64_t end) const {
    const auto found = keys_.find(key);
    if (found == keys_.end()) return false;
    const std::vector<Point>& put = found->second.put;
    const auto has_begun = [end](const Point& point) { return point.time <= end; };
    const auto same = std::ranges::equal_range(put, version, {}, &Point::version);
    const auto unknown = std::ranges::equal_range(put, kNever, {}, &Point::version);
    return std::ranges::any_of(same, has_begun) || std::ranges::any_of(unknown, has_begun);
  }

 private:
  struct Key {
    std::map<std::uint32_t, std::vector<Point>> acknowledged;  // by group; each by end
    std::vector<Point> deleted;                                // by begin
    std::vector<Point> put;                                    // by version
  };
  std::unordered_map<std::uint64_t, Key> keys_;
};

std::string Text(const char* name, std::uint64_t number) { return name + std::to_string(number); }

}  // namespace

std::optional<Violation> CheckLazy(std::span<const Operation> writes,
                                   std::span<const ScheduledGet> gets) {
  const KnownWrites known(writes);
  for (std::size_t i = 0; i < gets.size(); ++i) {
    const ScheduledGet& get = gets[i];
    const std::string name = Text("key ", get.key) + Text(": scheduled get ", i);
    if (get.end_ns < get.invocation_started_ns) {
      return Violation{get.key, name + " ended before its invocation was started", {}};
    }
    if (get.version != 0 && !known.MayHavePut(get.key, get.version, get.end_ns)) {
      return Violation{
          get.key, name + Text(" returned version ", get.version) + ", which nobody had put", {}};
    }
    const std::size_t missed =
        known.Missed(get.key, get.version, get.invocation_started_ns, get.end_ns);
    if (missed == kNoIndex) continue;
    return Violation{get.key,
                     name + Text(" of an invocation started at ", get.invocation_started_ns) +
                         Text(" returned version ", get.version) +
                         " despite: " + Describe(writes[missed]),
                     {missed}};
  }
  return std::nullopt;
}

std::optional<Violation> CheckOwnWrites(std::span<const Operation> history,
                                        const KnownWrites::GroupOf& process_of) {
  const KnownWrites known(history, process_of);
  for (std::size_t i = 0; i < history.size(); ++i) {
    const Operation& get = history[i];
    if (get.kind != Kind::kGet || get.failed || get.end_ns == kNever) continue;
    if (get.value != 0 && get.version == 0) continue;  // who knows
    const std::size_t missed = known.Missed(get.key, get.value == 0 ? 0 : get.version, get.begin_ns,
                                            get.end_ns, process_of(get.client));
    if (missed == kNoIndex) continue;
    return Violation{get.key,
                     Text("key ", get.key) + ": a process does not read its own write: " +
                         Describe(get) + "; " + Describe(history[missed]),
                     {i, missed}};
  }
  return std::nullopt;
}

std::size_t CountStale(std::span<const Operation> history) {
  const KnownWrites known(history);
  return static_cast<std::size_t>(std::ranges::count_if(history, [&](const Operation& op) {
    if (op.kind != Kind::kGet || op.failed || op.end_ns == kNever) return false;
    if (op.value != 0 && op.version == 0) return false;  // who knows
    const std::uint64_t version = op.value == 0 ? 0 : op.version;
    return known.Missed(op.key, version, op.begin_ns, op.end_ns) != kNoIndex;
  }));
}

}  // namespace apta::sim
