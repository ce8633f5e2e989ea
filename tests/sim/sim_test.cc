// The simulator over many seeds, over those that once failed, and with rules switched off.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "tests/sim/world.h"

namespace apta::sim {
namespace {

using fabric::Rule;

std::uint64_t Scaled(std::uint64_t count) {
  const char* scale = std::getenv("APTA_TEST_SCALE");
  const double factor = scale != nullptr ? std::atof(scale) : 1;
  return std::max<std::uint64_t>(5,
                                 static_cast<std::uint64_t>(static_cast<double>(count) * factor));
}

void ExpectHolds(const Profile& profile) {
  const Outcome outcome = sim::Run(profile, 60);
  if (outcome.failure.empty()) return;
  std::string trace;
  for (const std::string& line : outcome.trace) trace += line + "\n";
  ADD_FAILURE() << trace << outcome.failure << "\nshrink it with: tools/sim " << profile.Describe();
}

// That the runs were what they are meant to be: each count that `mode` has, `times` or more.
void ExpectMuchHappened(const Outcome& sum, Coherence mode, std::size_t times) {
  EXPECT_GT(sum.operations, times * 100);
  EXPECT_GT(sum.kills, times);
  EXPECT_GT(sum.stalls, times);
  EXPECT_GT(sum.scheduled_gets, times);
  EXPECT_GT(sum.declared_gets, times / 4);
  EXPECT_GT(sum.failed_attempts, times / 4);
  EXPECT_GT(sum.transactions, times * 5);
  EXPECT_GT(sum.cuts, times * 5);
  // In mode sync they are judged by what is seen of them.
  EXPECT_EQ(sum.effects > times, mode != Coherence::kSync) << sum.effects;
  EXPECT_GT(sum.restarts, times / 20);
  EXPECT_GT(sum.orphans, times / 20);
  EXPECT_GT(sum.checkpoints, times / 20);
  EXPECT_GT(sum.disk_faults, times / 10);
  EXPECT_GT(sum.refused_by_log, times / 10);
  EXPECT_GT(sum.recovered, times / 5);
  const bool tracks = fabric::TracksSharers(mode);
  const auto expect = [tracks](const char* what, std::size_t count, std::size_t least) {
    if (tracks) {
      EXPECT_GT(count, least) << what;
    } else {
      EXPECT_EQ(count, 0u) << what;
    }
  };
  expect("hits", sum.hits, times * 10);
  expect("cuts that stand by words", sum.cuts_by_words, times);
  expect("directory evictions", sum.evictions, times);
  expect("untracked", sum.untracked, times);
  expect("ring overflows", sum.overflows, times / 2);
  expect("fenced for silence", sum.fenced_silent, times / 20);
  expect("fenced for quota", sum.fenced_over_quota, times / 50);
  expect("deferred holds", sum.deferred_holds, times);
  expect("hold tables that were full", sum.hold_everything, times / 2);
  if (mode != Coherence::kLazy) {
    const bool may_be_stale = mode == Coherence::kStrict;  // on a delayed link
    EXPECT_EQ(sum.stale_gets > 0, may_be_stale) << sum.stale_gets;
  } else {
    EXPECT_GT(sum.stale_gets, times);
  }
  // Every transition of the directory that we say it has.
  for (std::size_t row = 0; row < kOtcRows; ++row) {
    const OtcTransition& transition = OtcRow(row);
    // An entry whose sharers have all died is evicted once in some hundred runs.
    const bool is_rare = transition.event == OtcEvent::kEvictNoSharers;
    const bool is_taken = mode == Coherence::kStrict && IsOurs(transition) && !is_rare;
    EXPECT_TRUE(sum.otc[row] > 0 || !is_taken)
        << "from state " << static_cast<int>(transition.from) << " by event "
        << static_cast<int>(transition.event) << " to state " << static_cast<int>(transition.to);
    EXPECT_TRUE(sum.otc[row] == 0 || IsOurs(transition)) << row;
  }
}

class ModeTest : public ::testing::TestWithParam<Coherence> {};

TEST_P(ModeTest, EveryCheckHoldsForEverySeed) {
  const std::uint64_t seeds = Scaled(500);
  const auto began = std::chrono::steady_clock::now();
  Outcome sum;
  for (std::uint64_t seed = 1; seed <= seeds && !HasFailure(); ++seed) {
    const Profile profile = ProfileOf(seed, GetParam());
    const Outcome outcome = sim::Run(profile);
    sum.Add(outcome);
    if (!outcome.failure.empty()) ExpectHolds(profile);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
  fmt::print("{} seeds ({:.0f} a second): {}\n", seeds,
             static_cast<double>(seeds) / seconds.count(), sum.Describe());
  if (seeds >= 300) ExpectMuchHappened(sum, GetParam(), seeds);
}
INSTANTIATE_TEST_SUITE_P(AllModes, ModeTest,
                         ::testing::Values(Coherence::kStrict, Coherence::kLazy, Coherence::kSync,
                                           Coherence::kVersioned, Coherence::kUncached),
                         [](const auto& param) {
                           return std::string(
                               fabric::kCoherenceNames[static_cast<std::size_t>(param.param)]);
                         });

TEST(SimTest, OneSeedIsOneRun) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    const Outcome first = sim::Run(ProfileOf(seed), 1'000'000);
    const Outcome second = sim::Run(ProfileOf(seed), 1'000'000);
    EXPECT_EQ(first.trace, second.trace) << seed;
  }
}

// --- Seeds that found something, by what they found.

// As runs were then.
Profile AsFound(std::uint64_t seed, Coherence mode) {
  Profile profile = ProfileOf(seed, mode, /*may_log=*/false);
  profile.declared_reads = profile.errors = false;
  profile.policy = 0;
  return profile;
}

// The node's reply was under way, another node had superseded the put and told it nothing, and the
// scheduler did not count the record of the node's own put.
TEST(SimTest, ANodeWhoseOwnPutIsUnderWayIsNotScheduled) {
  ExpectHolds(AsFound(36, Coherence::kLazy));
}
// A put of a dead node committed later, and its answer went to the next process in the same slot.
TEST(SimTest, APutThatWaitsWhenItsWriterDiesIsAnsweredToNobody) {
  ExpectHolds(AsFound(563, Coherence::kSync));
}
// The record of an eviction names the version after the current one, which a put then was given.
TEST(SimTest, TheAcknowledgementOfAnEvictionCommitsNoPut) {
  ExpectHolds(AsFound(797, Coherence::kSync));
}
// Puts went on without the fenced node, which continued and hit what it had.
TEST(SimTest, AFencedNodeThatContinuesHitsNothingInSync) {
  ExpectHolds(AsFound(63, Coherence::kSync));
}

// Fencing one node let a put commit, whose record another node was judged by at once: with what it
// had owed when it was last looked at, and had paid since.
TEST(SimTest, ANodeIsNotFencedForWhatAnothersFenceMakesItOwe) {
  ExpectHolds(AsFound(144, Coherence::kSync));
}
// An earlier put of the node was cached after a later delete of the node had ended: its reply was
// processed later, and the record of the delete had not been applied, or had not even come.
TEST(SimTest, AnEarlierPutIsNotCachedWhenALaterDeleteHasEnded) {
  ExpectHolds(AsFound(23, Coherence::kLazy));
  ExpectHolds(AsFound(100, Coherence::kStrict));
}

// The extent of a superseded version was cut into others, one of which began in its middle: its
// header stood, and its copy was torn.
TEST(SimTest, AReleasedVersionIsNotTakenForWholeWhenItsMiddleIsReused) {
  ExpectHolds(AsFound(5596, Coherence::kVersioned));
}

// A node was stopped with a reply to its get on the way; the next memory server had reused the
// extent that the reply named when it continued.
TEST(SimTest, AReplyOfADeadMemoryServerIsNotFollowedIntoTheNextOnesHeap) {
  Profile profile;
  profile.seed = 1075;
  profile.nodes = 5;
  profile.operations = 116;
  profile.link = {.latency_ns = 10'000, .jitter_ns = 100'000};
  profile.cache_bytes = 1'000;
  profile.ack_deadline_ms = 3;
  profile.node_quota_bytes = 2'000;
  profile.functions = true;
  profile.kill_every = 20;
  profile.stall_every = 200;
  profile.restart_every = 25;
  ExpectHolds(profile);
}

// A delete in a pool with a log waited behind a group, and succeeded when another had been there.
TEST(SimTest, ADeleteThatWaitedBehindAGroupIsOfWhatIsThere) {
  Profile profile = ProfileOf(5, Coherence::kStrict, /*may_log=*/false);
  profile.logged = true;
  ExpectHolds(profile);
}

// --- Mutations: without a rule, the checks fail.

struct Mutation {
  Rule rule;
  const char* name;
  Coherence mode;
};

// Broken invariants may end the process, so each rule is broken in one of its own. Returns how many
// seeds it took, 0 = it was not noticed.
std::uint64_t SeedsToNotice(const Mutation& mutation, std::uint64_t limit) {
  void* shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto* seed = new (shared) std::atomic<std::uint64_t>(1);
  const pid_t child = fork();
  if (child == 0) {
    fabric::t_broken_rule = mutation.rule;
    (void)!freopen("/dev/null", "w", stderr);
    for (; *seed <= limit; ++*seed) {
      if (!sim::Run(ProfileOf(*seed, mutation.mode)).failure.empty()) _exit(1);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  const std::uint64_t seeds = *seed;
  munmap(shared, 4096);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : seeds;
}

TEST(SimTest, WithEveryRuleNothingIsNoticed) {
  EXPECT_EQ(SeedsToNotice({Rule::kNone, "", Coherence::kStrict}, 20), 0u);
}

class MutationTest : public ::testing::TestWithParam<Mutation> {};

TEST_P(MutationTest, IsNoticed) {
  const std::uint64_t seeds = SeedsToNotice(GetParam(), 3'000);
  EXPECT_NE(seeds, 0u) << "nothing failed without this rule";
  fmt::print("noticed after {} seeds\n", seeds);
}
INSTANTIATE_TEST_SUITE_P(
    WithoutTheRule, MutationTest,
    ::testing::Values(
        Mutation{Rule::kInvalidateBeforeCommit, "InvalidateBeforeCommit", Coherence::kStrict},
        Mutation{Rule::kStrictLook, "StrictLook", Coherence::kStrict},
        Mutation{Rule::kFillDelaysAck, "FillDelaysAck", Coherence::kStrict},
        Mutation{Rule::kOvertakenFillNotCached, "OvertakenFillNotCached", Coherence::kLazy},
        Mutation{Rule::kHoldBeforeAck, "HoldBeforeAck", Coherence::kStrict},
        Mutation{Rule::kReleaseAfterAck, "ReleaseAfterAck", Coherence::kStrict},
        Mutation{Rule::kReleaseAfterHold, "ReleaseAfterHold", Coherence::kStrict},
        Mutation{Rule::kOwnPutReplaces, "OwnPutReplaces", Coherence::kLazy},
        Mutation{Rule::kDropAllOnOverflow, "DropAllOnOverflow", Coherence::kStrict},
        Mutation{Rule::kScheduleOnlyClean, "ScheduleOnlyClean", Coherence::kLazy},
        Mutation{Rule::kEvictionInvalidates, "EvictionInvalidates", Coherence::kStrict},
        Mutation{Rule::kFencedStaysQuarantined, "FencedStaysQuarantined", Coherence::kLazy},
        Mutation{Rule::kFencedWord, "FencedWord", Coherence::kSync},
        Mutation{Rule::kSyncWaits, "SyncWaits", Coherence::kSync},
        Mutation{Rule::kUntrackedNotCached, "UntrackedNotCached", Coherence::kStrict},
        Mutation{Rule::kCheckAfterCopy, "CheckAfterCopy", Coherence::kUncached},
        Mutation{Rule::kAskBeforeHit, "AskBeforeHit", Coherence::kVersioned},
        Mutation{Rule::kLifeLook, "LifeLook", Coherence::kStrict},
        Mutation{Rule::kDeadOwesNothing, "DeadOwesNothing", Coherence::kStrict},
        Mutation{Rule::kGroupTogether, "GroupTogether", Coherence::kStrict},
        Mutation{Rule::kGroupTogether, "GroupTogetherUncached", Coherence::kUncached},
        Mutation{Rule::kCutHolds, "CutHolds", Coherence::kStrict},
        Mutation{Rule::kOneAttemptCommits, "OneAttemptCommits", Coherence::kLazy},
        Mutation{Rule::kDurableBeforeTold, "DurableBeforeTold", Coherence::kStrict},
        Mutation{Rule::kVersionsGoOn, "VersionsGoOn", Coherence::kUncached},
        Mutation{Rule::kUnappliedStays, "UnappliedStays", Coherence::kStrict}),
    [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace apta::sim
