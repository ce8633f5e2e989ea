// The verbs of `apta` for what pools leave behind: files that are checked, written and read.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apta/client.h"
#include "tools/apta/arguments.h"
#include "tools/apta/output.h"

namespace apta::tool {

// Whether anything is wrong: said on `output`, one line each.
absl::StatusOr<bool> Fsck(const Arguments& arguments, Output* output);

// All objects that there are at one moment. Of keys that come and go meanwhile those are missing
// that are gone again; ABORTED: they never stopped.
absl::Status DumpPool(Client* client, const Arguments& arguments);

// Reads the dump twice: nothing is put before it is known to be whole. Other objects of the pool
// stay.
absl::Status RestorePool(Client* client, const Arguments& arguments);

}  // namespace apta::tool
