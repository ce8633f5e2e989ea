#include "suite.h"

#include <errno.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <system_error>

#include "absl/strings/numbers.h"
#include "floor.h"

namespace apta::bench {
namespace {

namespace fs = std::filesystem;

Run g_run;  // written once, by Main

// 1.53 µs, 12.4 M: three digits and a unit.
std::string Human(double value, std::string_view unit) {
  if (value == 0 || !std::isfinite(value)) return fmt::format("{:.0f} {}", value, unit);
  if (unit.empty() && std::abs(value) < 1000) return fmt::format("{:.3g}", value);
  static constexpr std::pair<double, const char*> kPrefixes[] = {
      {1e9, "G"}, {1e6, "M"}, {1e3, "k"}, {1, ""}, {1e-3, "m"}, {1e-6, "µ"}, {1e-9, "n"}};
  for (const auto& [factor, prefix] : kPrefixes) {
    if (std::abs(value) < factor * 0.9995 && factor > 1e-9) continue;
    return fmt::format("{:.3g} {}{}", value / factor, prefix, unit);
  }
  return "";
}

// One line per benchmark: the median of the repetitions, their spread, and what it counted.
class Lines : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override {
    fmt::print("{:<66} {:>9} {:>6} {:>9}\n", "benchmark", "median", "cv", "p99");
    return true;
  }
  void ReportRuns(const std::vector<benchmark::BenchmarkReporter::Run>& runs) override {
    const benchmark::BenchmarkReporter::Run* median = nullptr;
    std::string spread;
    for (const auto& run : runs) {
      if (run.error_occurred) {
        failed_ = true;
        fmt::print("{:<66} FAILED: {}\n", run.run_name.str(), run.error_message);
        return;
      }
      if (run.aggregate_name == "median" || run.run_type == RunType::RT_Iteration) median = &run;
      if (run.aggregate_name == "cv") {
        spread = fmt::format("{:.0f} %", run.real_accumulated_time * 100);
      }
    }
    if (median != nullptr) Print(*median, spread);
  }
  bool failed() const { return failed_; }

 private:
  using RunType = benchmark::BenchmarkReporter::Run::RunType;
  static void Print(const benchmark::BenchmarkReporter::Run& run, const std::string& spread) {
    // Without what Google Benchmark adds to say how it was called.
    std::string name = run.run_name.function_name;
    if (!run.run_name.args.empty()) name += "/" + run.run_name.args;
    const double seconds =
        run.GetAdjustedRealTime() / benchmark::GetTimeUnitMultiplier(run.time_unit);
    std::string line = fmt::format("{:<66} {:>9} {:>6}", name, Human(seconds, "s"), spread);
    const auto p99 = run.counters.find("p99_s");
    line += fmt::format(" {:>9}",
                        p99 != run.counters.end() ? Human(p99->second.value, "s") : std::string());
    for (const auto& [counter, value] : run.counters) {
      if (counter == "p99_s" || counter == "samples" || counter == "page_bytes") continue;
      const bool is_time = counter.ends_with("_s") && !counter.ends_with("_per_s");
      line += fmt::format("  {}={}", counter, Human(value.value, is_time ? "s" : ""));
    }
    fmt::print("{}\n", line);
    std::fflush(stdout);
  }

  bool failed_ = false;
};

void PrintHelp(const Suite& suite) {
  fmt::print(
      "usage: {} [--quick] [--all] [--near NS] [--samples FILE]\n"
      "       [--benchmark_filter=REGEX] [--benchmark_out=FILE.json] "
      "[--benchmark_list_tests]\n\n{}\n"
      "  --quick         that everything works, in seconds; the figures mean nothing\n"
      "  --all           also what takes long: the whole matrix\n"
      "  --near NS       wait up to 10 s a repetition for ring round trips of at most NS: a "
      "virtual\n"
      "                  machine's cores are near each other at times (measure.h)\n"
      "  --samples FILE  raw samples as JSON, where a suite has any to plot\n\n"
      "A line is the median of the repetitions, their coefficient of variation (cv), and the p99\n"
      "of single calls; counters are in SI units. The other flags --benchmark_… are Google\n"
      "Benchmark's, but for those of the console's format. Filters and the JSON have the names as\n"
      "--benchmark_list_tests prints them: with /iterations… behind what is printed here.\n",
      suite.name, suite.about);
}

int RunRole(const Suite& suite, const std::vector<std::string>& words) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != std::stoi(words[2])) return 1;  // it died before we asked to die with it
  const std::vector<std::string> rest(words.begin() + 3, words.end());
  if (words[1] == "server") return RunServer(rest);
  if (words[1] == "echo") return RunEcho(rest);
  const auto role = suite.roles.find(words[1]);
  return role != suite.roles.end() ? role->second(rest) : 2;
}

}  // namespace

const Run& CurrentRun() { return g_run; }
int Repetitions() { return g_run.quick ? 1 : 5; }

std::string Name(std::string_view op, const Where& where) {
  std::string name(op);
  for (const auto& [key, value] : where) name += fmt::format("/{}:{}", key, value);
  return name;
}

namespace {

int UsageError(std::string_view what) {
  fmt::print(stderr, "{} (see --help)\n", what);
  return 2;
}

// What is asked for as a file comes there when it is complete, and is written in the run's folder
// until then: who is interrupted leaves no half one.
class Results {
 public:
  // Where to write it. `wanted`: its folder must be there.
  absl::StatusOr<std::string> Begin(const std::string& wanted) {
    const fs::path parent = fs::path(wanted).parent_path();
    const bool is_possible = access(parent.empty() ? "." : parent.c_str(), W_OK | X_OK) == 0;
    const int why = is_possible ? EISDIR : errno;
    std::error_code ignored;
    if (!is_possible || fs::is_directory(wanted, ignored)) {
      return absl::ErrnoToStatus(why, fmt::format("{} cannot be written", wanted));
    }
    // It would be replaced: not a device, nor a link.
    const fs::file_status there = fs::symlink_status(wanted, ignored);
    if (fs::exists(there) && !fs::is_regular_file(there)) {
      return absl::InvalidArgumentError(fmt::format("{} is there, and no regular file", wanted));
    }
    files_.emplace_back(fmt::format("{}/result-{}", RunFolder(), files_.size()), wanted);
    return files_.back().first;
  }
  absl::Status Publish() const {
    for (const auto& [written, wanted] : files_) {
      std::error_code error;
      if (!fs::exists(written)) continue;  // no samples to be had
      fs::copy_file(written, wanted + ".part", fs::copy_options::overwrite_existing, error);
      if (!error) fs::rename(wanted + ".part", wanted, error);
      if (error) return absl::UnavailableError(fmt::format("{}: {}", wanted, error.message()));
    }
    return absl::OkStatus();
  }

 private:
  std::vector<std::pair<std::string, std::string>> files_;
};

// Sets g_run; what is Google Benchmark's is left in `words`. An error is one of usage.
absl::Status Parse(std::vector<std::string>* words, Results* results) {
  constexpr std::string_view kOut = "--benchmark_out=";
  std::vector<std::string> left;
  for (auto word = words->begin(); word != words->end(); ++word) {
    const bool takes_value = *word == "--near" || *word == "--samples";
    if (takes_value && word + 1 == words->end()) {
      return absl::InvalidArgumentError(fmt::format("{} needs a value", *word));
    }
    if (*word == "--quick") {
      g_run.quick = true;
      SetSecondsPerRepetition(0.01);
    } else if (*word == "--all") {
      g_run.all = true;
    } else if (*word == "--near") {
      double ns = 0;
      if (!absl::SimpleAtod(*++word, &ns) || !(ns > 0) || !std::isfinite(ns)) {
        return absl::InvalidArgumentError(fmt::format("--near {}: not a time in ns", *word));
      }
      SetNearRing(ns);
    } else if (*word == "--samples" || word->starts_with(kOut)) {
      const bool is_samples = !word->starts_with(kOut);
      const absl::StatusOr<std::string> file =
          results->Begin(is_samples ? *++word : word->substr(kOut.size()));
      if (!file.ok()) return file.status();
      if (is_samples) {
        g_run.samples = *file;
      } else {
        left.push_back(fmt::format("{}{}", kOut, *file));
      }
    } else {
      left.push_back(*word);
    }
  }
  *words = std::move(left);
  return absl::OkStatus();
}

// Everything but its frame. Whether there is anything to publish.
bool RunSuite(const Suite& suite, int* code) {
  UseCores(Cores::kCallers);
  suite.register_all();
  Lines lines;
  const std::size_t found = benchmark::RunSpecifiedBenchmarks(&lines);
  if (suite.clean_up) suite.clean_up();
  DropRingReference();
  // Google Benchmark has said that its filter matches nothing.
  *code = lines.failed() || found == 0 ? 1 : 0;
  return found > 0;
}

}  // namespace

int Main(int argc, char** argv, const Suite& suite) {
  std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() >= 3 && words[0] == "--role") return RunRole(suite, words);
  if (std::ranges::find_first_of(words, std::array{"--help", "-h"}) != words.end()) {
    PrintHelp(suite);
    return 0;
  }
  const absl::Status made = MakeRunFolder();
  if (!made.ok()) Die(made);
  Results results;
  const absl::Status parsed = Parse(&words, &results);
  if (!parsed.ok()) return UsageError(std::string(parsed.message()));
  std::vector<char*> left = {argv[0]};  // for Google Benchmark
  for (std::string& word : words) left.push_back(word.data());
  int count = static_cast<int>(left.size());
  left.push_back(nullptr);
  benchmark::Initialize(&count, left.data());
  if (benchmark::ReportUnrecognizedArguments(count, left.data())) return 2;
  benchmark::AddCustomContext("suite", std::string(suite.name));
  benchmark::AddCustomContext("quick", g_run.quick ? "1" : "0");
  int code = 0;
  const absl::Status published = RunSuite(suite, &code) ? results.Publish() : absl::OkStatus();
  DropRunFolder();
  if (!published.ok()) Die(published);
  return code;
}

}  // namespace apta::bench
