#include "common/pin.h"

#include <fmt/format.h>

namespace examples {

using nlohmann::json;

json Pin(json machine, const std::map<std::string, std::vector<std::string>>& nodes_of) {
  for (auto& [name, state] : machine["States"].items()) {
    if (state["Type"] == "Task") {
      if (nodes_of.contains(name)) state["Parameters"]["apta.node"] = nodes_of.at(name)[0];
    } else if (state["Type"] == "Parallel") {
      for (json& branch : state["Branches"]) branch = Pin(branch, nodes_of);
    } else if (state["Type"] == "Map") {
      const json iterator = state["Iterator"];
      const std::string items = state["ItemsPath"];
      const std::string first = iterator["StartAt"];
      state["Type"] = "Parallel";
      for (const char* field : {"Iterator", "ItemsPath", "MaxConcurrency"}) state.erase(field);
      for (std::size_t i = 0; i < nodes_of.at(first).size(); ++i) {
        // No two states of a workflow may have the same name.
        const std::string node = nodes_of.at(first)[i];
        json task = iterator["States"][first];
        task["InputPath"] = fmt::format("{}[{}]", items, i);
        const std::string name_here = fmt::format("{} on {}", first, node);
        const json branch = {{"StartAt", name_here}, {"States", {{name_here, std::move(task)}}}};
        state["Branches"].push_back(Pin(branch, {{name_here, {node}}}));
      }
    }
  }
  return machine;
}

}  // namespace examples
