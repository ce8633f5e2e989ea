// The targets of the hot paths that are not simply an operation of a size.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace apta::bench {

// `socket`: of a memory server with a strict pool named "strict".
void AddTargets(const std::function<std::string()>& socket);

// The role "bulk": puts 64 MiB objects without pause while it is told to.
int RunBulk(const std::vector<std::string>& words);

}  // namespace apta::bench
