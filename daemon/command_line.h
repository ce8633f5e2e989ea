// aptad's command line and configuration file. Both end in one ServerOptions; flags win.
//
// Thread-safe: functions without state. Nothing is thrown.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "apta/server.h"

namespace apta::daemon {

struct CommandLine {
  ServerOptions options;  // validated
  std::string answer;     // not empty (--help, --version): print this and exit with 0
};

// INVALID_ARGUMENT: one line that names the flag, the file's line and key, or the value.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv);

// The TOML text of a configuration file called `file_name`; read, not yet validated.
// INVALID_ARGUMENT begins with "file_name:line: ".
absl::StatusOr<ServerOptions> ParseConfig(const std::string& text, const std::string& file_name);

}  // namespace apta::daemon
