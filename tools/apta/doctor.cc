#include "tools/apta/doctor.h"

#include <fmt/format.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>

namespace apta::tool {

std::string_view LevelName(Level level) {
  switch (level) {
    case Level::kOk:
      return "ok";
    case Level::kNote:
      return "note";
    case Level::kSlow:
      return "slow";
    case Level::kBroken:
      return "broken";
  }
  return "";
}

std::optional<int> TryIoUring() {
  io_uring_params params{};
  const long fd = syscall(SYS_io_uring_setup, 1, &params);
  if (fd < 0) return errno;
  close(static_cast<int>(fd));
  return 0;
}

std::vector<Finding> Examine(const Machine& machine, std::optional<int> io_uring_errno) {
  std::vector<Finding> findings = ExamineMemory(machine);
  std::ranges::move(ExamineCpusAndKernel(machine, io_uring_errno), std::back_inserter(findings));
  std::ranges::stable_sort(findings, std::ranges::greater(), &Finding::level);
  return findings;
}

std::string RenderFindings(const std::vector<Finding>& findings) {
  std::array<int, 4> count{};
  std::string text;
  for (const Finding& finding : findings) {
    ++count[static_cast<std::size_t>(finding.level)];
    text += fmt::format("{:<7} {}\n", LevelName(finding.level), finding.what);
    if (finding.level == Level::kOk) continue;
    if (!finding.why.empty()) text += fmt::format("        {}\n", finding.why);
    if (!finding.command.empty()) text += fmt::format("        $ {}\n", finding.command);
  }
  return text + fmt::format("{} broken, {} slow, {} to note, {} ok\n", count[3], count[2], count[1],
                            count[0]);
}

}  // namespace apta::tool
