// What the `apta` command line says: one verb and its arguments.
//
// Thread-safe: a function without state. Nothing is thrown.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "apta/client.h"

namespace apta::tool {

enum class Verb {
  kPut,
  kGet,
  kList,
  kRemove,
  kStat,
  kNodes,
  kPools,
  kCall,
  kRun,
  kRuns,
  kDoctor,
  kFsck,
  kDump,
  kRestore,
  kExec,
  kListShared
};

struct Arguments {
  Verb verb = Verb::kStat;
  ClientOptions client;
  std::string answer;  // not empty (--help, --version): print this and exit with 0

  std::optional<std::string> key;  // put, get, stat (none = the memory server itself)
  std::vector<std::string> keys;   // rm
  std::string prefix;              // ls
  // put, get; run: the workflow; "-" = standard input, standard output. fsck, dump, restore.
  std::string file = "-";
  bool details = false;              // ls
  bool json = false;                 // ls, stat, nodes, pools, run, runs, doctor
  std::string function;              // call
  std::string input;                 // call, run: text, "@FILE" or "-"
  CallOptions call;                  // call
  std::string run_name;              // run; "" = one is made up
  std::string shown_run;             // run: not empty = show this one, run nothing
  std::vector<std::string> command;  // exec: a program and its arguments
  std::string names;                 // exec: a glob of segments; "" = $APTA_SHMEM
  std::string root = "/";            // doctor: where the machine's /proc and /sys are
};

// INVALID_ARGUMENT: wrong usage, in one line.
absl::StatusOr<Arguments> ParseArguments(int argc, const char* const* argv);

}  // namespace apta::tool
