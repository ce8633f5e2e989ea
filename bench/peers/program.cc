#include "bench/peers/program.h"

#include <errno.h>
#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <system_error>

namespace apta::peers {
namespace {

std::atomic<bool> g_stop{false};  // set by a signal's handler, which can be given nothing else

}  // namespace

const std::atomic<bool>& Stop() { return g_stop; }

int RunProgram(CLI::App* app, int argc, char** argv, const std::function<absl::Status()>& run) {
  // A client that writes to a server that is gone gets an error, not a signal.
  signal(SIGPIPE, SIG_IGN);
  for (const int ending : {SIGINT, SIGTERM, SIGHUP}) signal(ending, [](int) { g_stop = true; });
  try {
    app->parse(argc, argv);
  } catch (const CLI::ParseError& fault) {
    return app->exit(fault) == 0 ? 0 : kExitUsage;
  }
  const absl::Status status = run();
  if (status.ok()) return 0;
  const std::string name = std::filesystem::path(argv[0]).filename().string();
  fmt::print(stderr, "{}: {}\n", name, std::string(status.message()));
  return kExitFailed;
}

std::string AptadProgram(const std::string& given) {
  if (!given.empty()) return given;
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  return (self.parent_path() / "../../daemon/aptad").string();
}

std::string WhyNotWritten(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const bool is_possible = access(parent.empty() ? "." : parent.c_str(), W_OK | X_OK) == 0;
  const int why = is_possible ? EISDIR : errno;
  std::error_code ignored;
  const auto there = std::filesystem::symlink_status(path, ignored);
  if (is_possible && !std::filesystem::is_directory(path, ignored)) {
    // It would be replaced: not a device, nor a link.
    if (!std::filesystem::exists(there) || std::filesystem::is_regular_file(there)) return "";
    return fmt::format("{} is there, and no regular file", path);
  }
  return fmt::format("{} cannot be written: {}", path, strerrordesc_np(why));
}

}  // namespace apta::peers
