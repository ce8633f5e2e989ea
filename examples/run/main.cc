// Runs applications on three compute servers and shows where their time went.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "common/run.h"
#include "common/serve.h"
#include "common/task.h"
#include "run/applications.h"

namespace {

using examples::Application;
using examples::Measured;

struct Options {
  std::vector<std::string> names;
  examples::RunOptions run;
  std::string output;
  std::string record;
  bool json = false;
  bool serve = false;
  std::vector<std::string> policies;  // compared
  std::string node;                   // this process is a compute server
  int report_fd = -1;
};

absl::StatusOr<std::vector<const Application*>> Choose(const std::vector<std::string>& names) {
  std::vector<const Application*> chosen;
  std::string known;
  for (const Application* application : examples::Applications()) {
    known += " " + application->name;
    if (names.empty()) chosen.push_back(application);
  }
  for (const std::string& name : names) {
    const std::size_t before = chosen.size();
    for (const Application* application : examples::Applications()) {
      if (application->name == name) chosen.push_back(application);
    }
    if (chosen.size() == before) {
      return absl::NotFoundError(fmt::format("no application {}; there are:{}", name, known));
    }
  }
  return chosen;
}

// Of all applications, those that have the variant run it; one that is asked for must have it.
absl::StatusOr<std::string> VariantFor(const Application& application, const Options& options) {
  const std::vector<std::string>& known = application.variants;
  const std::string& variant = options.run.variant;
  if (variant.empty() || std::find(known.begin(), known.end(), variant) != known.end()) {
    return variant;
  }
  if (options.names.empty()) return std::string();
  return absl::InvalidArgumentError(fmt::format("no variant {}", variant));
}

absl::Status WriteFiles(const Measured& measured, const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  for (const auto& [name, content] : measured.outcome.files) {
    absl::Status written = examples::WriteFile(folder + "/" + name, content);
    if (!written.ok()) return written;
  }
  return absl::OkStatus();
}

absl::Status RunAll(const std::vector<const Application*>& applications, const Options& options) {
  std::vector<Measured> all;
  std::error_code error;
  for (const Application* application : applications) {
    examples::RunOptions run = options.run;
    absl::StatusOr<std::string> variant = VariantFor(*application, options);
    if (variant.ok()) run.variant = *variant;
    absl::StatusOr<Measured> measured =
        variant.ok() ? examples::Run(*application, run) : variant.status();
    if (!measured.ok()) {
      return absl::Status(
          measured.status().code(),
          fmt::format("{}: {}", application->name, std::string(measured.status().message())));
    }
    if (!options.output.empty()) {
      if (absl::Status done = WriteFiles(*measured, options.output); !done.ok()) return done;
    }
    if (!options.record.empty()) {
      std::filesystem::create_directories(options.record, error);
      absl::Status recorded =
          examples::WriteFile(fmt::format("{}/{}.json", options.record, application->name),
                              examples::TraceOf(*measured).dump(1) + "\n");
      if (!recorded.ok()) return recorded;
    }
    all.push_back(*std::move(measured));
  }
  if (options.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const Measured& measured : all) list.push_back(examples::ToJson(measured));
    fmt::print("{}\n", list.dump(2));
    return absl::OkStatus();
  }
  if (all.size() == 1) {
    fmt::print("{} ({})\n{}\n{}\n", all[0].application->name, all[0].application->pattern,
               all[0].outcome.summary, examples::FunctionTable(all[0]));
  }
  fmt::print("{}",
             options.run.pinned ? examples::PaperTable(all) : examples::ApplicationTable(all));
  return absl::OkStatus();
}

absl::Status CompareAll(const std::vector<const Application*>& applications,
                        const Options& options) {
  std::vector<examples::Compared> all;
  for (const Application* application : applications) {
    examples::RunOptions run = options.run;
    const absl::StatusOr<std::string> variant = VariantFor(*application, options);
    if (!variant.ok()) return variant.status();
    run.variant = *variant;
    auto compared = examples::Compare(*application, run, options.policies);
    if (!compared.ok()) {
      return absl::Status(
          compared.status().code(),
          fmt::format("{}: {}", application->name, std::string(compared.status().message())));
    }
    all.insert(all.end(), compared->begin(), compared->end());
  }
  if (options.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const examples::Compared& each : all) {
      nlohmann::json runs = nlohmann::json::array();
      for (const Measured& measured : each.runs) runs.push_back(examples::ToJson(measured));
      list.push_back({{"policy", each.policy}, {"runs", std::move(runs)}});
    }
    fmt::print("{}\n", list.dump(2));
  } else {
    fmt::print("{}", examples::PolicyTable(all));
  }
  return absl::OkStatus();
}

absl::Status Main(const Options& options) {
  const absl::StatusOr<std::vector<const Application*>> chosen = Choose(options.names);
  if (!chosen.ok()) return chosen.status();
  if (!options.node.empty()) {
    return examples::RunNode(*chosen, options.run.socket, options.node, options.report_fd);
  }
  if (options.serve) {
    return examples::Serve(*chosen, options.run.socket, options.run.data, options.run.variant);
  }
  return options.policies.empty() ? RunAll(*chosen, options) : CompareAll(*chosen, options);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Runs applications on three compute servers (processes c1, c2, c3) and shows where their "
      "time "
      "went. Without a name: all of them, as a table.");
  app.add_option("application", options.names, "phi, sentiment, finra, video, image, gemm");
  app.add_flag("--pinned", options.run.pinned,
               "the paper's schedule; gets and puts beside the paper's");
  app.add_option("--data", options.run.data, "folder with inputs of the paper's size");
  app.add_option("--variant", options.run.variant, "gemm: dense");
  app.add_option("--output", options.output, "folder for what the applications make");
  app.add_option("--record", options.record,
                 "folder for traces of what was shown, which tools/apta-sim replays");
  app.add_option("--runs", options.run.runs, "the last one is shown, those before warm up")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--socket", options.run.socket,
                 "a running memory server; otherwise one is embedded");
  app.add_option("--policies", options.policies,
                 "compare these, in turns, each with a memory server of its own; --runs of each "
                 "count: criterion+locality, random, round-robin, least-loaded")
      ->delimiter(',')
      ->excludes("--socket", "--pinned", "--output");
  app.add_flag("--json", options.json, "print what was measured as JSON");
  app.add_flag(
      "--serve", options.serve,
      "run nothing: start the compute servers, put the inputs, say how `apta run` runs the "
      "workflows from another shell, and stay until interrupted");
  app.add_option("--node", options.node)->group("");
  app.add_option("--report-fd", options.report_fd)->group("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  // Compute servers are many; threads inside a linear algebra library would only compete.
  setenv("OPENBLAS_NUM_THREADS", "1", /*overwrite=*/0);
  setenv("OMP_THREAD_LIMIT", "1", /*overwrite=*/0);
  const absl::Status done = Main(options);
  if (done.ok()) return 0;
  fmt::print(stderr, "run: {}\n", done.ToString(absl::StatusToStringMode::kWithNoExtraData));
  return 1;
}
