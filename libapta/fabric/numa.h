// Which memory nodes this machine has, from sysfs; libnuma does the binding (region.cc).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace apta::fabric {

struct FarNode {
  int node;
  std::optional<std::uint64_t> read_latency_ns;  // from the HMAT, where the kernel has it
  int distance;                                  // from node `near`
};

// The numbers in a sysfs list such as "0-2,5"; empty for "".
std::vector<int> ParseNodeList(const std::string& text);

// Memory nodes without CPUs, nearest first: by HMAT read latency where every one has it, else by
// distance. `root` is /sys/devices/system/node, or a tree like it.
std::vector<FarNode> RankFarNodes(const std::string& root, int near);

// Whether a page of `memory` is on another node than the CPU that asks: by libnuma's distance.
// False where the kernel does not say.
bool IsFarFromHere(const void* memory);

}  // namespace apta::fabric
