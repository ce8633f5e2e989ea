// A machine as its /proc and /sys describe it.
//
// Paths are absolute, as on the machine; they are looked up under a root, so that a made-up or
// copied tree can be examined too. Nothing is cached. Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace apta::tool {

class Machine {
 public:
  explicit Machine(std::filesystem::path root = "/") : root_(std::move(root)) {}

  // The file's text without white space at its end; nothing if it cannot be read.
  std::optional<std::string> Text(std::string_view path) const;
  // The file's first word as a number.
  std::optional<std::uint64_t> Number(std::string_view path) const;
  // The number behind "name:" or "name" in a file of such lines, such as /proc/meminfo.
  std::optional<std::uint64_t> Field(std::string_view path, std::string_view name) const;
  // Names in a folder, in natural order (node2 before node10).
  std::vector<std::string> Names(std::string_view folder) const;
  // Last part of what a symbolic link points to.
  std::optional<std::string> LinkName(std::string_view path) const;

  struct Mount {
    std::string folder;
    std::string type;
    std::vector<std::string> options;
  };
  std::vector<Mount> Mounts() const;

  // The control files of this process's group and of all groups above it, whichever version of
  // control groups is mounted: `v2_file`, or `v1_file` of the `controller`'s own hierarchy.
  std::vector<std::string> GroupFiles(std::string_view controller, std::string_view v2_file,
                                      std::string_view v1_file) const;

 private:
  std::filesystem::path Path(std::string_view path) const;

  std::filesystem::path root_;
};

std::vector<std::string> SplitWords(std::string_view text);
std::vector<std::string> SplitLines(std::string_view text);
// "0-2,5" -> 0 1 2 5. Parts that cannot be read are left out.
std::vector<int> ParseCpuList(std::string_view text);
std::optional<std::uint64_t> ParseUnsigned(std::string_view text);

}  // namespace apta::tool
