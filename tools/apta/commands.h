// The verbs of `apta`, each on the public API.
#pragma once

#include "tools/apta/arguments.h"
#include "tools/apta/output.h"

namespace apta::tool {

// Does what the arguments say, results to `output`, failures (one line each) to standard error.
// Returns the exit code: 0 done, 1 failed.
int RunCommand(const Arguments& arguments, Output* output);

}  // namespace apta::tool
