// What the tests of the applications share: the runner as a process, and what it wrote.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/process/child.h"

namespace apta::test {

inline std::string Slurp(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class ExampleTest : public ::testing::Test {
 protected:
  ExampleTest() {
    std::string name = std::filesystem::temp_directory_path() / "example-test-XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~ExampleTest() override { std::filesystem::remove_all(folder_); }

  Result Execute(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), EXAMPLES_RUN_PATH);
    return apta::test::Execute(arguments);
  }
  // What was measured; files of the run are in folder().
  nlohmann::json Run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(), {"--json", "--output", folder_.string()});
    const Result result = Execute(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const auto measured = nlohmann::json::parse(result.out, nullptr, /*allow_exceptions=*/false);
    if (!measured.is_array() || measured.size() != 1) {
      ADD_FAILURE() << result.out << result.err;
      return nlohmann::json::object();
    }
    return measured[0];
  }
  nlohmann::json Json(const std::string& name) const {
    return nlohmann::json::parse(Slurp(folder_ / name), nullptr, /*allow_exceptions=*/false);
  }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

// What the pinned run counts: gets (hit, miss) and puts (without, with invalidation).
inline void ExpectCounts(const nlohmann::json& measured, const std::vector<int>& gets,
                         const std::vector<int>& puts, const std::string& placements) {
  EXPECT_EQ(measured["gets"], nlohmann::json(gets)) << measured.dump(2);
  EXPECT_EQ(measured["puts"], nlohmann::json(puts)) << measured.dump(2);
  EXPECT_EQ(measured["placements"], placements);
}

}  // namespace apta::test
