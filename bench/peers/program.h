// What the programs of this folder have in common: how they are told to stop, say what went wrong,
// and find the memory server.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "CLI/App.hpp"
#include "absl/status/status.h"

namespace apta::peers {

inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

// Set once a signal has asked this process to end; what runs then looks at it between turns.
const std::atomic<bool>& Stop();

// Parses the flags of `app`, whose name goes before errors, and runs. Returns main's exit code.
int RunProgram(CLI::App* app, int argc, char** argv, const std::function<absl::Status()>& run);

// `given`, or the memory server's program that was built with this one.
std::string AptadProgram(const std::string& given);

// For --json, before minutes of measuring, not after them. "": it can be.
std::string WhyNotWritten(const std::string& path);

}  // namespace apta::peers
