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

// What the pinned run counts: gets (hit, miss) and puts (without, with invalidation). On a slow
// machine the home falls asleep between functions: what is read then is read without it, is no hit
// later, and needs no invalidation. So fewer may be hits, or invalidate, but not more.
inline void ExpectCounts(const nlohmann::json& measured, const std::vector<int>& gets,
                         const std::vector<int>& puts, const std::string& placements) {
  const auto counted = [&](const char* what) { return measured[what].get<std::vector<int>>(); };
  const std::vector<int> got = counted("gets"), put = counted("puts");
  EXPECT_EQ(got.at(0) + got.at(1), gets.at(0) + gets.at(1)) << measured.dump(2);
  EXPECT_LE(got.at(0), gets.at(0)) << measured.dump(2);
  EXPECT_EQ(put.at(0) + put.at(1), puts.at(0) + puts.at(1)) << measured.dump(2);
  EXPECT_LE(put.at(1), puts.at(1)) << measured.dump(2);
  EXPECT_EQ(measured["placements"], placements);
}

}  // namespace apta::test
