// Client processes that do one thing each as often as they can, while somebody counts.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "harness.h"
#include "measure.h"

namespace apta::bench {

// What each thread of each process does.
struct Work {
  std::string socket;
  std::string pool = "strict";
  Placement placement = Placement::kInPlace;
  // get_hit | get_miss | get_uncached (of modes that never hit) | put | put_if | put_delete | stat
  // | list (a thread's keys) | create_commit (in trusted pools)
  std::string op = "get_hit";
  std::uint64_t size_bytes = 64;
  std::uint64_t keys = 1;  // per thread; get_miss: of all, "object" 0 … keys - 1
  bool same_keys = false;  // all threads use the same ones
  int threads = 1;
  int processes = 1;
};

class Crew {
 public:
  // Returns when all are attached and warm. They wait, asleep, until somebody counts.
  explicit Crew(const Work& work);
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;
  ~Crew();

  // Calls per second of all of them together, over `seconds` or until there have been some;
  // negative: one has failed; 0: there were hardly any for half a minute.
  double CallsPerSecond(double seconds);
  const std::vector<std::unique_ptr<Process>>& processes() const { return processes_; }

 private:
  SharedBytes shared_;
  const int threads_;  // of all processes
  std::vector<std::unique_ptr<Process>> processes_;
};

// A benchmark: the rate of a crew, as items_per_second; its time is that of one call.
// `repetitions`: of the same work, one after the other.
void Rate(benchmark::State& state, const Work& work, int repetitions);

// The objects that get_miss gets. Returns whether all are there.
bool PutObjects(Client* client, std::uint64_t count, std::uint64_t size_bytes);

// The role "worker".
int RunWorker(const std::vector<std::string>& words);

}  // namespace apta::bench
