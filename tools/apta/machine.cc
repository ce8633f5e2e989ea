#include "tools/apta/machine.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>
#include <system_error>

namespace apta::tool {
namespace {

constexpr int kMaxCpu = 1 << 16;

std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::size_t length = std::min(text.find(separator), text.size());
    if (length > 0) parts.emplace_back(text.substr(0, length));
    text.remove_prefix(std::min(length + 1, text.size()));
  }
  return parts;
}

// node2 before node10: shorter first where only the number differs in length.
bool NaturallyBefore(const std::string& a, const std::string& b) {
  const auto stem = [](const std::string& name) {
    return name.substr(0, name.find_first_of("0123456789"));
  };
  if (stem(a) != stem(b)) return a < b;
  return a.size() != b.size() ? a.size() < b.size() : a < b;
}

}  // namespace

std::vector<std::string> SplitWords(std::string_view text) {
  std::istringstream stream{std::string(text)};
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::vector<std::string> SplitLines(std::string_view text) { return Split(text, '\n'); }

std::optional<std::uint64_t> ParseUnsigned(std::string_view text) {
  std::uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end) return std::nullopt;
  return number;
}

std::vector<int> ParseCpuList(std::string_view text) {
  std::vector<int> cpus;
  for (const std::string& range : Split(text, ',')) {
    const std::size_t dash = range.find('-');
    const auto first = ParseUnsigned(std::string_view(range).substr(0, dash));
    const auto last =
        dash == std::string::npos ? first : ParseUnsigned(std::string_view(range).substr(dash + 1));
    if (!first.has_value() || !last.has_value() || *last > kMaxCpu) continue;
    for (std::uint64_t cpu = *first; cpu <= *last; ++cpu) cpus.push_back(static_cast<int>(cpu));
  }
  return cpus;
}

std::filesystem::path Machine::Path(std::string_view path) const {
  return root_ / std::filesystem::path(path).relative_path();
}

std::optional<std::string> Machine::Text(std::string_view path) const {
  std::ifstream file(Path(path));
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  std::string result = text.str();
  result.erase(result.find_last_not_of(" \t\n") + 1);
  if (result.empty() && file.bad()) return std::nullopt;
  return result;
}

std::optional<std::uint64_t> Machine::Number(std::string_view path) const {
  const auto words = SplitWords(Text(path).value_or(""));
  return words.empty() ? std::nullopt : ParseUnsigned(words.front());
}

std::optional<std::uint64_t> Machine::Field(std::string_view path, std::string_view name) const {
  for (const std::string& line : SplitLines(Text(path).value_or(""))) {
    const auto words = SplitWords(line);
    // Files of NUMA nodes begin their lines with "Node 0".
    for (std::size_t i = 0; i + 1 < words.size(); ++i) {
      if (words[i] == name || words[i] == std::string(name) + ":") {
        return ParseUnsigned(words[i + 1]);
      }
    }
  }
  return std::nullopt;
}

std::vector<std::string> Machine::Names(std::string_view folder) const {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(Path(folder), error), end; !error && it != end;
       it.increment(error)) {
    names.push_back(it->path().filename());
  }
  std::ranges::sort(names, NaturallyBefore);
  return names;
}

std::optional<std::string> Machine::LinkName(std::string_view path) const {
  std::error_code error;
  const auto target = std::filesystem::read_symlink(Path(path), error);
  if (error) return std::nullopt;
  return target.filename().string();
}

std::vector<Machine::Mount> Machine::Mounts() const {
  std::vector<Mount> mounts;
  for (const std::string& line : SplitLines(Text("/proc/mounts").value_or(""))) {
    const auto words = SplitWords(line);  // device, folder, type, options
    if (words.size() >= 4) mounts.push_back({words[1], words[2], Split(words[3], ',')});
  }
  return mounts;
}

std::vector<std::string> Machine::GroupFiles(std::string_view controller, std::string_view v2_file,
                                             std::string_view v1_file) const {
  std::vector<std::string> files;
  for (const std::string& line : SplitLines(Text("/proc/self/cgroup").value_or(""))) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = Split(line.substr(first + 1, second - first - 1), ',');
    const bool is_v2 = controllers.empty();
    if (!is_v2 && std::ranges::find(controllers, controller) == controllers.end()) continue;
    for (const Mount& mount : Mounts()) {
      const bool is_ours =
          is_v2 ? mount.type == "cgroup2"
                : mount.type == "cgroup" &&
                      std::ranges::find(mount.options, controller) != mount.options.end();
      if (!is_ours) continue;
      // In a container the path may be the host's and not exist here: its parents still may.
      std::filesystem::path group = std::filesystem::path(line.substr(second + 1)).relative_path();
      while (true) {
        const auto file = std::filesystem::path(mount.folder) / group / (is_v2 ? v2_file : v1_file);
        if (Text(file.native()).has_value()) files.push_back(file);
        if (group.empty()) break;
        group = group.parent_path();
      }
    }
  }
  return files;
}

}  // namespace apta::tool
