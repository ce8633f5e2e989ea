// `apta exec`: a program whose shared memory is on objects (shim/README.md).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/apta/arguments.h"

namespace apta::tool {

// The file that `name` means, as a shell finds it. NOT_FOUND; PERMISSION_DENIED: no program.
absl::StatusOr<std::string> FindProgram(const std::string& name);

// Whether the dynamic loader, and with it a preloaded library, has a part in running `path`: a
// script is what runs it. FAILED_PRECONDITION: it has none, in a static binary.
absl::Status CheckDynamic(const std::string& path);

// Becomes the program, with libapta_shmem.so before its libraries; returns only to say why not.
absl::Status Exec(const Arguments& arguments);

}  // namespace apta::tool
