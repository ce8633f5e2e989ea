#include "sim/history.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace apta::sim {
namespace {

using Kind = Operation::Kind;
using Index = std::uint32_t;  // of an operation, an item, an event: below 2^31

constexpr Index kNone = ~Index{0};
// States; about a second and 25 MB. Searches that succeed need little more than one for each write.
constexpr std::size_t kSearchBudget = std::size_t{1} << 20;

// An operation that matters: a write that may have taken effect, or a read: what was seen and
// changed nothing (a get, a failed delete or conditional put).
struct Item {
  Index operation;
  bool is_write;
  bool is_observed = false;   // write: a get read its value
  std::uint64_t version = 0;  // write: 0: nobody saw it
  Index witness = kNone;      // write: the operation that told the version
  Index group = 0;            // write: its place among those of known version, from 1
  Index saw = kNone;          // get: the item that wrote its value
  Index call = 0, ret = 0;    // search: its events; 0: none
};

std::uint64_t Mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// One key's history. Load, then any of the checks; a checker serves one key after the other.
class KeyChecker {
 public:
  explicit KeyChecker(std::span<const Operation> history) : history_(history) {}

  std::optional<Violation> Load(std::span<const Index> operations);  // integrity
  std::optional<Violation> CheckByVersion();
  std::optional<Violation> Search();

 private:
  struct Put {
    std::uint64_t value;
    Index operation;
    Index item;  // kNone: it failed
  };
  struct Bound {
    std::uint64_t time;
    Index operation;        // that sets it
    Index witness = kNone;  // the operation that leaves it no later moment
  };
  struct Event {
    std::uint64_t time;
    Index item;
    bool is_return;
    Index previous = 0, next = 0;
  };
  struct State {
    Index write = kNone;     // the last one applied
    std::uint64_t last = 0;  // the newest version so far
    bool is_vain = false;    // `write` may be dropped, and nothing has seen it yet
  };
  struct Step {
    State before;
    Index item;
    bool is_choice;
  };

  std::optional<Violation> LoadRead(Index operation);
  std::optional<Violation> BoundWrites();
  std::optional<Violation> PlaceReads();
  std::optional<Violation> Place(const Item& read, bool* moved);
  Violation OutOfOrder(const Bound& earliest, const Bound& latest) const;

  void BuildEvents();
  Index due() const {  // the oldest write of known version that is left
    return versions_applied_ < by_version_.size() ? by_version_[versions_applied_] : kNone;
  }
  bool Fits(const State& state, const Item& item) const;
  Index NextItem(const State& state, Index after, bool* is_choice) const;
  void Toggle(Index item, bool applied);
  void Apply(State* state, Index item);
  Violation Stuck(const State& state) const;

  const Operation& op(const Item& item) const { return history_[item.operation]; }
  // Succeeds only on the version that it expects.
  static bool is_conditional(const Operation& op) {
    return op.kind == Kind::kConditionalPut || (op.kind == Kind::kDelete && op.expected != 0);
  }
  bool creates(const Item& write) const { return op(write).kind != Kind::kDelete; }
  bool must_happen(const Item& item) const {
    return !item.is_write || item.is_observed || item.version != 0 || op(item).end_ns != kNever;
  }
  Index operation_of(Index item) const { return item == kNone ? kNone : items_[item].operation; }
  const Item& group(std::size_t g) const { return items_[by_version_[g - 1]]; }
  Violation Contradiction(std::string reason, std::initializer_list<Index> operations) const;

  std::span<const Operation> history_;
  std::vector<Item> items_;        // first the writes, then the reads
  std::vector<Put> puts_;          // by value
  std::vector<Index> by_version_;  // writes of known version, in their order
  // Group g: the g-th write in version order and what saw it; group 0: before the first. The g-th
  // write takes effect within [earliest_[g], latest_[g]], as far as is known.
  std::vector<Bound> earliest_, latest_;
  std::vector<Index> newest_[2];  // by group: the last up to it without ([0]) or with the key
  // The search: the events of what is not yet linearized, in order of time, after a head.
  std::vector<Event> events_;
  std::size_t versions_applied_ = 0;
  std::size_t outstanding_ = 0;  // items that must still happen
  std::uint64_t hash_[2] = {};   // of the set of linearized items
};

Violation KeyChecker::Contradiction(std::string reason,
                                    std::initializer_list<Index> operations) const {
  Violation violation;
  std::vector<std::size_t>& named = violation.operations;
  for (const Index index : operations) {
    if (index == kNone || std::ranges::find(named, index) != named.end()) continue;
    reason += (named.empty() ? ": " : "; ") + Describe(history_[index]);
    named.push_back(index);
  }
  violation.key = history_[named.front()].key;
  violation.message = "key " + std::to_string(violation.key) + ": " + reason;
  return violation;
}

std::optional<Violation> KeyChecker::Load(std::span<const Index> operations) {
  items_.clear();
  puts_.clear();
  for (const Index index : operations) {
    const Operation& op = history_[index];
    if (op.end_ns < op.begin_ns) return Contradiction("it ended before it began", {index});
    if (op.kind == Kind::kGet) continue;
    if (op.kind != Kind::kDelete) {
      if (op.value == 0) return Contradiction("a put of value 0, which means not found", {index});
      puts_.push_back({op.value, index, op.failed ? kNone : static_cast<Index>(items_.size())});
    }
    if (op.failed) continue;
    items_.push_back(
        {.operation = index, .is_write = true, .version = op.version, .witness = index});
  }
  std::ranges::sort(puts_, {}, &Put::value);
  const auto twin = std::ranges::adjacent_find(puts_, {}, &Put::value);
  if (twin != puts_.end()) {
    return Contradiction("one value put twice", {twin->operation, (twin + 1)->operation});
  }
  for (const Index index : operations) {
    if (std::optional<Violation> violation = LoadRead(index)) return violation;
  }
  by_version_.clear();
  for (Index i = 0; i < items_.size(); ++i) {
    if (items_[i].version != 0) by_version_.push_back(i);
  }
  const auto version = [this](Index write) { return items_[write].version; };
  std::ranges::sort(by_version_, {}, version);
  const auto same = std::ranges::adjacent_find(by_version_, {}, version);
  if (same == by_version_.end()) return std::nullopt;
  const Item& other = items_[*(same + 1)];
  return Contradiction("two writes got one version",
                       {items_[*same].operation, other.operation, other.witness});
}

std::optional<Violation> KeyChecker::LoadRead(Index index) {
  const Operation& op = history_[index];
  const bool tells = op.kind == Kind::kGet ? !op.failed : op.failed && op.kind != Kind::kPut;
  if (!tells || op.end_ns == kNever) return std::nullopt;
  Item read{.operation = index, .is_write = false};
  if (op.kind == Kind::kGet && op.value != 0) {
    const auto put = std::ranges::lower_bound(puts_, op.value, {}, &Put::value);
    const bool found = put != puts_.end() && put->value == op.value;
    if (!found) return Contradiction("nobody put what it read", {index});
    if (put->item == kNone) return Contradiction("that put failed", {index, put->operation});
    Item& write = items_[put->item];
    if (op.version != 0 && write.version == 0) {
      write.version = op.version;
      write.witness = index;
    }
    if (op.version != 0 && op.version != write.version) {
      return Contradiction("one value, two versions", {index, write.operation, write.witness});
    }
    if (op.end_ns < this->op(write).begin_ns) {
      return Contradiction("it ended before that put began", {index, write.operation});
    }
    write.is_observed = true;
    read.saw = put->item;
  }
  items_.push_back(read);
  return std::nullopt;
}

std::optional<Violation> KeyChecker::CheckByVersion() {
  bool may_be_dropped = false;
  for (const Item& item : items_) {
    if (!item.is_write || item.version != 0) continue;
    if (must_happen(item)) return Search();
    may_be_dropped = true;
  }
  // Whatever the others did, the writes of known version stand in this order.
  std::optional<Violation> violation = BoundWrites();
  if (violation) return violation;
  State state;
  for (const Index write : by_version_) {
    if (Fits(state, items_[write])) {
      state = {.write = write, .last = items_[write].version};
      continue;
    }
    violation = Contradiction("it succeeded, but not on the version before it",
                              {items_[write].operation, operation_of(state.write)});
    break;
  }
  if (!violation) violation = PlaceReads();
  // What fits without the writes of unknown outcome is linearizable: they never happened. What
  // doesn't may need one of them, and there is no telling where.
  if (!violation || !may_be_dropped) return violation;
  std::optional<Violation> searched = Search();
  if (!searched || searched->message.starts_with("undecided")) return searched;
  return violation;
}

// Write g comes after the begin of everything in the groups before it, and before the end of
// everything in its own and later groups. Taking the earliest moment for each is always best.
std::optional<Violation> KeyChecker::BoundWrites() {
  const std::size_t groups = by_version_.size() + 1;
  earliest_.assign(groups, Bound{0, kNone});
  latest_.assign(groups, Bound{0, kNone});
  for (Index g = 1; g < groups; ++g) {
    Item& write = items_[by_version_[g - 1]];
    write.group = g;
    earliest_[g] = {op(write).begin_ns, write.operation};
    latest_[g] = {op(write).end_ns, write.operation};
  }
  for (const Item& read : items_) {
    if (read.saw == kNone) continue;
    const Index g = items_[read.saw].group;
    if (op(read).end_ns < latest_[g].time) latest_[g] = {op(read).end_ns, read.operation};
    if (g + 1 == groups || op(read).begin_ns <= earliest_[g + 1].time) continue;
    earliest_[g + 1] = {op(read).begin_ns, read.operation};
  }
  for (std::size_t g = groups - 1; g > 1; --g) {
    if (latest_[g].time < latest_[g - 1].time) latest_[g - 1] = latest_[g];
  }
  for (std::size_t g = 1; g < groups; ++g) {
    if (earliest_[g].time < earliest_[g - 1].time) earliest_[g] = earliest_[g - 1];
    if (earliest_[g].time > latest_[g].time) return OutOfOrder(earliest_[g], latest_[g]);
  }
  return std::nullopt;
}

// `latest` ended before `earliest` began, but belongs after it.
Violation KeyChecker::OutOfOrder(const Bound& earliest, const Bound& latest) const {
  const Operation& late = history_[earliest.operation];
  const Operation& early = history_[latest.operation];
  Index third = earliest.witness;
  const char* reason = "versions contradict the order of two writes in time";
  if (late.failed || (late.kind == Kind::kGet && late.value == 0)) {
    reason = "what the first saw was never so while it ran";
  } else if (late.kind == Kind::kGet) {
    reason = early.kind == Kind::kGet
                 ? "a get went back to an older version than an earlier get had returned"
                 : "a get returned an old version after a newer write had been acknowledged";
  } else if (early.kind == Kind::kGet) {
    reason = "a get returned a newer version before the write of an older one began";
  }
  if (third == kNone && early.kind == Kind::kGet) {
    third = std::ranges::lower_bound(puts_, early.value, {}, &Put::value)->operation;
  }
  return Contradiction(reason, {earliest.operation, latest.operation, third});
}

// What saw no certain write may fit in several groups. As long as one of them fits nowhere with the
// writes at their earliest moments, the write that spoils its interval must come later: forced, so
// repeating it finds the least solution or none.
std::optional<Violation> KeyChecker::PlaceReads() {
  newest_[0].assign(earliest_.size(), 0);
  newest_[1].assign(earliest_.size(), kNone);
  for (Index g = 1; g < earliest_.size(); ++g) {
    const bool present = creates(group(g));
    newest_[present][g] = g;
    newest_[!present][g] = newest_[!present][g - 1];
  }
  for (bool moved = true; moved;) {
    moved = false;
    for (const Item& item : items_) {
      if (item.is_write || item.saw != kNone) continue;
      if (std::optional<Violation> violation = Place(item, &moved)) return violation;
    }
  }
  return std::nullopt;
}

std::optional<Violation> KeyChecker::Place(const Item& read, bool* moved) {
  const Operation& seen = op(read);
  const auto begin = earliest_.begin() + 1;
  // The first and the last group whose time overlaps the read's.
  const auto first =
      std::ranges::lower_bound(begin, earliest_.end(), seen.begin_ns, {}, &Bound::time) - begin;
  const auto next = std::ranges::upper_bound(begin, earliest_.end(), seen.end_ns, {}, &Bound::time);
  const auto last = static_cast<Index>(next - begin);
  Index fits = last;  // the last group that it may be in
  if (!is_conditional(seen)) {
    fits = newest_[0][last];
  } else if (seen.expected == 0) {
    fits = newest_[1][last];
  } else if (last != 0 && creates(group(last)) && group(last).version == seen.expected) {
    --fits;
  }
  if (fits != kNone && fits >= first) return std::nullopt;
  const Index witness = next == earliest_.end() ? kNone : next->operation;
  if (fits == kNone) return Contradiction("the key can't exist yet", {read.operation, witness});
  const Bound bound{seen.begin_ns, read.operation, witness};
  if (bound.time > latest_[fits + 1].time) return OutOfOrder(bound, latest_[fits + 1]);
  for (auto at = begin + fits; at != earliest_.end() && at->time < bound.time; ++at) *at = bound;
  *moved = true;
  return std::nullopt;
}

void KeyChecker::BuildEvents() {
  events_.assign(1, Event{0, kNone, false});
  outstanding_ = 0;
  for (Index i = 0; i < items_.size(); ++i) {
    events_.push_back({op(items_[i]).begin_ns, i, false});
    if (op(items_[i]).end_ns != kNever) events_.push_back({op(items_[i]).end_ns, i, true});
    outstanding_ += must_happen(items_[i]);
    items_[i].ret = 0;
  }
  // At equal times calls come first: operations that touch are concurrent.
  std::sort(events_.begin() + 1, events_.end(), [](const Event& a, const Event& b) {
    return std::tie(a.time, a.is_return, a.item) < std::tie(b.time, b.is_return, b.item);
  });
  const auto size = static_cast<Index>(events_.size());
  for (Index i = 0; i < size; ++i) {
    Event& event = events_[i];
    event.previous = (i + size - 1) % size;
    event.next = (i + 1) % size;
    if (i != 0) (event.is_return ? items_[event.item].ret : items_[event.item].call) = i;
  }
  versions_applied_ = 0;
  hash_[0] = hash_[1] = 0;
}

bool KeyChecker::Fits(const State& state, const Item& item) const {
  const bool present = state.write != kNone && creates(items_[state.write]);
  const std::uint64_t current = present ? items_[state.write].version : 0;
  const Operation& wanted = op(item);
  if (item.is_write && item.version != 0 && item.version <= state.last) return false;
  // It would undo a write that need not have happened: as good as without that.
  if (state.is_vain && !is_conditional(wanted) &&
      (wanted.kind == Kind::kPut || !must_happen(item))) {
    return false;
  }
  switch (wanted.kind) {
    case Kind::kGet:
      return wanted.value == 0 ? !present : state.write == item.saw;
    case Kind::kPut:
      return true;
    case Kind::kDelete:
      if (!is_conditional(wanted)) return present == item.is_write;
      [[fallthrough]];
    case Kind::kConditionalPut:
      if (!present) return (wanted.expected == 0) == item.is_write;
      if (wanted.expected == 0) return !item.is_write;
      if (!item.is_write) return wanted.expected != current;
      if (current != 0) return wanted.expected == current;
      return wanted.expected > state.last && (item.version == 0 || item.version > wanted.expected);
  }
  return false;
}

// What may be linearized next: an item that began before any other's return. A read that fits goes
// first, without alternative, as it changes nothing; then the choices among writes, those after
// `after` (kNone: all). Of the writes of known version only the oldest can be next.
Index KeyChecker::NextItem(const State& state, Index after, bool* is_choice) const {
  const Index oldest = due();
  bool is_due = false;
  *is_choice = false;
  Index at = events_[0].next;
  for (; after == kNone && at != 0 && !events_[at].is_return; at = events_[at].next) {
    const Index item = events_[at].item;
    is_due |= item == oldest;
    if (!items_[item].is_write && Fits(state, items_[item])) return item;
  }
  *is_choice = true;
  if (is_due && Fits(state, items_[oldest])) return oldest;
  const bool is_first = after == kNone || items_[after].version != 0;
  at = events_[is_first ? 0 : items_[after].call].next;
  for (; at != 0 && !events_[at].is_return; at = events_[at].next) {
    const Item& item = items_[events_[at].item];
    if (item.is_write && item.version == 0 && Fits(state, item)) return events_[at].item;
  }
  return kNone;
}

// Takes the item's events off the list, or puts them back where they were.
void KeyChecker::Toggle(Index index, bool applied) {
  const Item& item = items_[index];
  const Index order[2] = {applied ? item.call : item.ret, applied ? item.ret : item.call};
  for (const Index at : order) {
    if (at == 0) continue;
    const Event& event = events_[at];
    events_[event.previous].next = applied ? event.next : at;
    events_[event.next].previous = applied ? event.previous : at;
  }
  hash_[0] ^= Mix(index);
  hash_[1] ^= Mix(~std::uint64_t{index});
  const std::size_t step = applied ? 1 : ~std::size_t{0};
  if (must_happen(item)) outstanding_ -= step;
  if (item.version != 0) versions_applied_ += step;
}

void KeyChecker::Apply(State* state, Index index) {
  Toggle(index, /*applied=*/true);
  const Item& item = items_[index];
  state->is_vain = !must_happen(item);
  if (!item.is_write) return;
  // What it found may have been a version that was unknown.
  const std::uint64_t found = is_conditional(op(item)) ? op(item).expected : 0;
  state->last = std::max({state->last, found, item.version});
  state->write = index;
}

std::optional<Violation> KeyChecker::Search() {
  BuildEvents();
  if (outstanding_ == 0) return std::nullopt;
  // 128 bits stand for (set of linearized items, state): two that collide are not to be expected.
  std::set<std::pair<std::uint64_t, std::uint64_t>> seen;
  std::vector<Step> path;
  State state;
  Index after = kNone;
  std::size_t fewest_left = outstanding_ + 1;
  Violation stuck = Stuck(state);
  while (outstanding_ != 0) {
    bool is_choice = false;
    const Index item = NextItem(state, after, &is_choice);
    if (item != kNone) {
      path.push_back({state, item, is_choice});
      Apply(&state, item);
      after = kNone;
      if (!is_choice) continue;
      const std::uint64_t state_hash = Mix(Mix(state.write) ^ state.last);
      if (seen.emplace(hash_[0] ^ state_hash, hash_[1] ^ Mix(state_hash)).second) {
        if (seen.size() < kSearchBudget + items_.size()) continue;
        stuck.message = "undecided, too many writes of unknown outcome; " + stuck.message;
        return stuck;
      }
    } else if (outstanding_ < fewest_left) {
      fewest_left = outstanding_;
      stuck = Stuck(state);
    }
    bool was_choice = false;
    while (!path.empty() && !was_choice) {
      Toggle(path.back().item, /*applied=*/false);
      state = path.back().before;
      after = path.back().item;
      was_choice = path.back().is_choice;
      path.pop_back();
    }
    if (!was_choice) return stuck;
  }
  return std::nullopt;
}

// The operation that had to be next and can't be, and what stands in its way.
Violation KeyChecker::Stuck(const State& state) const {
  Index at = events_[0].next;
  while (at != 0 && !events_[at].is_return) at = events_[at].next;
  if (at == 0) at = events_[0].next;
  return Contradiction("no order explains it", {items_[events_[at].item].operation,
                                                operation_of(state.write), operation_of(due())});
}

// Key by key, in order of first appearance, until one is in violation.
template <typename Check>
std::optional<Violation> CheckEachKey(std::span<const Operation> history, Check check) {
  std::unordered_map<std::uint64_t, std::size_t> ids;
  std::vector<std::vector<Index>> keys;
  for (std::size_t i = 0; i < history.size(); ++i) {
    const std::size_t id = ids.try_emplace(history[i].key, keys.size()).first->second;
    if (id == keys.size()) keys.emplace_back();
    keys[id].push_back(static_cast<Index>(i));
  }
  KeyChecker checker(history);
  for (const std::vector<Index>& operations : keys) {
    std::optional<Violation> violation = checker.Load(operations);
    if (!violation) violation = check(checker);
    if (violation) return violation;
  }
  return std::nullopt;
}

}  // namespace

std::optional<Violation> CheckLinearizable(std::span<const Operation> history) {
  return CheckEachKey(history, [](KeyChecker& checker) { return checker.CheckByVersion(); });
}

std::optional<Violation> CheckWingGong(std::span<const Operation> history) {
  return CheckEachKey(history, [](KeyChecker& checker) { return checker.Search(); });
}

std::optional<Violation> CheckIntegrity(std::span<const Operation> history) {
  return CheckEachKey(history, [](KeyChecker&) { return std::optional<Violation>(); });
}

}  // namespace apta::sim
