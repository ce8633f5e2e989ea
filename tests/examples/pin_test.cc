// Pinning: the same workflow, each task tied to its node, and still one that may be.

#include "common/pin.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

namespace {

using examples::Pin;
using nlohmann::json;

json Load(const std::string& application) {
  std::ifstream file(std::string(EXAMPLES_DIR) + "/" + application + "/workflow.json");
  return json::parse(file);
}

// Names of all states, also in branches; each must be there once.
void CollectNames(const json& machine, std::multiset<std::string>& names) {
  EXPECT_TRUE(machine["States"].contains(machine["StartAt"])) << machine["StartAt"];
  for (const auto& [name, state] : machine["States"].items()) {
    names.insert(name);
    if (state.contains("Next")) EXPECT_TRUE(machine["States"].contains(state["Next"])) << name;
    for (const json& branch : state.value("Branches", json::array())) CollectNames(branch, names);
    if (state.contains("Iterator")) CollectNames(state["Iterator"], names);
  }
}

TEST(PinTest, TasksAreTiedToTheirNodesAlsoInBranches) {
  const json pinned =
      Pin(Load("phi"), {{"identifyPHI", {"c1"}}, {"deIdentify", {"c2"}}, {"anonymize", {"c3"}}});
  const json& states = pinned["States"];
  EXPECT_EQ(states["identifyPHI"]["Parameters"]["apta.node"], "c1");
  const json& branches = states["broadcast"]["Branches"];
  EXPECT_EQ(branches[0]["States"]["deIdentify"]["Parameters"]["apta.node"], "c2");
  EXPECT_EQ(branches[1]["States"]["anonymize"]["Parameters"]["apta.node"], "c3");
  EXPECT_FALSE(states["analytics"]["Parameters"].contains("apta.node"));
}

TEST(PinTest, AMapBecomesABranchPerNode) {
  const json pinned = Pin(Load("gemm"), {{"map", {"c1", "c2"}}, {"reduce", {"c3"}}});
  const json& map = pinned["States"]["mapSlices"];
  EXPECT_EQ(map["Type"], "Parallel");
  EXPECT_FALSE(map.contains("ItemsPath"));
  EXPECT_EQ(map["ResultPath"], "$.mapped");
  ASSERT_EQ(map["Branches"].size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    const json& branch = map["Branches"][i];
    const json& task = branch["States"][branch["StartAt"].get<std::string>()];
    EXPECT_EQ(task["Resource"], "map");
    EXPECT_EQ(task["InputPath"], "$.cut.slices[" + std::to_string(i) + "]");
    EXPECT_EQ(task["Parameters"]["apta.node"], i == 0 ? "c1" : "c2");
  }
  std::multiset<std::string> names;
  CollectNames(pinned, names);
  EXPECT_EQ(names.size(), std::set<std::string>(names.begin(), names.end()).size());
}

}  // namespace
