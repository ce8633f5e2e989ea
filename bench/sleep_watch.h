// Whether a home sleeps, as its pool's superblock says: for what is measured while it does.
#pragma once

#include <string>
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

}  // namespace apta::bench
