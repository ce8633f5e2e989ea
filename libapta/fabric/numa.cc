#include "fabric/numa.h"

#include <numa.h>
#include <numaif.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "fmt/format.h"

namespace apta::fabric {
namespace {

std::string ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::optional<std::uint64_t> ParseNumber(const std::string& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

int DistanceTo(const std::string& root, int from, int to) {
  std::istringstream distances(ReadLine(fmt::format("{}/node{}/distance", root, from)));
  int distance = 255;  // the ACPI SLIT's "unreachable"
  const std::vector<int> nodes = ParseNodeList(ReadLine(root + "/online"));
  for (const int node : nodes) {
    int value;
    if (!(distances >> value)) break;
    if (node == to) distance = value;
  }
  return distance;
}

}  // namespace

std::vector<int> ParseNodeList(const std::string& text) {
  std::vector<int> nodes;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const std::size_t dash = part.find('-');
    const auto first = ParseNumber(part.substr(0, dash));
    const auto last = dash == std::string::npos ? first : ParseNumber(part.substr(dash + 1));
    if (!first || !last || *last < *first || *last > 4096) continue;
    for (std::uint64_t node = *first; node <= *last; ++node) {
      nodes.push_back(static_cast<int>(node));
    }
  }
  return nodes;
}

std::vector<FarNode> RankFarNodes(const std::string& root, int near) {
  std::vector<FarNode> far;
  for (const int node : ParseNodeList(ReadLine(root + "/has_memory"))) {
    if (!ParseNodeList(ReadLine(fmt::format("{}/node{}/cpulist", root, node))).empty()) continue;
    far.push_back({node,
                   ParseNumber(ReadLine(
                       fmt::format("{}/node{}/access0/initiators/read_latency", root, node))),
                   DistanceTo(root, near, node)});
  }
  const bool have_latency = std::all_of(
      far.begin(), far.end(), [](const FarNode& node) { return node.read_latency_ns.has_value(); });
  std::stable_sort(far.begin(), far.end(), [&](const FarNode& a, const FarNode& b) {
    return have_latency ? *a.read_latency_ns < *b.read_latency_ns : a.distance < b.distance;
  });
  return far;
}

bool IsFarFromHere(const void* memory) {
  if (numa_available() < 0) return false;
  void* page = const_cast<void*>(memory);
  int node = -1;
  if (numa_move_pages(0, 1, &page, nullptr, &node, 0) != 0 || node < 0) return false;
  const int here = numa_node_of_cpu(sched_getcpu());
  return here >= 0 && node != here && numa_distance(here, node) > numa_distance(here, here);
}

}  // namespace apta::fabric
