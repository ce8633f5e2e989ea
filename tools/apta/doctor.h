// What on a machine keeps Āpta from being fast, or from working, and what changes it.
//
// Reads only; changes nothing. Thread-safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/apta/machine.h"

namespace apta::tool {

enum class Level {
  kOk,
  kNote,    // worth knowing; costs nothing as long as the feature is not used
  kSlow,    // costs time
  kBroken,  // Āpta does not work here
};

struct Finding {
  Level level = Level::kOk;
  std::string what;     // how things are
  std::string why;      // what that costs or permits
  std::string command;  // what changes it; "" = nothing to be done by a command
};

std::string_view LevelName(Level level);

// The errno of an attempt to set up an io_uring here; 0 = works. What sysctl says is not all:
// containers forbid the system call.
std::optional<int> TryIoUring();

// Everything about the machine, worst first. `io_uring_errno`: as TryIoUring says, or nothing when
// the machine is not the one we run on.
std::vector<Finding> Examine(const Machine& machine, std::optional<int> io_uring_errno);

// Its parts, in memory_findings.cc and cpu_findings.cc.
std::vector<Finding> ExamineMemory(const Machine& machine);
std::vector<Finding> ExamineCpusAndKernel(const Machine& machine,
                                          std::optional<int> io_uring_errno);

// For people: a paragraph per finding, and a line that counts them.
std::string RenderFindings(const std::vector<Finding>& findings);

}  // namespace apta::tool
