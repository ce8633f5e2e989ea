// Client and home in turns, so that what each does for one request can be counted to the
// instruction: nobody spins, sleeps or overtakes while the other is at work.
//
// The shipped objects are linked as they are. What they wait in (fabric::IdleStrategy::Idle) is
// exchanged by the linker (--wrap): the client's thread, when it would wait, hands the turn to the
// home's thread and gets it back when that one has nothing left to do. Likewise the clock stands
// still for both, the agents of the clients never begin, and what must be counted (allocations,
// readings of the clock, copies) goes past a counter.
//
// Invariants
//   1. From BeginTurns on, of the client's and the home's thread exactly one runs.
//   2. Nothing is counted but what stands between StartCounting and StopCounting: of the client's
//      thread all, but for its turns given away; of the home's the turns that it gets.
//
// For the process's main thread, which is the client, and a memory server of one shard that runs in
// the same process. There is no way back: leave with _exit.
#pragma once

#include <cstdint>

namespace apta::guard {

enum class Side { kClient, kHome };

// Takes effect with the next message, which must follow at once and is not to be counted.
void BeginTurns();

void StartCounting(Side side);
void StopCounting();

struct Counted {
  std::uint64_t allocations = 0;
  std::uint64_t clock_readings = 0;
  std::uint64_t copied_bytes = 0;  // by memcpy and memmove, where the compiler calls them
  // System calls of a turn after the first one are not seen: 0 is 0, all else is "at least".
  std::uint64_t system_calls = 0;
  std::uint64_t first_system_call = 0;  // its number
  std::uint64_t turns = 0;              // given to the home: one for each time the client waits
};
// Since the last call.
Counted TakeCounted();

}  // namespace apta::guard
