// Did a recorded history of gets and puts behave like one memory? The judge of the simulator and of
// the tests over real processes; any thread may call it, nothing is shared between calls.
//
// The model: each key is an atomic register, absent at first, and its own history (linearizability
// is local). A put or delete commits with a version; the versions of one key strictly increase in
// commit order. An operation takes effect at one moment of [begin_ns, end_ns]; intervals that only
// touch are concurrent.
//
// 1. A version that somebody saw (its writer, or a get) was committed; its write took effect.
// 2. A write that never returned and whose version nobody saw may have taken effect at any time
//    after it began, or not at all.
// 3. A version that nobody saw is whatever the rest of the history needs: a conditional put may
//    have found it, another may have missed it. Never a false alarm for want of a version.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace apta::sim {

inline constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

struct Operation {
  enum class Kind : std::uint8_t { kGet, kPut, kDelete, kConditionalPut };

  Kind kind = Kind::kGet;
  std::uint32_t client = 0;
  std::uint64_t key = 0;
  std::uint64_t value = 0;     // a put's own value, never 0 or written twice to one key;
                               // what a get read, 0: not found (its version is then ignored)
  std::uint64_t version = 0;   // what the server answered; 0: unknown
  std::uint64_t begin_ns = 0;  // real time, one clock for all clients
  std::uint64_t end_ns = 0;    // kNever: it did not return
  std::uint64_t expected = 0;  // conditional put: the version required, 0: the key is absent;
                               // delete: the version required, 0: any
  // It certainly had no effect. Conditional: the version was not `expected` at that moment.
  // Delete: there was nothing to delete. Get, put: it says nothing (refused, no memory).
  bool failed = false;
};

struct Violation {
  std::uint64_t key = 0;
  std::string message;                  // one line, names the operations that contradict each other
  std::vector<std::size_t> operations;  // their indices in the history
};

// One line for logs: "put by client 3 of value 17, version 5, at [100, 200]".
inline std::string Describe(const Operation& op) {
  constexpr const char* kNames[] = {"get", "put", "delete", "conditional put"};
  std::string text = kNames[static_cast<int>(op.kind)];
  const auto add = [&text](const char* name, std::uint64_t number) {
    text += name + std::to_string(number);
  };
  add(" by client ", op.client);
  if (op.value != 0) add(" of value ", op.value);
  if (op.kind == Operation::Kind::kGet && op.value == 0 && !op.failed) text += " of nothing";
  if (op.version != 0) add(", version ", op.version);
  if (op.kind == Operation::Kind::kConditionalPut || op.expected != 0) {
    add(", expecting version ", op.expected);
  }
  if (op.failed) text += ", failed";
  add(", at [", op.begin_ns);
  return text + ", " + (op.end_ns == kNever ? "never" : std::to_string(op.end_ns)) + "]";
}

// Whether every key's history is linearizable. Integrity first (see there). With versions the order
// of the writes is given, and what is left is an interval problem: O(n log n). Only a key that
// can't be explained without a write of unknown outcome is searched (CheckWingGong); a search that
// exceeds its budget is reported as a violation whose message begins "undecided".
std::optional<Violation> CheckLinearizable(std::span<const Operation> history);

// The same verdict by search alone: Wing and Gong, "Testing and verifying concurrent objects"
// (1993), with the memoisation of Lowe, "Testing for linearizability" (2017), key by key
// (P-compositionality: Horn and Kroening 2015). Exponential in the operations of unknown outcome.
std::optional<Violation> CheckWingGong(std::span<const Operation> history);

// What holds in every coherence mode, `lazy` too: a get returns a pair of value and version that a
// put wrote, and not before that put began; no two writes of a key share a version. That the writes
// are ordered is CheckLinearizable of the history without its gets.
std::optional<Violation> CheckIntegrity(std::span<const Operation> history);

// A get inside an invocation that the scheduler started.
struct ScheduledGet {
  std::uint64_t key = 0;
  std::uint64_t version = 0;  // 0: not found
  std::uint64_t invocation_started_ns = 0;
  std::uint64_t end_ns = 0;  // of the get
};

// Lazy linearizability: a get of an invocation returns a version at least as new as each put and
// delete that was acknowledged before the invocation was started, and one that somebody put. Not
// found is right if the key may have been deleted since, before the get ended. Gets in `writes` are
// skipped; Violation::operations are indices of `writes`, and the message names the index of the
// get.
std::optional<Violation> CheckLazy(std::span<const Operation> writes,
                                   std::span<const ScheduledGet> gets);

// In every mode: a get that begins after a write of the same process has returned brings that
// write's version or a newer one, or nothing if somebody may have deleted the key since.
std::optional<Violation> CheckOwnWrites(
    std::span<const Operation> history,
    const std::function<std::uint32_t(std::uint32_t client)>& process_of);

// How many gets returned a version older than one that was acknowledged before they began: no error
// in `lazy`, but its price.
std::size_t CountStale(std::span<const Operation> history);

}  // namespace apta::sim
