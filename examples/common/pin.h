// The paper's schedule, written into a workflow.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace examples {

// The workflow with each Task tied to a node: `nodes_of` gives the nodes of a state by its name. A
// Map, which must be of one Task, becomes a Parallel with one branch per node: the input must have
// as many items.
nlohmann::json Pin(nlohmann::json machine,
                   const std::map<std::string, std::vector<std::string>>& nodes_of);

}  // namespace examples
