// Real processes that are stopped and killed at random times: is what they saw one memory?
//
// Workers (worker.h) record each call in shared memory; functions read what was written before they
// were called; the test torments the workers, and judges the history when all have ended.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <thread>

#include "fmt/format.h"
#include "tests/coherence/recorder.h"
#include "tests/coherence/worker.h"
#include "tests/process/aptad.h"
#include "tests/sim/history.h"

namespace apta::test {
namespace {

using Kind = sim::Operation::Kind;
using sim::kNever;
using sim::Operation;

constexpr int kWorkers = 4;
constexpr int kHosts = 2;  // of the workers, the first ones
constexpr std::chrono::minutes kLongestRun{5};

// What is promised of gets outside functions. Of those inside functions, and of a process's own
// writes, all modes promise the same on any link.
enum class Gets {
  kLinearizable,
  kOfSomeVersion,  // whole and committed, perhaps old: lazy; strict on a link that delays
};

struct Mode {
  const char* name;
  const char* coherence;
  Gets gets = Gets::kLinearizable;
  int shards = 1;
  const char* pool = "";  // further options
  const char* link = "none";
  bool fences = false;  // nodes are stopped for longer than they may be silent
  int slower = 1;       // by how much; so many fewer operations
};
void PrintTo(const Mode& mode, std::ostream* out) { *out << mode.name; }

// Where nobody is to be fenced: a virtual machine may stand still for seconds, also this process
// between stopping another and letting it go on.
constexpr const char* kPatient = ",ack_deadline=1m";
constexpr const char* kJittered = "latency=5us,jitter=50us";

// One run: its memory server, its workers, what they did.
class Experiment {
 public:
  Experiment(const Mode& mode, int operations, int kills)
      : name_(mode.name),
        fences_(mode.fences),
        operations_(static_cast<std::uint64_t>(operations)),
        kills_(static_cast<std::uint64_t>(kills)),
        // A worker that runs alone for long may do most of the work.
        recording_((kWorkers + kills_) * kWorkerThreads + 3, operations_ + (1 << 18)),
        aptad_({"--socket", socket_, "--pool",
                fmt::format("bytes=1GiB,coherence={}{}{}", mode.coherence,
                            mode.fences ? "" : kPatient, mode.pool),
                "--shards", std::to_string(mode.shards), "--link", mode.link}) {}

  // For an ASSERT, with the reason why not.
  ::testing::AssertionResult serves() const {
    const std::string log = aptad_.log();
    if (log.find("serving ") != log.npos) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << log;
  }

  // Until there are `operations` and `kills`, and a node that was fenced, where some are to be.
  void Torment() {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kWorkers; ++i) Spawn(i);
    {
      Client client = ConnectTo(socket_, "caller");
      std::thread caller([&] { CallReads(&client, &recording_, seed_); });
      while (recording_.record_count() < operations_ || killed_count_ < kills_ ||
             (fences_ && FencedCount() == 0)) {
        StopOrKillOne();
        if (std::chrono::steady_clock::now() - begin > kLongestRun) {
          ADD_FAILURE() << "no end after " << recording_.record_count() << " operations";
          break;
        }
      }
      recording_.Stop();
      caller.join();
    }
    for (auto& worker : workers_) EXPECT_EQ(worker->Wait(), 0);
    seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  // That nothing is left of the workers, and the server is well.
  void ExpectCleanEnd() {
    {
      Client judge = ConnectTo(socket_, "judge");
      ReadAll(&judge, &recording_);
      EXPECT_TRUE(Eventually([&] { return judge.Nodes()->size() == 1; }));
      EXPECT_TRUE(Eventually([&] { return PoolOf(judge).bytes_held == 0; }))
          << PoolOf(judge).bytes_held;
      EXPECT_LE(PoolOf(judge).objects, kKeyCount);
    }
    EXPECT_EQ(recording_.fault_count(), 0u);
    EXPECT_EQ(aptad_.End(SIGTERM), 0) << aptad_.log();
    const std::size_t fenced = FencedCount();
    EXPECT_EQ(fenced > 0, fences_) << aptad_.log();
    fmt::print("{}: {} nodes were fenced\n", name_, fenced);
  }

  // What happened, also in one line.
  History TakeHistory() const {
    History history = recording_.Collect();
    const auto total = history.operations.size();
    fmt::print(
        "{}: {} operations in {:.1f} s, {:.0f}/s, {} of them in functions; {} kills, {} stops; "
        "{} writes never returned, {} calls failed with unknown outcome; seed {}\n",
        name_, total, seconds_, static_cast<double>(total) / seconds_,
        std::ranges::count(history.is_scheduled, true), killed_count_, stop_count_,
        std::ranges::count(history.operations, kNever, &Operation::end_ns),
        recording_.unknown_count(), seed_);
    return history;
  }

 private:
  void Spawn(int worker) {
    workers_[static_cast<std::size_t>(worker)] = std::make_unique<Other>(
        std::vector<std::string>{socket_, recording_.path(), std::to_string(++spawned_count_),
                                 std::to_string(random_()), worker < kHosts ? "host" : "plain"});
  }

  // Kills are spread over the operations, stops over the time.
  void StopOrKillOne() {
    SleepFor(40'000);
    const auto victim = random_() % kWorkers;
    const bool kill_is_due =
        killed_count_ < kills_ &&
        recording_.record_count() >= operations_ * (killed_count_ + 1) / (kills_ + 1);
    const bool stops = !kill_is_due || random_() % 2 == 0;
    if (stops) {
      workers_[victim]->Signal(SIGSTOP);
      SleepFor(fences_ && random_() % 4 == 0 ? 200'000 : 50'000);
      ++stop_count_;
    }
    if (kill_is_due) {
      workers_[victim]->Signal(SIGKILL);
      EXPECT_EQ(workers_[victim]->Wait(), -SIGKILL) << "it had ended before";
      ++killed_count_;
      Spawn(static_cast<int>(victim));
    } else {
      workers_[victim]->Signal(SIGCONT);
    }
  }
  std::size_t FencedCount() const {
    const std::string log = aptad_.log();
    std::size_t count = 0;
    for (auto at = log.find("fenced"); at != log.npos; at = log.find("fenced", at + 1)) ++count;
    return count;
  }
  void SleepFor(std::uint64_t up_to_us) {
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % up_to_us));
  }

  const std::string name_;
  const bool fences_;
  const std::uint64_t operations_, kills_;
  const std::uint64_t seed_ = std::random_device()();
  std::mt19937_64 random_{seed_};
  Folder folder_;
  const std::string socket_ = folder_ / "s";
  Recording recording_;
  Aptad aptad_;
  std::array<std::unique_ptr<Other>, kWorkers> workers_;
  std::uint64_t spawned_count_ = 0, killed_count_ = 0, stop_count_ = 0;
  double seconds_ = 0;
};

// --- what is judged

template <typename Keep>
std::vector<Operation> Only(const History& history, Keep keep) {
  std::vector<Operation> kept;
  for (std::size_t i = 0; i < history.operations.size(); ++i) {
    if (keep(i)) kept.push_back(history.operations[i]);
  }
  return kept;
}
std::vector<Operation> Writes(const History& history) {
  return Only(history, [&](std::size_t i) { return history.operations[i].kind != Kind::kGet; });
}

std::vector<sim::ScheduledGet> ScheduledGets(const History& history) {
  std::vector<sim::ScheduledGet> gets;
  for (std::size_t i = 0; i < history.operations.size(); ++i) {
    if (!history.is_scheduled[i]) continue;
    const Operation& get = history.operations[i];
    gets.push_back({.key = get.key,
                    .version = get.version,
                    .invocation_started_ns = get.begin_ns,
                    .end_ns = get.end_ns});
  }
  return gets;
}

// The violation in some of a history's operations, and what happened to its key around it.
std::string Explain(const std::optional<sim::Violation>& violation,
                    const std::vector<Operation>& operations, const History& history) {
  if (!violation) return "";
  constexpr std::ptrdiff_t kLines = 40;
  std::string text = violation->message + "\n";
  std::vector<std::size_t> of_key;
  for (std::size_t i = 0; i < operations.size(); ++i) {
    if (operations[i].key == violation->key) of_key.push_back(i);
  }
  const auto begin_of = [&](std::size_t i) { return operations[i].begin_ns; };
  std::ranges::sort(of_key, {}, begin_of);
  std::uint64_t last_ns = 0;
  for (const std::size_t i : violation->operations) last_ns = std::max(last_ns, begin_of(i));
  const auto middle = std::ranges::lower_bound(of_key, last_ns, {}, begin_of);
  const auto from = middle - std::min(kLines / 2, middle - of_key.begin());
  const auto to = middle + std::min(kLines / 2, of_key.end() - middle);
  for (auto at = from; at != to; ++at) {
    const bool is_named = std::ranges::count(violation->operations, *at) > 0;
    text += fmt::format("{} process {}: {}\n", is_named ? '>' : ' ',
                        history.process[operations[*at].client], sim::Describe(operations[*at]));
  }
  return text;
}

void ExpectLinearizable(const std::vector<Operation>& operations, const History& history) {
  const auto violation = sim::CheckLinearizable(operations);
  EXPECT_FALSE(violation) << Explain(violation, operations, history);
}

// In every mode: an invocation sees what was acknowledged before it was started.
void ExpectScheduledGetsAreFresh(const History& history) {
  const std::vector<Operation> writes = Writes(history);
  const auto violation = sim::CheckLazy(writes, ScheduledGets(history));
  EXPECT_FALSE(violation) << Explain(violation, writes, history);
}

void ExpectProcessesReadTheirOwnWrites(const History& history) {
  const std::vector<Operation> operations =
      Only(history, [&](std::size_t i) { return !history.is_scheduled[i]; });
  const auto violation = sim::CheckOwnWrites(
      operations, [&](std::uint32_t client) { return history.process[client]; });
  EXPECT_FALSE(violation) << Explain(violation, operations, history);
}

template <typename Condition>
std::size_t Count(const History& history, Condition condition) {
  return static_cast<std::size_t>(std::ranges::count_if(history.operations, condition));
}

// That the history is one from which something follows.
void ExpectMuchHappened(const History& history, std::size_t operations) {
  const auto returned = [&](Kind kind, bool failed) {
    return Count(history, [=](const Operation& operation) {
      return operation.kind == kind && operation.end_ns != kNever && operation.failed == failed;
    });
  };
  const std::size_t found = Count(history, [](const Operation& operation) {
    return operation.kind == Kind::kGet && operation.value != 0;
  });
  // Of calls that a fenced node's session refused nothing is recorded.
  EXPECT_GE(history.operations.size(), operations / 2);
  EXPECT_GE(found, operations / 4);
  EXPECT_GE(returned(Kind::kGet, false) - found, operations / 1000) << "gets that found nothing";
  EXPECT_GE(returned(Kind::kPut, false), operations / 8);
  EXPECT_GE(returned(Kind::kDelete, false), operations / 100);
  EXPECT_GE(returned(Kind::kConditionalPut, false), operations / 100);
  EXPECT_GE(returned(Kind::kConditionalPut, true), operations / 100);
  EXPECT_GE(ScheduledGets(history).size(), operations / 2000);
}

class CoherenceTest : public ::testing::TestWithParam<Mode> {};

TEST_P(CoherenceTest, ProcessesThatAreStoppedAndKilledSeeOneMemory) {
  const int operations = Scaled(1'000'000) / GetParam().slower;
  Experiment experiment(GetParam(), operations, /*kills=*/10);
  ASSERT_TRUE(experiment.serves());
  experiment.Torment();
  experiment.ExpectCleanEnd();
  const History history = experiment.TakeHistory();
  ExpectMuchHappened(history, static_cast<std::size_t>(operations));
  if (HasFailure()) return;

  switch (GetParam().gets) {
    case Gets::kLinearizable:
      ExpectLinearizable(history.operations, history);
      EXPECT_EQ(sim::CountStale(history.operations), 0u);
      break;
    case Gets::kOfSomeVersion: {
      const auto violation = sim::CheckIntegrity(history.operations);
      EXPECT_FALSE(violation) << Explain(violation, history.operations, history);
      ExpectLinearizable(Writes(history), history);
      fmt::print("{} stale gets\n", sim::CountStale(history.operations));
      break;
    }
  }
  ExpectScheduledGetsAreFresh(history);
  ExpectProcessesReadTheirOwnWrites(history);
}

constexpr Mode kModes[] = {
    {.name = "Strict", .coherence = "strict"},
    {.name = "StrictOverThreeShards", .coherence = "strict", .shards = 3},
    {.name = "StrictWithFences",
     .coherence = "strict",
     .pool = ",ack_deadline=30ms",
     .fences = true,
     .slower = 4},
    {.name = "StrictWithASmallDirectory",
     .coherence = "strict",
     .pool = ",directory_entries=16",
     .slower = 4},
    {.name = "StrictOverAJitteredLink",
     .coherence = "strict",
     .gets = Gets::kOfSomeVersion,
     .link = kJittered,
     .slower = 10},
    {.name = "Lazy", .coherence = "lazy", .gets = Gets::kOfSomeVersion},
    {.name = "LazyOverThreeShards", .coherence = "lazy", .gets = Gets::kOfSomeVersion, .shards = 3},
    {.name = "LazyWithFencesOverAJitteredLink",
     .coherence = "lazy",
     .gets = Gets::kOfSomeVersion,
     .pool = ",ack_deadline=30ms,directory_entries=16",
     .link = kJittered,
     .fences = true,
     .slower = 10},
    {.name = "Sync", .coherence = "sync"},
    {.name = "SyncWithFencesOverAJitteredLink",
     .coherence = "sync",
     .pool = ",ack_deadline=30ms",
     .link = kJittered,
     .fences = true,
     .slower = 20},
    {.name = "Versioned", .coherence = "versioned"},
    {.name = "Uncached", .coherence = "uncached"}};
INSTANTIATE_TEST_SUITE_P(Modes, CoherenceTest, ::testing::ValuesIn(kModes),
                         [](const auto& mode) { return std::string(mode.param.name); });

// --- that the judge would notice

// A get, and the write just before the one that it saw; what it saw was acknowledged before it
// began.
struct Replaceable {
  std::size_t get;
  Operation older;
};
template <typename Condition>
std::optional<Replaceable> FindReplaceable(const History& history, Condition condition) {
  const auto& operations = history.operations;
  std::vector<std::size_t> writes;
  for (std::size_t i = 0; i < operations.size(); ++i) {
    const Operation& write = operations[i];
    if (write.kind != Kind::kGet && write.version != 0) writes.push_back(i);
  }
  const auto place = [&](std::size_t i) {
    return std::pair(operations[i].key, operations[i].version);
  };
  std::ranges::sort(writes, {}, place);
  for (std::size_t i = 0; i < operations.size(); ++i) {
    if (operations[i].kind != Kind::kGet || operations[i].value == 0 || !condition(i)) continue;
    const auto seen = std::ranges::lower_bound(writes, place(i), {}, place);
    if (seen == writes.end() || seen == writes.begin() || place(*seen) != place(i)) continue;
    const Operation& older = operations[*(seen - 1)];
    if (older.key != operations[i].key || older.value == 0) continue;
    if (operations[*seen].end_ns < operations[i].begin_ns) return Replaceable{i, older};
  }
  return std::nullopt;
}

class JudgeTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    Experiment experiment({.name = "Strict", .coherence = "strict"}, 50'000, /*kills=*/1);
    experiment.Torment();
    experiment.ExpectCleanEnd();
    history_ = new History(experiment.TakeHistory());
  }
  static void TearDownTestSuite() { delete history_; }
  void SetUp() override { ASSERT_FALSE(sim::CheckLinearizable(history_->operations)); }

  static const History* history_;
};
const History* JudgeTest::history_;

TEST_F(JudgeTest, AGetThatGoesBackByOneVersionIsNoticed) {
  const auto found = FindReplaceable(*history_, [&](auto i) { return !history_->is_scheduled[i]; });
  ASSERT_TRUE(found);
  History corrupted = *history_;
  corrupted.operations[found->get].value = found->older.value;
  corrupted.operations[found->get].version = found->older.version;
  const auto violation = sim::CheckLinearizable(corrupted.operations);
  ASSERT_TRUE(violation);
  EXPECT_EQ(violation->key, found->older.key);
  EXPECT_GE(sim::CountStale(corrupted.operations), 1u);
  const std::string text = Explain(violation, corrupted.operations, corrupted);
  EXPECT_NE(text.find("\n> "), text.npos) << text;
  EXPECT_LE(std::ranges::count(text, '\n'), 41) << text;
}

TEST_F(JudgeTest, AScheduledGetThatGoesBackByOneVersionIsNoticed) {
  const auto found = FindReplaceable(*history_, [&](auto i) { return history_->is_scheduled[i]; });
  ASSERT_TRUE(found);
  History corrupted = *history_;
  corrupted.operations[found->get].version = found->older.version;
  EXPECT_FALSE(sim::CheckLazy(Writes(*history_), ScheduledGets(*history_)));
  EXPECT_TRUE(sim::CheckLazy(Writes(corrupted), ScheduledGets(corrupted)));
}

TEST_F(JudgeTest, AGetOfWhatNobodyWroteIsNoticed) {
  const auto found = FindReplaceable(*history_, [](auto) { return true; });
  ASSERT_TRUE(found);
  History corrupted = *history_;
  ++corrupted.operations[found->get].value;  // what another thread or key has, or nobody
  EXPECT_TRUE(sim::CheckIntegrity(corrupted.operations));
}

TEST(RecorderTest, AKilledProcessLeavesItsLastCallAsOneThatNeverReturned) {
  Recording recording(2, 10);
  EXPECT_EQ(Other({"die", recording.path()}).Wait(), -SIGKILL);
  const History history = recording.Collect();
  ASSERT_EQ(history.operations.size(), 2u);
  const Operation& done = history.operations[0];
  EXPECT_EQ(done.version, 5u);
  EXPECT_LE(done.begin_ns, done.end_ns);
  const Operation& begun = history.operations[1];
  EXPECT_EQ(begun.value, 12u);
  EXPECT_EQ(begun.version, 0u);
  EXPECT_LE(done.end_ns, begun.begin_ns);
  EXPECT_EQ(begun.end_ns, kNever);
}

TEST(WorkerTest, AValueIsRecognisedAndAMixtureOfTwoIsNot) {
  for (std::uint64_t value = std::uint64_t{3} << 40; value < (std::uint64_t{3} << 40) + 999;
       ++value) {
    Bytes bytes = MakeValue(value);
    ASSERT_EQ(ValueOf(bytes), value);
    bytes.back() ^= std::byte{1};
    ASSERT_NE(ValueOf(bytes), value);
    bytes.pop_back();
    ASSERT_NE(ValueOf(bytes), value);
  }
}

int RunRole(const std::vector<std::string>& role) {
  if (role[0] != "die") return RunWorker(role);
  Recording recording(role[1]);
  Log log(&recording, /*process=*/1);
  log.Begin(Kind::kPut, 1, 11);
  log.End(11, 5);
  log.Begin(Kind::kPut, 1, 12);
  return raise(SIGKILL);
}

}  // namespace
}  // namespace apta::test

int main(int argc, char** argv) { return apta::test::RoleMain(argc, argv, apta::test::RunRole); }
