// Applications that stay, for whoever runs their workflows from another shell.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/application.h"

namespace examples {

// Starts three compute servers with the functions of all of `applications`, puts their inputs, says
// on standard output how to run them, and stays until SIGINT or SIGTERM. `socket`: as Stage::Open.
absl::Status Serve(const std::vector<const Application*>& applications, const std::string& socket,
                   const std::string& data, const std::string& variant);

}  // namespace examples
