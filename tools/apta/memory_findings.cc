// apta doctor: pages, NUMA, limits and devices of memory.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/apta/doctor.h"
#include "tools/apta/output.h"

namespace apta::tool {
namespace {

using Findings = std::vector<Finding>;

constexpr std::string_view kThp = "/sys/kernel/mm/transparent_hugepage";
constexpr std::string_view kNodes = "/sys/devices/system/node";
constexpr std::uint64_t kDefaultPoolBytes = std::uint64_t{1} << 30;

// The choice in brackets: "always [madvise] never".
std::string Chosen(std::string_view text) {
  const std::size_t open = text.find('[');
  const std::size_t close = text.find(']');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) {
    return std::string(text);
  }
  return std::string(text.substr(open + 1, close - open - 1));
}

void SharedHugePages(const Machine& machine, Findings* findings) {
  const std::string file = fmt::format("{}/shmem_enabled", kThp);
  const auto text = machine.Text(file);
  if (!text.has_value()) {
    findings->push_back({Level::kSlow, "no transparent huge pages for shared memory",
                         "this kernel has none: regions get 4 KiB pages, which cost a TLB miss "
                         "each; reserve 2 MiB pages and use backing=hugetlb",
                         "sudo sysctl vm.nr_hugepages=600 && aptad --pool backing=hugetlb"});
    return;
  }
  std::string chosen = Chosen(*text);
  // Newer kernels decide by page size; "deny" and "force" still overrule that.
  const auto by_size = machine.Text(fmt::format("{}/hugepages-2048kB/shmem_enabled", kThp));
  if (by_size.has_value() && chosen != "deny" && chosen != "force") {
    if (const std::string own = Chosen(*by_size); own != "inherit") chosen = own;
  }
  if (chosen == "never" || chosen == "deny") {
    findings->push_back(
        {Level::kSlow, fmt::format("transparent huge pages for shared memory: {}", chosen),
         "regions get 4 KiB pages: populating them takes about ten times as long (4 us per 4 KiB "
         "page against 0.2 ms per 2 MiB page), and every access may miss the TLB",
         fmt::format("echo advise | sudo tee {}", file)});
    return;
  }
  findings->push_back(
      {Level::kOk, fmt::format("transparent huge pages for shared memory: {}", chosen), "", ""});
}

void PrivateHugePages(const Machine& machine, Findings* findings) {
  const std::string file = fmt::format("{}/enabled", kThp);
  const auto text = machine.Text(file);
  if (!text.has_value() || Chosen(*text) != "never") return;
  findings->push_back({Level::kNote, "transparent huge pages for private memory: never",
                       "local copies of large objects, and drafts, get 4 KiB pages",
                       fmt::format("echo madvise | sudo tee {}", file)});
}

void ReservedHugePages(const Machine& machine, Findings* findings) {
  constexpr std::string_view kFolder = "/sys/kernel/mm/hugepages/hugepages-2048kB";
  const auto total = machine.Number(fmt::format("{}/nr_hugepages", kFolder)).value_or(0);
  const auto free = machine.Number(fmt::format("{}/free_hugepages", kFolder)).value_or(0);
  if (total == 0) {
    findings->push_back({Level::kNote, "no 2 MiB pages reserved",
                         "backing=hugetlb has nothing to draw on; 600 pages hold a 1 GiB pool",
                         "sudo sysctl vm.nr_hugepages=600"});
    return;
  }
  findings->push_back(
      {Level::kOk, fmt::format("2 MiB pages reserved: {}, of which {} free", total, free), "", ""});
}

void NumaNodes(const Machine& machine, Findings* findings) {
  const auto nodes = ParseCpuList(machine.Text(fmt::format("{}/has_memory", kNodes)).value_or("0"));
  std::vector<std::string> far;
  for (const int node : nodes) {
    const auto cpus = machine.Text(fmt::format("{}/node{}/cpulist", kNodes, node));
    if (!cpus.has_value() || !cpus->empty()) continue;
    const auto free_kib = machine.Field(fmt::format("{}/node{}/meminfo", kNodes, node), "MemFree");
    far.push_back(fmt::format("{} ({} free)", node, FormatBytes(free_kib.value_or(0) * 1024)));
  }
  if (far.empty()) {
    findings->push_back(
        {Level::kNote,
         fmt::format("{} memory node{}, none of them far", nodes.size(),
                     nodes.size() == 1 ? "" : "s"),
         "numa=far needs a memory node without CPUs, such as a CXL expander; a link can be "
         "emulated instead",
         "aptad --link cxl"});
  } else {
    findings->push_back(
        {Level::kOk, fmt::format("far memory nodes: {}", fmt::join(far, ", ")), "", ""});
  }
  if (nodes.size() > 1 && machine.Number("/proc/sys/kernel/numa_balancing").value_or(0) != 0) {
    findings->push_back({Level::kSlow, "automatic NUMA balancing is on",
                         "the kernel unmaps pages now and then to see who touches them: page "
                         "faults on gets, and pages that move away from where the pool was bound",
                         "sudo sysctl kernel.numa_balancing=0"});
  }
}

void AvailableMemory(const Machine& machine, Findings* findings) {
  const auto available_kib = machine.Field("/proc/meminfo", "MemAvailable");
  if (!available_kib.has_value()) return;
  const std::uint64_t available_bytes = *available_kib * 1024;
  if (available_bytes < kDefaultPoolBytes) {
    findings->push_back(
        {Level::kSlow, fmt::format("{} of memory available", FormatBytes(available_bytes)),
         "a pool of the default size (1 GiB) does not fit", "aptad --pool bytes=256MiB"});
    return;
  }
  findings->push_back(
      {Level::kOk, fmt::format("{} of memory available", FormatBytes(available_bytes)), "", ""});
}

void GroupMemory(const Machine& machine, Findings* findings) {
  const std::uint64_t total_bytes =
      machine.Field("/proc/meminfo", "MemTotal").value_or(UINT64_MAX / 1024) * 1024;
  for (const std::string& file :
       machine.GroupFiles("memory", "memory.max", "memory.limit_in_bytes")) {
    const auto limit_bytes = machine.Number(file);  // v2 says "max" where there is none
    if (!limit_bytes.has_value() || *limit_bytes >= total_bytes) continue;
    const bool is_v2 = file.ends_with("memory.max");
    findings->push_back(
        {*limit_bytes < 2 * kDefaultPoolBytes ? Level::kSlow : Level::kNote,
         fmt::format("control group limits memory to {}", FormatBytes(*limit_bytes)),
         "shared memory is charged to whoever touches it first, that is aptad; past the limit the "
         "kernel reclaims, then kills",
         fmt::format("echo {} | sudo tee {}", is_v2 ? "max" : "-1", file)});
  }
}

// What a tmpfs may hold: its size option ("65536k", "50%"), or half of the memory.
std::uint64_t TmpfsBytes(const Machine::Mount& mount, std::uint64_t memory_bytes) {
  for (const std::string& option : mount.options) {
    if (!option.starts_with("size=")) continue;
    const std::string_view text = std::string_view(option).substr(5);
    const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    const std::uint64_t number = ParseUnsigned(text.substr(0, digits)).value_or(0);
    const std::string_view unit = text.substr(digits);
    if (unit == "%") return memory_bytes / 100 * number;
    if (unit == "k") return number << 10;
    if (unit == "m") return number << 20;
    if (unit == "g") return number << 30;
    return number;
  }
  return memory_bytes / 2;
}

void SharedMemoryFolder(const Machine& machine, Findings* findings) {
  const auto mounts = machine.Mounts();
  const auto mount = std::ranges::find(mounts, "/dev/shm", &Machine::Mount::folder);
  if (mount == mounts.end()) {
    findings->push_back({Level::kNote, "/dev/shm is not mounted", "backing=shm:NAME needs it",
                         "sudo mount -t tmpfs tmpfs /dev/shm"});
    return;
  }
  const std::uint64_t memory_bytes = machine.Field("/proc/meminfo", "MemTotal").value_or(0) * 1024;
  const std::uint64_t bytes = TmpfsBytes(*mount, memory_bytes);
  if (bytes < kDefaultPoolBytes) {
    findings->push_back(
        {Level::kNote, fmt::format("/dev/shm holds at most {}", FormatBytes(bytes)),
         "a pool with backing=shm:NAME cannot be larger (containers: docker run --shm-size=4g)",
         "sudo mount -o remount,size=4G /dev/shm"});
    return;
  }
  findings->push_back(
      {Level::kOk, fmt::format("/dev/shm holds at most {}", FormatBytes(bytes)), "", ""});
}

void Swapping(const Machine& machine, Findings* findings) {
  constexpr std::uint64_t kModestSwappiness = 10;
  const bool has_swap = SplitLines(machine.Text("/proc/swaps").value_or("")).size() > 1;
  const auto swappiness = machine.Number("/proc/sys/vm/swappiness").value_or(0);
  if (has_swap && swappiness > kModestSwappiness) {
    findings->push_back({Level::kSlow, fmt::format("swap is on, swappiness {}", swappiness),
                         "shared memory that rests for a while goes to disk; the next get waits "
                         "for it",
                         "sudo sysctl vm.swappiness=1"});
    return;
  }
  findings->push_back({Level::kOk,
                       has_swap ? fmt::format("swap is on, swappiness {}", swappiness) : "no swap",
                       "", ""});
}

void DaxDevices(const Machine& machine, Findings* findings) {
  constexpr std::string_view kDevices = "/sys/bus/dax/devices";
  for (const std::string& name : machine.Names(kDevices)) {
    const std::string folder = fmt::format("{}/{}", kDevices, name);
    const std::uint64_t bytes = machine.Number(folder + "/size").value_or(0);
    const std::string node = machine.Text(folder + "/target_node").value_or("?");
    const bool is_system_ram = machine.LinkName(folder + "/driver") == "kmem";
    if (is_system_ram) {
      findings->push_back(
          {Level::kNote,
           fmt::format("{} ({}) is in system-ram mode, as NUMA node {}", name, FormatBytes(bytes),
                       node),
           fmt::format("a pool gets at it with numa={}; the kernel may put other things there "
                       "too. To have the device to itself:",
                       node),
           fmt::format("sudo daxctl reconfigure-device --force --mode=devdax {}", name)});
    } else {
      findings->push_back(
          {Level::kNote, fmt::format("{} ({}) is in devdax mode", name, FormatBytes(bytes)),
           fmt::format("this version has no backing for it; as system RAM it is NUMA node {}, "
                       "which a pool can use with numa=far",
                       node),
           fmt::format("sudo daxctl reconfigure-device --mode=system-ram {}", name)});
    }
  }
}

}  // namespace

std::vector<Finding> ExamineMemory(const Machine& machine) {
  Findings findings;
  SharedHugePages(machine, &findings);
  PrivateHugePages(machine, &findings);
  ReservedHugePages(machine, &findings);
  NumaNodes(machine, &findings);
  AvailableMemory(machine, &findings);
  GroupMemory(machine, &findings);
  SharedMemoryFolder(machine, &findings);
  Swapping(machine, &findings);
  DaxDevices(machine, &findings);
  return findings;
}

}  // namespace apta::tool
