// The simulator of performance: times that can be worked out by hand, and what its users rely on.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tools/apta-sim/run.h"

namespace apta::perf {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Scenario Parse(const std::string& text) {
  const absl::StatusOr<Scenario> scenario = ParseScenario(text, "test.toml");
  EXPECT_TRUE(scenario.ok()) << scenario.status();
  return scenario.ok() ? *scenario : Scenario{};
}

Metrics RunOf(const std::string& text) {
  const absl::StatusOr<Ran> ran = perf::Run(Parse(text));
  EXPECT_TRUE(ran.ok()) << ran.status();
  return ran.ok() ? ran->metrics : Metrics{};
}

std::string FaultOf(const std::string& text) {
  return std::string(ParseScenario(text, "test.toml").status().message());
}

TEST(AptaSimTest, AMissOnAnIdleLinkTakesTwoLatenciesTheTransfersAndTheControllers) {
  const Metrics m = RunOf(R"(
    [workload]
    operations = 300
    keys = 300
    zipf = 0
    get_share = 1
    think_ns = 1e6
    [servers]
    compute = 1)");
  // 64 B there: 6 ns; OTC and OSC: 13.3; 64 + 4,096 B back at 80 Gbit/s: 416.
  EXPECT_GE(m.of(Kind::kMiss).Percentile(0), 500 + 6 + 13 + 416 + 500);
  EXPECT_LE(m.of(Kind::kMiss).Percentile(100), 500 + 6 + 14 + 416 + 500);
  // 60 ns, and 4,096 B of local memory at 200 Gbit/s.
  EXPECT_EQ(m.of(Kind::kHit).Percentile(50), 60 + 164);
  EXPECT_EQ(m.of(Kind::kMiss).count() + m.of(Kind::kHit).count(), 300u);
}

TEST(AptaSimTest, AtSaturationThroughputIsTheSharedLinksAndLatencyFollowsLittlesLaw) {
  const Metrics m = RunOf(R"(
    mode = "uncached"
    [servers]
    compute = 8
    threads = 4
    [link]
    memory_gbps = 80
    [workload]
    operations = 20000
    get_share = 1)");
  const double run_ns = static_cast<double>(m.end_ns - m.begin_ns);
  EXPECT_NEAR(m.bytes_to_nodes * 8 / run_ns, 80, 1);
  EXPECT_NEAR(m.of(Kind::kMiss).mean(), 32 * (4096 + 64) * 8 / 80.0, 150);
}

TEST(AptaSimTest, APutWaitsForItsSharersInSyncAlone) {
  const std::string workload = R"(
    [workload]
    operations = 4000
    keys = 1
    get_share = 0.9
    think_ns = 1e5)";
  const Metrics lazy = RunOf("mode = \"lazy\"\n" + workload);
  const Metrics sync = RunOf("mode = \"sync\"\n" + workload);
  // 4,160 B there: 416 ns; OTC and OPC; its own record and the reply back, 64 B each.
  EXPECT_LE(lazy.of(Kind::kPut).Percentile(50), 500 + 416 + 14 + 6 + 6 + 500);
  EXPECT_GE(sync.of(Kind::kPut).Percentile(50), lazy.of(Kind::kPut).Percentile(50) + 1000);
  EXPECT_GE(lazy.invalidating_puts, 100u);
  EXPECT_EQ(lazy.outstanding.count(), lazy.invalidations);
}

TEST(AptaSimTest, WhatConfirmsVersionsAsksForEachGetAndCopiesNothingTwice) {
  const Metrics m = RunOf(R"(
    mode = "versioned"
    [link]
    profile = "rdma-fast"
    [servers]
    compute = 1
    [workload]
    operations = 1000
    keys = 1
    get_share = 1)");
  EXPECT_EQ(m.of(Kind::kMiss).count(), 1u);
  EXPECT_GE(m.of(Kind::kHit).Percentile(0), 15'000u);  // a call and two latencies
  EXPECT_LE(m.bytes_to_nodes, 1000 * 64 + 4096);
}

TEST(AptaSimTest, LinesTakeLongerThanTheWhole) {
  const std::string workload = R"(
    mode = "uncached"
    [workload]
    operations = 1000
    bytes = 65536
    [link]
    transfer = )";
  const Metrics bulk = RunOf(workload + "\"bulk\"");
  const Metrics lines = RunOf(workload + "\"lines\"");
  EXPECT_GT(lines.of(Kind::kMiss).mean(), bulk.of(Kind::kMiss).mean() * 1.1);
  EXPECT_GT(lines.of(Kind::kPut).mean(), bulk.of(Kind::kPut).mean() * 1.1);
}

TEST(AptaSimTest, ASeedIsARun) {
  const auto json_of = [](std::uint64_t seed) {
    Scenario scenario = Parse(
        "[link]\njitter = \"normal\"\njitter_ns = 200\n"
        "[servers]\ncompute = 4\nthreads = 4\nshards = 4\n"
        "[workload]\noperations = 5000");
    scenario.seed = seed;
    const absl::StatusOr<Ran> ran = perf::Run(scenario);
    return ran.ok() ? ToJson(scenario, *ran).dump() : "";
  };
  EXPECT_NE(json_of(1), "");
  EXPECT_EQ(json_of(1), json_of(1));
  EXPECT_NE(json_of(1), json_of(2));
}

TEST(AptaSimTest, NodesThatDieAreMissedByNobody) {
  const Metrics m = RunOf(R"(
    [servers]
    compute = 4
    [faults]
    hours_between_failures = 1e-7
    restart_us = 100
    [workload]
    operations = 20000
    get_share = 0.5)");
  EXPECT_GT(m.failures, 3u);
  EXPECT_EQ(m.fenced, 0u);
  EXPECT_GE(m.of(Kind::kPut).count(), 5000u);
  // No put waits for a dead one: a link's time, its bandwidth's queue, nothing like detect_us.
  EXPECT_LT(m.of(Kind::kPut).Percentile(100), 3'000u);
}

TEST(AptaSimTest, MoreServersAndShardsThanOneMachineHas) {
  const Metrics m = RunOf(R"(
    [servers]
    compute = 300
    shards = 20
    [workload]
    operations = 3000
    bytes = 64)");
  EXPECT_EQ(m.of(Kind::kHit).count() + m.of(Kind::kMiss).count() + m.of(Kind::kPut).count(), 3000u);
  EXPECT_EQ(m.failed, 0u);
}

TEST(AptaSimTest, ADirectoryThatIsTooSmallEvicts) {
  const Metrics m = RunOf(R"(
    [directory]
    entries = 100
    [workload]
    operations = 5000)");
  EXPECT_GT(m.directory_evictions, 100u);
  EXPECT_EQ(m.failed, 0u);
}

TEST(AptaSimTest, WhatAScenarioMayNotSayIsNamedWithItsPlace) {
  EXPECT_THAT(FaultOf("[link]\nlatency = 5"),
              AllOf(HasSubstr("test.toml:2: there is no [link] latency; what there is: "),
                    HasSubstr("latency_ns")));
  EXPECT_THAT(FaultOf("mode = \"eager\""),
              AllOf(HasSubstr("test.toml:1: mode must be one of"), HasSubstr("\"sync\"")));
  EXPECT_THAT(FaultOf("[servers]\n\ncompute = 0"),
              HasSubstr("test.toml:3: [servers] compute must"));
  EXPECT_THAT(FaultOf("[nodes]"), HasSubstr("there is no [nodes]"));
  EXPECT_THAT(FaultOf("[servers"), HasSubstr("test.toml"));
}

TEST(AptaSimTest, APoolThatIsTooSmallIsNamed) {
  const auto ran = perf::Run(Parse("[memory]\nbytes = 16777216\n[workload]\nbytes = 65536"));
  EXPECT_THAT(std::string(ran.status().message()), HasSubstr("[memory] bytes"));
}

}  // namespace
}  // namespace apta::perf
