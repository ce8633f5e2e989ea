#include "sim/history.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace apta::sim {
namespace {

using Kind = Operation::Kind;
using History = std::vector<Operation>;

Operation Put(std::uint64_t value, std::uint64_t version, std::uint64_t begin, std::uint64_t end) {
  return {.kind = Kind::kPut,
          .client = 1,
          .key = 7,
          .value = value,
          .version = version,
          .begin_ns = begin,
          .end_ns = end};
}
Operation Get(std::uint64_t value, std::uint64_t version, std::uint64_t begin, std::uint64_t end) {
  return {.kind = Kind::kGet,
          .client = 2,
          .key = 7,
          .value = value,
          .version = version,
          .begin_ns = begin,
          .end_ns = end};
}
Operation NotFound(std::uint64_t begin, std::uint64_t end) { return Get(0, 0, begin, end); }
Operation Delete(std::uint64_t version, std::uint64_t begin, std::uint64_t end) {
  return {.kind = Kind::kDelete,
          .client = 3,
          .key = 7,
          .version = version,
          .begin_ns = begin,
          .end_ns = end};
}
Operation PutIf(std::uint64_t expected, std::uint64_t value, std::uint64_t version,
                std::uint64_t begin, std::uint64_t end) {
  return {.kind = Kind::kConditionalPut,
          .client = 4,
          .key = 7,
          .value = value,
          .version = version,
          .begin_ns = begin,
          .end_ns = end,
          .expected = expected};
}
Operation DeleteIf(std::uint64_t expected, std::uint64_t version, std::uint64_t begin,
                   std::uint64_t end) {
  Operation operation = Delete(version, begin, end);
  operation.expected = expected;
  return operation;
}
Operation Failed(Operation operation) {
  operation.failed = true;
  return operation;
}

std::string Print(const History& history) {
  std::string text;
  for (std::size_t i = 0; i < history.size(); ++i) {
    text += std::to_string(i) + ": key " + std::to_string(history[i].key) + " " +
            Describe(history[i]) + "\n";
  }
  return text;
}

std::string Message(const std::optional<Violation>& violation) {
  return violation ? violation->message : "";
}

// Both checkers, which must agree.
bool IsLinearizable(const History& history) {
  const std::optional<Violation> fast = CheckLinearizable(history);
  const std::optional<Violation> slow = CheckWingGong(history);
  EXPECT_EQ(fast.has_value(), slow.has_value())
      << Print(history) << "by version: " << Message(fast) << "\nby search: " << Message(slow);
  return !fast;
}

// A third opinion, without cleverness: tries every order and every subset of what may not have
// happened.
class EveryOrder {
 public:
  explicit EveryOrder(const History& history) {
    for (Operation op : history) {
      const bool writes = op.kind != Kind::kGet && !op.failed;
      const bool silent = op.failed && (op.kind == Kind::kGet || op.kind == Kind::kPut);
      if (silent || (!writes && op.end_ns == kNever)) continue;
      // A get tells the version of what it read.
      for (const Operation& get : history) {
        const bool tells = get.kind == Kind::kGet && !get.failed && get.end_ns != kNever;
        if (!tells || !writes || get.value != op.value || op.version != 0) continue;
        if (op.kind != Kind::kDelete) op.version = get.version;
      }
      left_.push_back(op);
    }
  }

  bool Exists() { return Try(Register()); }

 private:
  struct Register {
    std::uint64_t value = 0, version = 0, last = 0;
  };

  bool Try(const Register& now) {
    const auto optional = [](const Operation& op) {
      return op.end_ns == kNever && op.version == 0;
    };
    if (std::ranges::all_of(left_, optional)) return true;
    for (std::size_t i = 0; i < left_.size(); ++i) {
      const Operation op = left_[i];
      Register then = now;
      const auto precedes = [&op](const Operation& o) { return o.end_ns < op.begin_ns; };
      if (std::ranges::any_of(left_, precedes) || !Apply(op, &then)) continue;
      left_.erase(left_.begin() + static_cast<std::ptrdiff_t>(i));
      const bool found = Try(then);
      left_.insert(left_.begin() + static_cast<std::ptrdiff_t>(i), op);
      if (found) return true;
    }
    return false;
  }

  static bool Apply(const Operation& op, Register* now) {
    const bool found = now->value != 0;
    switch (op.kind) {
      case Kind::kGet:
        return op.value == now->value && (!found || op.version == 0 || op.version == now->version);
      case Kind::kDelete:
        if (op.expected == 0) {
          if (op.failed == found) return false;
          break;
        }
        [[fallthrough]];
      case Kind::kConditionalPut: {
        const bool known = !found || now->version != 0;
        if (op.failed) return !known || op.expected != now->version;
        if (known ? op.expected != now->version : op.expected <= now->last) return false;
        now->last = std::max(now->last, op.expected);
        break;
      }
      case Kind::kPut:
        break;
    }
    if (op.failed) return true;
    if (op.version != 0 && op.version <= now->last) return false;
    now->last = std::max(now->last, op.version);
    now->value = op.kind == Kind::kDelete ? 0 : op.value;
    now->version = op.kind == Kind::kDelete ? 0 : op.version;
    return true;
  }

  History left_;
};

// What clients of a real atomic register would record, with operations that never return and
// answers without versions.
class RegisterSimulation {
 public:
  explicit RegisterSimulation(std::uint64_t seed) : random_(seed) {}

  History Run(std::size_t operations, std::size_t keys, bool forgets_versions) {
    const std::size_t clients = 2 + Below(4);
    const std::size_t deaths = Below(6);  // in tenths of the operations
    struct Client {
      Operation op;
      bool is_busy = false, is_applied = false;
    };
    struct Register {
      std::uint64_t value = 0, version = 0, seen = 0;
    };
    std::vector<Client> all(clients);
    std::vector<Register> registers(keys);
    History history;
    std::uint64_t now = 1, version = 0, value = 100;
    for (std::size_t begun = 0; history.size() < operations; now += Below(3)) {
      const std::size_t who = Below(clients);
      Client& client = all[who];
      Operation& op = client.op;
      if (!client.is_busy) {
        if (begun >= operations) continue;
        ++begun;
        client = {.op = {}, .is_busy = true};
        op = {.kind = Pick(),
              .client = static_cast<std::uint32_t>(who),
              .key = Below(keys),
              .begin_ns = now};
        if (op.kind == Kind::kPut || op.kind == Kind::kConditionalPut) op.value = ++value;
        Register& reg = registers[op.key];
        if (op.kind == Kind::kConditionalPut || (op.kind == Kind::kDelete && Below(2))) {
          op.expected = Below(3) ? reg.version : reg.seen;
        }
        reg.seen = reg.version;
        continue;
      }
      Register& reg = registers[op.key];
      const bool dies = Below(20) < deaths;
      if (!client.is_applied && !(dies && Below(2))) {
        client.is_applied = true;
        if (op.kind == Kind::kGet) {
          op.value = reg.value;
          op.version = reg.version;
        } else if ((op.kind == Kind::kDelete && reg.value == 0) ||
                   (op.kind == Kind::kDelete && op.expected != 0 && op.expected != reg.version) ||
                   (op.kind == Kind::kConditionalPut && op.expected != reg.version)) {
          op.failed = true;
        } else {
          op.version = version += 1 + Below(2);
          reg.value = op.kind == Kind::kDelete ? 0 : op.value;
          reg.version = op.kind == Kind::kDelete ? 0 : op.version;
        }
        if (!dies) continue;
      }
      op.end_ns = dies ? kNever : now;
      if (dies) op.failed = false;
      if ((dies && Below(8)) || (forgets_versions && Below(4) == 0)) op.version = 0;
      if (dies && op.kind == Kind::kGet) op.value = 0;
      history.push_back(op);
      client.is_busy = false;
    }
    std::ranges::shuffle(history, random_);
    return history;
  }

  // One to three lies.
  void Corrupt(History* history) {
    for (std::uint64_t lies = 1 + Below(3); lies > 0; --lies) {
      Operation& op = (*history)[Below(history->size())];
      const Operation& other = (*history)[Below(history->size())];
      switch (Below(9)) {
        case 0:
          op.version = other.version;
          break;
        case 1:
          op.begin_ns += Below(30);
          if (op.end_ns != kNever) op.end_ns = std::max(op.end_ns, op.begin_ns);
          break;
        case 2:
          if (op.end_ns != kNever) op.end_ns -= std::min(op.end_ns - op.begin_ns, Below(20));
          break;
        case 3:
          op.failed = !op.failed;
          break;
        case 4:
          op.expected = other.version;
          break;
        case 5:  // an old read
          if (op.kind == Kind::kGet && other.kind != Kind::kDelete && op.key == other.key) {
            op.value = other.value;
            op.version = other.version;
          }
          break;
        case 6:
          if (op.kind == Kind::kGet) op.value = 0;
          break;
        default: {  // moved as a whole
          const std::uint64_t by = Below(30);
          op.begin_ns += by;
          if (op.end_ns != kNever) op.end_ns += by;
          break;
        }
      }
    }
  }

 private:
  std::uint64_t Below(std::uint64_t bound) {
    return std::uniform_int_distribution<std::uint64_t>(0, bound - 1)(random_);
  }
  Kind Pick() {
    constexpr Kind kKinds[] = {Kind::kGet, Kind::kGet,    Kind::kGet,           Kind::kPut,
                               Kind::kPut, Kind::kDelete, Kind::kConditionalPut};
    return kKinds[Below(std::size(kKinds))];
  }

  std::mt19937_64 random_;
};

TEST(HistoryTest, AnEmptyHistoryIsLinearizable) { EXPECT_TRUE(IsLinearizable({})); }

TEST(HistoryTest, AGetThatReturnsAnOldVersionAfterANewerPutWasAcknowledgedIsAViolation) {
  const History history = {Put(11, 1, 0, 10), Put(12, 2, 20, 30), Get(11, 1, 31, 40)};
  EXPECT_FALSE(IsLinearizable(history));
  const Violation violation = *CheckLinearizable(history);
  EXPECT_EQ(violation.key, 7u);
  EXPECT_EQ(violation.operations, (std::vector<std::size_t>{2, 1}));
  EXPECT_EQ(violation.message,
            "key 7: a get returned an old version after a newer write had been acknowledged: "
            "get by client 2 of value 11, version 1, at [31, 40]; "
            "put by client 1 of value 12, version 2, at [20, 30]");
}

TEST(HistoryTest, AGetThatRunsWhileAPutDoesMayReturnEither) {
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 0, 10), Put(12, 2, 20, 30), Get(11, 1, 25, 40)}));
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 0, 10), Put(12, 2, 20, 30), Get(12, 2, 15, 26)}));
}

TEST(HistoryTest, OperationsThatOnlyTouchAreConcurrent) {
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 0, 10), Put(12, 2, 20, 30), Get(11, 1, 30, 40)}));
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 10, 10), Get(11, 1, 10, 10), NotFound(10, 10)}));
}

TEST(HistoryTest, GetsThatGoBackWhileAPutStillRunsAreAViolation) {
  const History history = {Put(11, 1, 0, 10), Put(12, 2, 20, 90), Get(12, 2, 30, 40),
                           Get(11, 1, 50, 60)};
  EXPECT_FALSE(IsLinearizable(history));
  EXPECT_EQ(CheckLinearizable(history)->operations, (std::vector<std::size_t>{3, 2, 1}));
}

TEST(HistoryTest, VersionsThatContradictTheOrderOfPutsAreAViolation) {
  EXPECT_FALSE(IsLinearizable({Put(11, 2, 0, 10), Put(12, 1, 20, 30)}));
  EXPECT_TRUE(IsLinearizable({Put(11, 2, 0, 20), Put(12, 1, 20, 30)}));
}

TEST(HistoryTest, AGetBeforeItsPutBeganIsAViolation) {
  const History history = {Put(11, 1, 20, 30), Get(11, 1, 0, 19)};
  EXPECT_FALSE(IsLinearizable(history));
  EXPECT_TRUE(CheckIntegrity(history));
}

TEST(HistoryTest, AGetOfWhatNobodyWroteIsFabricated) {
  const History value = {Put(11, 1, 0, 10), Get(12, 1, 20, 30)};
  const History version = {Put(11, 1, 0, 10), Get(11, 2, 20, 30)};
  const History failed = {Failed(Put(11, 0, 0, 10)), Get(11, 1, 20, 30)};
  const History two = {Put(11, 0, 0, kNever), Get(11, 1, 20, 30), Get(11, 2, 20, 30)};
  for (const History& history : {value, version, failed, two}) {
    EXPECT_FALSE(IsLinearizable(history)) << Print(history);
    EXPECT_TRUE(CheckIntegrity(history)) << Print(history);
  }
  EXPECT_EQ(CheckIntegrity(two)->operations, (std::vector<std::size_t>{2, 0, 1}));
}

TEST(HistoryTest, TwoWritesOfOneVersionAreAViolation) {
  EXPECT_TRUE(CheckIntegrity(History{Put(11, 1, 0, 10), Put(12, 1, 0, 10)}));
  EXPECT_TRUE(CheckIntegrity(History{Put(11, 1, 0, 10), Delete(1, 0, 10)}));
}

TEST(HistoryTest, AStaleGetKeepsIntegrity) {
  EXPECT_FALSE(CheckIntegrity(History{Put(11, 1, 0, 10), Put(12, 2, 20, 30), Get(11, 1, 31, 40)}));
}

TEST(HistoryTest, APutThatNeverReturnedMayHaveHappenedOrNot) {
  const Operation lost = Put(12, 0, 20, kNever);
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 0, 10), lost, Get(11, 1, 90, 99)}));
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 0, 10), lost, Get(12, 2, 90, 99)}));
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 0, 10), lost, Get(11, 1, 50, 60), Get(12, 2, 90, 99)}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), lost, Get(12, 2, 50, 60), Get(11, 1, 90, 99)}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), lost, Get(12, 2, 5, 19)}));
}

TEST(HistoryTest, ADeleteThatNeverReturnedExplainsWhyNothingIsFound) {
  const Operation lost = Delete(0, 20, kNever);
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 0, 10), lost, NotFound(30, 40)}));
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 0, 10), lost, NotFound(30, 40), Put(12, 3, 50, 60)}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), lost, NotFound(30, 40), Get(11, 1, 50, 60)}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), lost, NotFound(12, 15)}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), NotFound(30, 40)}));
}

TEST(HistoryTest, OneDeleteCannotExplainTwoAbsences) {
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), Delete(0, 20, kNever), NotFound(30, 40),
                               Put(12, 3, 50, 60), NotFound(70, 80)}));
}

TEST(HistoryTest, NothingIsFoundOnlyWhileAKeyIsAbsent) {
  const Operation put = Put(11, 1, 10, 30), erase = Delete(2, 50, 70);
  EXPECT_TRUE(IsLinearizable({put, erase, NotFound(0, 5), NotFound(20, 25), NotFound(60, 65)}));
  EXPECT_FALSE(IsLinearizable({put, erase, NotFound(31, 49)}));
  // A put that a get forces to be late can't be early for another.
  EXPECT_FALSE(IsLinearizable({put, erase, NotFound(20, 25), Get(11, 1, 12, 15)}));
}

TEST(HistoryTest, ADeleteNeedsSomethingToDelete) {
  EXPECT_FALSE(IsLinearizable({Delete(1, 0, 10)}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), Delete(2, 20, 30), Delete(3, 40, 50)}));
  EXPECT_TRUE(IsLinearizable({Failed(Delete(0, 0, 5)), Put(11, 1, 0, 10), Delete(2, 20, 30)}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), Failed(Delete(0, 20, 30))}));
}

TEST(HistoryTest, AConditionalPutSucceedsOnlyOnTheVersionItExpects) {
  EXPECT_TRUE(IsLinearizable({PutIf(0, 11, 1, 0, 10), PutIf(1, 12, 2, 20, 30)}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), PutIf(0, 12, 2, 20, 30)}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), Put(12, 2, 20, 30), PutIf(1, 13, 3, 40, 50)}));
  EXPECT_FALSE(
      IsLinearizable({Put(11, 1, 0, 10), PutIf(1, 12, 2, 20, 30), PutIf(1, 13, 3, 20, 30)}));
}

TEST(HistoryTest, AConditionalPutFailsOnlyWhileTheVersionDiffers) {
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 0, 10), Failed(PutIf(2, 12, 0, 20, 30))}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), Failed(PutIf(1, 12, 0, 20, 30))}));
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 0, 10), Failed(PutIf(1, 12, 0, 5, 30))}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 20, 30), Failed(PutIf(0, 12, 0, 5, 10))}));
}

TEST(HistoryTest, AConditionalDeleteSucceedsOnlyOnTheVersionItExpects) {
  const Operation put = Put(11, 1, 0, 10), newer = Put(12, 2, 20, 30);
  EXPECT_TRUE(IsLinearizable({put, DeleteIf(1, 2, 20, 30), NotFound(40, 50)}));
  EXPECT_FALSE(IsLinearizable({put, newer, DeleteIf(1, 3, 40, 50)}));
  EXPECT_TRUE(IsLinearizable({put, newer, Failed(DeleteIf(1, 0, 40, 50))}));
  EXPECT_FALSE(IsLinearizable({put, Failed(DeleteIf(1, 0, 40, 50))}));
  EXPECT_TRUE(IsLinearizable({put, Delete(2, 20, 30), Failed(DeleteIf(1, 0, 40, 50))}));
}

TEST(HistoryTest, AConditionalPutMayShowThatALostPutHappened) {
  const Operation lost = Put(12, 0, 20, kNever);
  EXPECT_TRUE(IsLinearizable({Put(11, 1, 0, 10), lost, PutIf(2, 13, 3, 30, 40)}));
  EXPECT_FALSE(IsLinearizable({Put(11, 1, 0, 10), PutIf(2, 13, 3, 30, 40)}));
  EXPECT_FALSE(
      IsLinearizable({Put(11, 1, 0, 10), lost, PutIf(2, 13, 3, 30, 40), Get(12, 0, 50, 60)}));
}

TEST(HistoryTest, KeysAreCheckedApart) {
  History history = {Put(11, 1, 0, 10), Put(11, 2, 0, 10), Get(11, 2, 20, 30)};
  history[1].key = history[2].key = 8;
  EXPECT_TRUE(IsLinearizable(history));
  history[2].key = 7;
  EXPECT_FALSE(IsLinearizable(history));
}

TEST(HistoryTest, AnAtomicRegisterIsAlwaysLinearizable) {
  for (std::uint64_t seed = 1; seed <= 20'000; ++seed) {
    RegisterSimulation simulation(seed);
    const History history = simulation.Run(5 + seed % 60, 1 + seed % 3, seed % 4 == 0);
    ASSERT_TRUE(IsLinearizable(history)) << "seed " << seed << "\n"
                                         << Message(CheckLinearizable(history)) << "\n"
                                         << Print(history);
  }
}

TEST(HistoryTest, BothCheckersAgreeOnCorruptedHistories) {
  int violations = 0;
  for (std::uint64_t seed = 1; seed <= 60'000; ++seed) {
    RegisterSimulation simulation(seed);
    History history = simulation.Run(5 + seed % 30, 1 + seed % 2, seed % 4 == 0);
    simulation.Corrupt(&history);
    violations += !IsLinearizable(history);
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
  EXPECT_GT(violations, 15'000);
  EXPECT_LT(violations, 45'000);
}

TEST(HistoryTest, BothCheckersAgreeWithEveryOrder) {
  int violations = 0;
  for (std::uint64_t seed = 1; seed <= 60'000; ++seed) {
    RegisterSimulation simulation(seed);
    History history = simulation.Run(3 + seed % 5, 1, seed % 4 == 0);
    if (seed % 8 != 0) simulation.Corrupt(&history);
    const bool expected = EveryOrder(history).Exists();
    ASSERT_EQ(IsLinearizable(history), expected) << "seed " << seed << "\n"
                                                 << Message(CheckLinearizable(history)) << "\n"
                                                 << Print(history);
    violations += !expected;
  }
  EXPECT_GT(violations, 12'000);
  EXPECT_LT(violations, 45'000);
}

TEST(HistoryTest, ALongHistoryWithLostDeletesIsDecided) {
  History history;
  for (std::uint64_t i = 1; i <= 20'000; ++i) {
    const std::uint64_t now = 100 * i;
    history.push_back(Put(i, i, now, now + 10));
    history.push_back(Get(i, i, now + 20, now + 30));
    if (i % 1'000 != 0) continue;
    history.push_back(Delete(0, now + 40, kNever));
    history.push_back(NotFound(now + 50, now + 60));
  }
  EXPECT_TRUE(IsLinearizable(history));
}

TEST(HistoryTest, ManyLostPutsDoNotHideThatNoneExplainsAnAbsence) {
  History history = {Put(1'000, 1'000, 1, 2)};
  for (std::uint64_t i = 1; i <= 100; ++i) history.push_back(Put(i, 0, 3, kNever));
  history.push_back(NotFound(10, 20));
  EXPECT_FALSE(IsLinearizable(history));
  EXPECT_FALSE(CheckLinearizable(history)->message.starts_with("undecided"));
  history.push_back(Delete(0, 5, kNever));
  EXPECT_TRUE(IsLinearizable(history));
}

TEST(HistoryTest, ASearchThatGivesUpSaysSo) {
  History history;
  for (std::uint64_t i = 1; i <= 40; ++i) history.push_back(Put(i, 0, 3, 5));
  history.push_back(NotFound(10, 20));
  const std::optional<Violation> violation = CheckLinearizable(history);
  ASSERT_TRUE(violation);
  EXPECT_TRUE(violation->message.starts_with("undecided")) << violation->message;
}

TEST(HistoryTest, AnInvocationMustSeeWhatWasAcknowledgedBeforeItStarted) {
  const History writes = {Put(11, 1, 0, 10), Put(12, 2, 20, 30), Put(13, 3, 20, kNever)};
  const auto check = [&writes](std::uint64_t version, std::uint64_t started) {
    const ScheduledGet get = {
        .key = 7, .version = version, .invocation_started_ns = started, .end_ns = 100};
    return !CheckLazy(writes, {&get, 1});
  };
  EXPECT_TRUE(check(0, 10));
  EXPECT_FALSE(check(0, 11));
  EXPECT_TRUE(check(1, 30));
  EXPECT_FALSE(check(1, 31));
  EXPECT_TRUE(check(2, 31));
  EXPECT_TRUE(check(3, 31));
  const ScheduledGet stale = {.key = 7, .version = 1, .invocation_started_ns = 31, .end_ns = 100};
  const Violation violation = *CheckLazy(writes, {&stale, 1});
  EXPECT_EQ(violation.operations, std::vector<std::size_t>{1});
  EXPECT_EQ(violation.message,
            "key 7: scheduled get 0 of an invocation started at 31 returned version 1 despite: "
            "put by client 1 of value 12, version 2, at [20, 30]");
}

TEST(HistoryTest, AnAcknowledgementThatCameLaterDoesNotHideANewerOne) {
  const History writes = {Put(12, 2, 0, 10), Put(11, 1, 0, 20)};
  const ScheduledGet get = {.key = 7, .version = 1, .invocation_started_ns = 30, .end_ns = 100};
  EXPECT_TRUE(CheckLazy(writes, {&get, 1}));
}

TEST(HistoryTest, AnInvocationMayFindNothingOnlyAfterADelete) {
  const ScheduledGet get = {.key = 7, .version = 0, .invocation_started_ns = 50, .end_ns = 60};
  const Operation put = Put(11, 2, 0, 10);
  EXPECT_TRUE(CheckLazy(History{put}, {&get, 1}));
  EXPECT_FALSE(CheckLazy(History{put, Delete(3, 20, 30)}, {&get, 1}));
  EXPECT_FALSE(CheckLazy(History{put, Delete(0, 20, kNever)}, {&get, 1}));
  EXPECT_TRUE(CheckLazy(History{put, Delete(1, 0, 5)}, {&get, 1}));
  EXPECT_TRUE(CheckLazy(History{put, Failed(Delete(0, 0, 5))}, {&get, 1}));
}

TEST(HistoryTest, ADeleteAfterTheGetDoesNotExplainThatItFoundNothing) {
  const ScheduledGet get = {.key = 7, .version = 0, .invocation_started_ns = 50, .end_ns = 60};
  const Operation put = Put(11, 2, 0, 10);
  EXPECT_FALSE(CheckLazy(History{put, Delete(3, 60, 70)}, {&get, 1}));
  EXPECT_TRUE(CheckLazy(History{put, Delete(3, 61, 70)}, {&get, 1}));
  EXPECT_TRUE(CheckLazy(History{put, Delete(0, 61, kNever)}, {&get, 1}));
}

TEST(HistoryTest, AnInvocationReadsOnlyWhatSomebodyPut) {
  const auto check = [](std::uint64_t version, const Operation& other) {
    const ScheduledGet get = {
        .key = 7, .version = version, .invocation_started_ns = 50, .end_ns = 60};
    return !CheckLazy(History{Put(11, 2, 0, 10), other}, {&get, 1});
  };
  EXPECT_TRUE(check(2, Put(12, 3, 20, 90)));
  EXPECT_TRUE(check(3, Put(12, 3, 20, 90)));
  EXPECT_FALSE(check(4, Put(12, 3, 20, 90)));
  EXPECT_TRUE(check(4, Put(12, 0, 20, kNever))) << "it may have been that one";
  EXPECT_FALSE(check(4, Put(12, 0, 61, kNever))) << "which had not begun";
  EXPECT_FALSE(check(3, Put(12, 3, 61, 90)));
  EXPECT_FALSE(check(3, Delete(3, 20, 30)));
  EXPECT_FALSE(check(3, Failed(Put(12, 3, 20, 30))));
}

TEST(HistoryTest, AProcessReadsItsOwnWritesOrFindsThemDeleted) {
  const auto check = [](const History& history, std::uint32_t clients_per_process = 10) {
    return !CheckOwnWrites(history,
                           [=](std::uint32_t client) { return client / clients_per_process; });
  };
  const Operation old = Put(11, 1, 0, 10), put = Put(12, 2, 20, 30);
  EXPECT_FALSE(check({old, put, Get(11, 1, 31, 40)}));
  EXPECT_TRUE(check({old, put, Get(11, 1, 30, 40)}));
  EXPECT_TRUE(check({old, put, Get(11, 1, 31, 40)}, 1)) << "it was another process's";
  EXPECT_FALSE(check({put, NotFound(31, 40)}));
  EXPECT_TRUE(check({put, Delete(3, 40, 50), NotFound(31, 40)}, 2)) << "somebody deletes it";
  EXPECT_FALSE(check({put, Delete(3, 41, 50), NotFound(31, 40)}));
  EXPECT_FALSE(check({put, Delete(1, 10, 50), NotFound(31, 40)})) << "an older version";
  EXPECT_TRUE(check({put, Delete(3, 32, 33), NotFound(34, 40)}));
  EXPECT_FALSE(check({put, Delete(3, 32, 33), Get(12, 2, 34, 40)}));
}

TEST(HistoryTest, StaleGetsAreCounted) {
  EXPECT_EQ(CountStale(History{Put(11, 1, 0, 10), Put(12, 2, 20, 30), Get(11, 1, 25, 40),
                               Get(11, 1, 31, 40), Get(12, 2, 31, 40), NotFound(31, 40),
                               NotFound(5, 9), Get(11, 1, 31, kNever)}),
            2u);
  EXPECT_EQ(CountStale(History{Put(11, 1, 0, 10), Delete(2, 20, 30), NotFound(15, 19),
                               NotFound(15, 20), NotFound(40, 50), Get(11, 1, 40, 50)}),
            2u);
}

}  // namespace
}  // namespace apta::sim
