// apta doctor: processors, kernel and limits of processes.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/apta/doctor.h"
#include "tools/apta/output.h"

namespace apta::tool {
namespace {

using Findings = std::vector<Finding>;

constexpr std::string_view kCpus = "/sys/devices/system/cpu";

// The CPUs that this process may run on.
std::vector<int> AllowedCpus(const Machine& machine) {
  for (const std::string& line : SplitLines(machine.Text("/proc/self/status").value_or(""))) {
    const auto words = SplitWords(line);
    if (words.size() == 2 && words[0] == "Cpus_allowed_list:") return ParseCpuList(words[1]);
  }
  return ParseCpuList(machine.Text(fmt::format("{}/online", kCpus)).value_or("0"));
}

void CpuCount(const Machine& machine, Findings* findings) {
  const std::string online = machine.Text(fmt::format("{}/online", kCpus)).value_or("0");
  const std::size_t allowed_count = AllowedCpus(machine).size();
  const std::size_t online_count = ParseCpuList(online).size();
  if (allowed_count >= 2) {
    findings->push_back({Level::kOk, fmt::format("{} CPUs", allowed_count), "", ""});
    return;
  }
  findings->push_back(
      {Level::kSlow, fmt::format("{} of {} CPUs to run on", allowed_count, online_count),
       "client and memory server take turns on it: a message costs two context switches, 4 us and "
       "more, in place of 0.15 us",
       online_count >= 2 ? fmt::format("taskset --cpu-list {} aptad", online) : ""});
}

void IsolatedCpus(const Machine& machine, Findings* findings) {
  const std::string isolated = machine.Text(fmt::format("{}/isolated", kCpus)).value_or("");
  if (isolated.empty()) return;  // polling yields: isolation helps, its absence does no harm
  findings->push_back({Level::kNote, fmt::format("CPUs {} are isolated", isolated),
                       "the scheduler puts nothing there by itself; a polling memory server on "
                       "them is never interrupted",
                       fmt::format("taskset --cpu-list {} aptad", isolated)});
}

void Quota(const std::string& file, std::uint64_t quota_us, std::uint64_t period_us,
           std::string_view unlimited, std::size_t cpu_count, Findings* findings) {
  if (period_us == 0 || quota_us >= period_us * cpu_count) return;
  const double share = static_cast<double>(quota_us) / static_cast<double>(period_us);
  findings->push_back(
      {Level::kSlow, fmt::format("control group gives {:.2f} of {} CPUs", share, cpu_count),
       fmt::format("polling uses the quota up; then everything stops until the next period of "
                   "{} ms begins",
                   period_us / 1000),
       fmt::format("echo {} | sudo tee {}", unlimited, file)});
}

void CpuQuota(const Machine& machine, Findings* findings) {
  const std::size_t cpu_count = AllowedCpus(machine).size();
  for (const std::string& file : machine.GroupFiles("cpu", "cpu.max", "cpu.cfs_quota_us")) {
    const auto words = SplitWords(machine.Text(file).value_or(""));
    if (words.empty()) continue;
    const auto quota_us = ParseUnsigned(words[0]);  // not a number: v2 "max", v1 "-1"
    if (!quota_us.has_value()) continue;
    if (words.size() == 2) {
      Quota(file, *quota_us, ParseUnsigned(words[1]).value_or(0), "max", cpu_count, findings);
    } else {
      const std::string folder = file.substr(0, file.rfind('/'));
      const auto period_us = machine.Number(folder + "/cpu.cfs_period_us");
      Quota(file, *quota_us, period_us.value_or(0), "-1", cpu_count, findings);
    }
  }
}

void Governor(const Machine& machine, Findings* findings) {
  std::map<std::string, int> cpus_by_governor;
  for (const int cpu : AllowedCpus(machine)) {
    const auto governor =
        machine.Text(fmt::format("{}/cpu{}/cpufreq/scaling_governor", kCpus, cpu));
    if (governor.has_value()) ++cpus_by_governor[*governor];
  }
  if (cpus_by_governor.empty()) {
    findings->push_back({Level::kOk, "CPU frequency is not in this kernel's hands", "", ""});
    return;
  }
  bool all_fast = true;
  for (const auto& [governor, count] : cpus_by_governor) {
    if (governor == "performance") continue;
    all_fast = false;
    const bool follows_load = governor == "schedutil" || governor == "ondemand";
    findings->push_back({follows_load ? Level::kNote : Level::kSlow,
                         fmt::format("CPU frequency governor {} on {} CPUs", governor, count),
                         follows_load
                             ? "the first microseconds after a pause run at a low frequency"
                             : "CPUs stay at low frequencies, or climb slowly",
                         "sudo cpupower frequency-set --governor performance"});
  }
  if (all_fast) findings->push_back({Level::kOk, "CPU frequency governor performance", "", ""});
}

void Virtualisation(const Machine& machine, Findings* findings) {
  constexpr double kSlowSteal = 0.05;
  constexpr double kNoteSteal = 0.01;
  const auto cpuinfo = SplitWords(machine.Text("/proc/cpuinfo").value_or(""));
  const bool is_virtual = std::ranges::find(cpuinfo, "hypervisor") != cpuinfo.end();
  const auto lines = SplitLines(machine.Text("/proc/stat").value_or(""));
  const auto words = SplitWords(lines.empty() ? "" : lines.front());
  // cpu user nice system idle iowait irq softirq steal …, since the machine was started
  double busy = 0;
  double steal = 0;
  for (std::size_t i = 1; i < words.size() && i <= 8; ++i) {
    const auto ticks = static_cast<double>(ParseUnsigned(words[i]).value_or(0));
    if (i == 8) steal = ticks;
    if (i != 4 && i != 5) busy += ticks;
  }
  const double share = busy > 0 ? steal / busy : 0;
  const std::string text =
      fmt::format("{}, {:.1f} % of busy time stolen since its start",
                  is_virtual ? "virtual machine" : "no hypervisor seen", share * 100);
  if (share >= kNoteSteal) {
    findings->push_back({share >= kSlowSteal ? Level::kSlow : Level::kNote, text,
                         "the hypervisor takes the CPU away in the middle of a hand-over: tails of "
                         "milliseconds; only CPUs of one's own help",
                         ""});
  } else if (is_virtual) {
    findings->push_back({Level::kNote, text,
                         "waking a sleeper costs a trip to the hypervisor, tens of microseconds; "
                         "calls that find the other side polling do not pay it",
                         ""});
  } else {
    findings->push_back({Level::kOk, text, "", ""});
  }
}

void KernelVersion(const Machine& machine, Findings* findings) {
  const std::string release = machine.Text("/proc/sys/kernel/osrelease").value_or("");
  const std::size_t dot = release.find('.');
  const std::size_t minor_end = release.find_first_not_of("0123456789", dot + 1);
  const auto major = ParseUnsigned(std::string_view(release).substr(0, dot));
  if (dot == std::string::npos || !major.has_value()) return;
  const auto minor =
      ParseUnsigned(std::string_view(release).substr(dot + 1, minor_end - dot - 1)).value_or(0);
  const std::pair<std::uint64_t, std::uint64_t> version(*major, minor);
  const std::string what = fmt::format("Linux {}", release);
  if (version < std::pair<std::uint64_t, std::uint64_t>(5, 3)) {
    findings->push_back({Level::kBroken, what,
                         "5.3 is the least: before, there are no pidfds, and before 5.1 neither "
                         "io_uring nor memory that can be sealed against later writers",
                         "sudo apt install linux-image-amd64"});
  } else if (version < std::pair<std::uint64_t, std::uint64_t>(5, 14)) {
    findings->push_back({Level::kSlow, what,
                         "before 5.14 there is no MADV_POPULATE_WRITE: a region is populated page "
                         "by page",
                         "sudo apt install linux-image-amd64"});
  } else if (version < std::pair<std::uint64_t, std::uint64_t>(6, 5)) {
    findings->push_back(
        {Level::kNote, what,
         "before 6.5 there is no SO_PEERPIDFD: a client that dies while it attaches "
         "is found by its process number, which might be another's by then",
         "sudo apt install linux-image-amd64"});
  } else {
    findings->push_back({Level::kOk, what, "", ""});
  }
}

void IoUring(const Machine& machine, std::optional<int> io_uring_errno, Findings* findings) {
  const auto disabled = machine.Number("/proc/sys/kernel/io_uring_disabled").value_or(0);
  const std::string why = "the memory server's control loop runs on it: aptad cannot start";
  if (io_uring_errno == 0) {
    findings->push_back({Level::kOk, "io_uring works", "", ""});
  } else if (disabled == 1) {
    findings->push_back({io_uring_errno.has_value() ? Level::kBroken : Level::kNote,
                         "io_uring is for privileged users only (kernel.io_uring_disabled=1)", why,
                         "sudo sysctl kernel.io_uring_disabled=0"});
  } else if (disabled != 0) {
    findings->push_back({Level::kBroken,
                         fmt::format("io_uring is off (kernel.io_uring_disabled={})", disabled),
                         why, "sudo sysctl kernel.io_uring_disabled=0"});
  } else if (io_uring_errno.has_value()) {
    findings->push_back(
        {Level::kBroken, fmt::format("io_uring: {}", std::strerror(*io_uring_errno)),
         why + (*io_uring_errno == ENOSYS ? "; this kernel was built without it"
                                          : "; most likely the container forbids the system call"),
         *io_uring_errno == ENOSYS ? "" : "docker run --security-opt seccomp=unconfined …"});
  }
}

// The soft limit of a line of /proc/self/limits; nothing = unlimited or not there.
std::optional<std::uint64_t> SoftLimit(const Machine& machine, std::string_view name) {
  for (const std::string& line : SplitLines(machine.Text("/proc/self/limits").value_or(""))) {
    if (!line.starts_with(name)) continue;
    const auto words = SplitWords(std::string_view(line).substr(name.size()));
    return words.empty() ? std::nullopt : ParseUnsigned(words.front());
  }
  return std::nullopt;
}

void Limits(const Machine& machine, Findings* findings) {
  constexpr std::uint64_t kEnoughFiles = 2048;  // 256 nodes with a handful of descriptors each
  constexpr std::uint64_t kEnoughLockedBytes = 8 << 20;
  const auto files = SoftLimit(machine, "Max open files").value_or(UINT64_MAX);
  if (files < kEnoughFiles) {
    findings->push_back({Level::kNote, fmt::format("at most {} open files a process", files),
                         "the memory server needs some for each attached node: with many nodes "
                         "attaching fails",
                         fmt::format("ulimit -n {}", kEnoughFiles)});
  } else {
    findings->push_back({Level::kOk, "open files: enough for 256 nodes", "", ""});
  }
  const auto locked_bytes = SoftLimit(machine, "Max locked memory").value_or(UINT64_MAX);
  if (locked_bytes < kEnoughLockedBytes) {
    findings->push_back(
        {Level::kNote, fmt::format("at most {} of locked memory", FormatBytes(locked_bytes)),
         "io_uring counts its buffers against it on kernels before 5.12", "ulimit -l unlimited"});
  } else {
    findings->push_back({Level::kOk, "locked memory: enough", "", ""});
  }
}

}  // namespace

std::vector<Finding> ExamineCpusAndKernel(const Machine& machine,
                                          std::optional<int> io_uring_errno) {
  Findings findings;
  CpuCount(machine, &findings);
  IsolatedCpus(machine, &findings);
  CpuQuota(machine, &findings);
  Governor(machine, &findings);
  Virtualisation(machine, &findings);
  KernelVersion(machine, &findings);
  IoUring(machine, io_uring_errno, &findings);
  Limits(machine, &findings);
  return findings;
}

}  // namespace apta::tool
