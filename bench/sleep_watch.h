// Whether a home sleeps, as its pool's superblock says: for what is measured while it does. And
// what a wake-up costs at least.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "fabric/fd.h"
#include "fabric/region.h"

namespace apta::bench {

// A node of its own, which asks nothing and shares nothing. Shard 0 alone.
class SleepWatch {
 public:
  SleepWatch(const std::string& socket, const std::string& pool);

  bool IsAsleep() const;
  // For a second at most. The announcement comes before the sleep: it has to stand for a while.
  bool AwaitSleep() const;
  static void Spin(double ns);

 private:
  fabric::UniqueFd socket_;
  std::vector<fabric::UniqueFd> fds_;
  fabric::Region region_;
};

// A bare futex sleeper on the homes' core.
class Sleeper {
 public:
  Sleeper() : thread_([this] { Run(); }) {}
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;
  ~Sleeper();
  double Wake();  // ns until it runs

 private:
  void Run();
  std::atomic<bool> stop_{false};
  std::atomic<std::uint32_t> ping_{0}, pong_{0};
  std::thread thread_;
};

}  // namespace apta::bench
