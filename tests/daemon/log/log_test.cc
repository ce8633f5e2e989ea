// The log's logic over a disk that loses power at every step: what was durable is there, whole, and
// nothing half-made is.

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "daemon/log/checkpoint.h"
#include "daemon/log/log_reader.h"
#include "daemon/log/log_writer.h"
#include "fmt/format.h"
#include "tests/daemon/log/sim_medium.h"

namespace apta::daemon::log {
namespace {

using Objects = std::map<std::string, std::pair<Version, std::string>>;

constexpr std::uint64_t kSegmentBytes = kMinSegmentBytes;

absl::StatusOr<LogContents> ReadInto(Medium* medium, Objects* objects) {
  objects->clear();
  return ReadLog(medium, [&](const LoggedObject& object) {
    EXPECT_TRUE(objects
                    ->emplace(std::string(object.key),
                              std::pair(object.version, std::string(AsText(object.payload))))
                    .second)
        << object.key << " twice";
    return absl::OkStatus();
  });
}

// A pool as its log sees it: applies what is durable, as a home does, and makes checkpoints.
class Store {
 public:
  explicit Store(SimMedium* medium, std::uint64_t checkpoint_after_bytes = 6 * kSegmentBytes)
      : medium_(medium) {
    auto found = ReadInto(medium, &objects_);
    if (absl::IsNotFound(found.status())) {
      EXPECT_TRUE(CreateLog(medium, {{1, 2}}, 3).ok());
      found = ReadInto(medium, &objects_);
    }
    EXPECT_TRUE(found.ok()) << found.status();
    if (!found.ok()) return;
    found_ = *found;
    version_ = found_.last_version;
    for (const std::string& name : found_.garbage) EXPECT_TRUE(medium->Remove(name).ok());
    writer_.emplace(LogWriter::Options{.id = found_.id,
                                       .salt = found_.begin.next_number * 77 + found_.objects,
                                       .segment_bytes = kSegmentBytes,
                                       .checkpoint_after_bytes = checkpoint_after_bytes},
                    found_.begin);
  }

  LogTicket Put(const std::string& key, const std::string& value) { return Commit({{key, value}}); }
  // No value: a delete.
  LogTicket Commit(const std::map<std::string, std::optional<std::string>>& writes) {
    Asked& asked = asked_[++ticket_];
    asked.version = ++version_;
    asked.writes = writes;
    LogRecord record{.ticket = ticket_, .version = version_};
    for (const auto& [key, value] : asked.writes) {
      record.writes.push_back({.key = key,
                               .payload = value ? AsBytes(*value) : BytesView(),
                               .is_delete = !value.has_value()});
    }
    writer_->Append(std::move(record));
    return ticket_;
  }

  // One step of whatever is to be done; false: nothing is.
  bool Step() {
    now_ns_ += 1000;
    bool has_worked = false;
    if (writer_->is_writing()) {
      if (const auto error = medium_->PollWrite()) writer_->OnWritten(*error, now_ns_);
      has_worked = true;
    } else if (const auto write = writer_->NextWrite(now_ns_)) {
      EXPECT_EQ(write->offset % kBlockBytes, 0u);
      EXPECT_EQ(write->bytes.size() % kBlockBytes, 0u);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(write->bytes.data()) % kBlockBytes, 0u);
      medium_->BeginWrite(SegmentName(write->slot), write->offset, write->bytes);
      has_worked = true;
    }
    for (auto& [shard, outcomes] : writer_->TakeOutcomes()) {
      for (const LogOutcome& outcome : outcomes) OnOutcome(outcome);
      has_worked = true;
    }
    if (writer_->TakeSegmentWish(now_ns_)) MakeSegment(writer_->spare_slot());
    if (const auto from = writer_->TakeCheckpointWish(now_ns_)) MakeCheckpoint(*from);
    for (const std::uint32_t slot : writer_->TakeSurplus()) {
      EXPECT_TRUE(medium_->Remove(SegmentName(slot)).ok());
    }
    return has_worked;
  }
  void Finish() {
    for (int idle = 0; idle < 3; idle = Step() ? 0 : idle + 1) {
    }
  }
  void Sleep(fabric::TimeNs time_ns) { now_ns_ += time_ns; }

  const Objects& objects() const { return objects_; }
  const LogContents& found() const { return found_; }
  const LogWriter& writer() const { return *writer_; }
  std::map<LogTicket, LogOutcome>& outcomes() { return outcomes_; }
  int checkpoints() const { return checkpoints_; }
  // What may be there once the power is lost: what was acknowledged, or further records, in order.
  std::vector<Objects> Possible() const {
    std::vector<Objects> possible = {objects_};
    for (const auto& [ticket, asked] : asked_) {
      possible.push_back(possible.back());
      Apply(asked, &possible.back());
    }
    return possible;
  }

 private:
  struct Asked {
    Version version;
    std::map<std::string, std::optional<std::string>> writes;
  };

  static void Apply(const Asked& asked, Objects* objects) {
    for (const auto& [key, value] : asked.writes) {
      if (value) {
        (*objects)[key] = {asked.version, *value};
      } else {
        objects->erase(key);
      }
    }
  }
  void OnOutcome(const LogOutcome& outcome) {
    outcomes_[outcome.ticket] = outcome;
    const auto asked = asked_.extract(outcome.ticket);
    ASSERT_FALSE(asked.empty()) << "told twice";
    if (outcome.error != 0) return;
    Apply(asked.mapped(), &objects_);
    writer_->OnApplied(0, outcome.ticket);
  }
  void MakeSegment(std::uint32_t slot) {
    auto file = medium_->Create(SegmentName(slot));
    absl::Status status = file.status();
    if (status.ok()) status = (*file)->Write(0, Bytes(kSegmentBytes));
    if (status.ok()) status = (*file)->Sync();
    if (status.ok()) {
      writer_->OnSegmentReady(slot);
      return;
    }
    EXPECT_TRUE(medium_->Remove(SegmentName(slot)).ok());
    writer_->OnNoSegment(ENOSPC, now_ns_);
  }
  // Writers go on between its objects.
  void MakeCheckpoint(std::uint64_t from) {
    std::set<std::string> keys;
    for (const auto& [key, object] : objects_) keys.insert(key);
    auto checkpoint = CheckpointWriter::Begin(medium_, found_.id, from, version_, ++ticket_ * 31);
    absl::Status status = checkpoint.status();
    for (const std::string& key : keys) {
      if (!status.ok()) break;
      StepLog();
      const auto object = objects_.find(key);
      if (object == objects_.end()) continue;
      status = (*checkpoint)
                   ->Add({.key = key,
                          .version = object->second.first,
                          .payload = AsBytes(object->second.second)});
    }
    if (status.ok()) status = (*checkpoint)->Finish(writer_->next_batch());
    checkpoints_ += status.ok();
    writer_->OnCheckpoint(from, status.ok(), now_ns_);
  }
  void StepLog() {
    if (writer_->is_writing()) {
      if (const auto error = medium_->PollWrite()) writer_->OnWritten(*error, now_ns_);
    } else if (const auto write = writer_->NextWrite(now_ns_)) {
      medium_->BeginWrite(SegmentName(write->slot), write->offset, write->bytes);
    }
    for (auto& [shard, outcomes] : writer_->TakeOutcomes()) {
      for (const LogOutcome& outcome : outcomes) OnOutcome(outcome);
    }
  }

  SimMedium* const medium_;
  LogContents found_;
  std::optional<LogWriter> writer_;
  Objects objects_;
  std::map<LogTicket, Asked> asked_;
  std::map<LogTicket, LogOutcome> outcomes_;
  LogTicket ticket_ = 0;
  Version version_ = 0;
  fabric::TimeNs now_ns_ = 1'000'000;
  int checkpoints_ = 0;
};

std::string Value(std::mt19937* random, std::size_t max_bytes = 9000) {
  const std::size_t bytes = (*random)() % 4 == 0 ? (*random)() % max_bytes : (*random)() % 200;
  return std::string(bytes, static_cast<char>('a' + (*random)() % 26));
}
std::string Key(std::mt19937* random) { return fmt::format("key-{}", (*random)() % 12); }

// A few random records: puts, deletes, groups; one in fifty larger than a batch can be.
void Ask(Store* store, std::mt19937* random) {
  switch ((*random)() % 8) {
    case 0:
      store->Commit({{Key(random), std::nullopt}});
      return;
    case 1: {
      std::map<std::string, std::optional<std::string>> writes;
      for (int i = 0; i < 4; ++i) writes[Key(random)] = Value(random, 3000);
      writes["group"] = std::nullopt;
      store->Commit(writes);
      return;
    }
    case 2:
      if ((*random)() % 6 == 0) {
        store->Put("large", Value(random, 100'000) + std::string(70'000, 'x'));
        return;
      }
      [[fallthrough]];
    default:
      store->Put(Key(random), Value(random));
  }
}

testing::AssertionResult IsOneOf(const Objects& objects, const std::vector<Objects>& possible) {
  for (const Objects& one : possible) {
    if (one == objects) return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << objects.size() << " objects are none of " << possible.size()
                                     << " states that may be there";
}

TEST(LogTest, WhatIsDurableIsThereAgain) {
  SimMedium medium;
  Store store(&medium);
  store.Put("a", "1");
  store.Put("b", std::string(300'000, 'b'));
  store.Put("empty", "");
  store.Commit({{"a", "2"}, {"c", "3"}, {"none", std::nullopt}});
  store.Finish();
  EXPECT_EQ(store.objects().size(), 4u);
  Store again(&medium);
  EXPECT_EQ(again.objects(), store.objects());
  EXPECT_EQ(again.found().last_version, 4u);
  EXPECT_EQ(again.found().replayed_records, 4u);
  EXPECT_EQ(again.found().cut_at, "");
}

TEST(LogTest, WhatComesWhileAWriteIsUnderWayGoesIntoTheNextTogether) {
  SimMedium medium;
  Store store(&medium);
  store.Put("first", "1");
  store.Step();  // a segment
  ASSERT_TRUE(store.Step());
  ASSERT_TRUE(store.writer().is_writing());
  for (int i = 0; i < 20; ++i) store.Put(fmt::format("k{}", i), "v");
  store.Step();
  EXPECT_EQ(store.objects().size(), 1u);
  store.Step();
  store.Step();
  EXPECT_EQ(store.objects().size(), 21u);
  const LogTotals& totals = store.writer().totals();
  EXPECT_EQ(totals.writes, 2u);
  EXPECT_EQ(totals.records, 21u);
  EXPECT_EQ(totals.bytes, 3 * kBlockBytes) << "a header and two batches";
  EXPECT_EQ(totals.bytes_since_checkpoint, totals.bytes);
  EXPECT_GE(totals.write_ns, 2000u) << "a step of the test's clock for each, at least";
}

TEST(LogTest, WhatACheckpointHasIsNotCountedAsToBeRead) {
  constexpr std::uint64_t kAfterBytes = 6 * kSegmentBytes;
  SimMedium medium;
  Store store(&medium, kAfterBytes);
  while (store.checkpoints() == 0) {
    store.Put("key", std::string(1000, 'v'));
    store.Finish();
  }
  const LogTotals& totals = store.writer().totals();
  EXPECT_EQ(totals.checkpoints, 1u);
  EXPECT_GE(totals.bytes, kAfterBytes);
  EXPECT_LT(totals.bytes_since_checkpoint, kSegmentBytes);
}

TEST(LogTest, AnObjectOfAMegabyteIsOneWriteAndSeveralAreOneMore) {
  const std::string value(std::size_t{1} << 20, 'v');
  LogWriter writer({.id = {{1, 2}}, .salt = 3, .segment_bytes = 16 << 20}, {.free = {0}});
  LogTicket ticket = 0;
  const auto put = [&] {
    writer.Append({.ticket = ++ticket,
                   .version = ticket,
                   .writes = {{.key = "key", .payload = AsBytes(value)}}});
  };
  put();
  ASSERT_TRUE(writer.NextWrite(1));
  for (int i = 0; i < 3; ++i) put();
  for (const std::size_t records : {1u, 3u}) {
    writer.OnWritten(0, 2);
    EXPECT_EQ(writer.TakeOutcomes()[0].size(), records);
    EXPECT_EQ(writer.NextWrite(3).has_value(), records == 1);
  }
}

TEST(LogTest, ReadingSaysHowFarItIs) {
  SimMedium medium;
  Store store(&medium);
  for (int i = 0; i < 50; ++i) store.Put(fmt::format("k{}", i), std::string(20'000, 'v'));
  store.Finish();
  std::vector<double> shares;
  const auto found = ReadLog(
      &medium, [](const LoggedObject&) { return absl::OkStatus(); },
      [&](std::uint64_t done_bytes, std::uint64_t total_bytes) {
        shares.push_back(static_cast<double>(done_bytes) / static_cast<double>(total_bytes));
      });
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_GE(shares.size(), 5u);
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_GT(shares.back(), 0.5);
  EXPECT_LE(shares.back(), 1.0);
}

// Every step at which the disk changes is one at which the power may fail: with none, with all and
// with random ones of the blocks in doubt. What is read then goes on as a log, and is cut again.
TEST(LogTest, WhateverThePowerLeavesIsWhatWasAcknowledgedAndMaybeWhatWasAskedNext) {
  std::size_t crashes = 0;
  int checkpoints = 0;
  std::size_t most_segments = 0;
  for (std::uint32_t seed = 1; seed <= 4; ++seed) {
    std::mt19937 random(seed);
    SimMedium medium;
    std::optional<Store> store(std::in_place, &medium);
    bool is_judging = false;
    const auto judge = [&] {
      if (is_judging || random() % 4 != 0) return;
      is_judging = true;
      const std::vector<Objects> possible = store->Possible();
      for (int way = 0; way < 4; ++way) {
        SimMedium after(medium.Crash([&] { return way == 0 || (way > 1 && random() % 2 == 0); }));
        Objects objects;
        const auto found = ReadInto(&after, &objects);
        ASSERT_TRUE(found.ok()) << found.status() << " seed " << seed;
        ASSERT_TRUE(IsOneOf(objects, possible)) << " seed " << seed;
        ASSERT_EQ(found->cut_at, "");
        ++crashes;
        // It goes on from there, and nothing comes back that was not there.
        if (way != 2) continue;
        Store next(&after);
        next.Put("later", "on");
        next.Finish();
        objects["later"] = {next.found().last_version + 1, "on"};
        Objects reread;
        ASSERT_TRUE(ReadInto(&after, &reread).ok());
        ASSERT_EQ(reread, objects) << " seed " << seed;
      }
      is_judging = false;
    };
    medium.on_step = judge;
    for (int round = 0; round < 250 && !testing::Test::HasFatalFailure(); ++round) {
      for (auto asked = random() % 4; asked > 0; --asked) Ask(&*store, &random);
      for (auto steps = random() % 6; steps > 0; --steps) store->Step();
      most_segments = std::max(most_segments, store->writer().segments_in_use());
      if (random() % 40 != 0) continue;
      checkpoints += store->checkpoints();
      medium.on_step = nullptr;
      medium.files() = medium.Crash([&] { return random() % 2 == 0; });
      store.emplace(&medium);
      medium.on_step = judge;
    }
    checkpoints += store->checkpoints();
  }
  EXPECT_GT(crashes, 1000u);
  EXPECT_GT(checkpoints, 5);
  EXPECT_LT(most_segments, 40u) << "checkpoints free nothing";
}

TEST(LogTest, AWriteThatFailsGoesToAnotherSegmentAndIsNotAskedAgain) {
  SimMedium medium;
  Store store(&medium);
  store.Put("a", "1");
  store.Finish();
  const std::uint32_t first = 0;
  medium.fails = [&](const std::string& name) { return name == SegmentName(first) ? EIO : 0; };
  const LogTicket ticket = store.Put("a", "2");
  store.Finish();
  EXPECT_EQ(store.outcomes().at(ticket), (LogOutcome{.ticket = ticket}));
  store.Put("b", "3");
  store.Finish();
  EXPECT_EQ(store.writer().error(), 0);
  Store again(&medium);
  EXPECT_EQ(again.objects(), store.objects());
  EXPECT_EQ(again.objects().at("a").second, "2");
}

// Whatever stands in the segments that have failed.
TEST(LogTest, ADiskThatFailsMakesTheLogRefuseUntilItWorksAgain) {
  for (std::uint32_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    SimMedium medium;
    Store store(&medium);
    bool is_broken = false;
    medium.fails = [&](const std::string&) { return is_broken && random() % 8 != 0 ? EIO : 0; };
    int refused = 0;
    for (int round = 0; round < 120; ++round) {
      is_broken = round / 15 % 2 == 1;
      Ask(&store, &random);
      for (auto steps = random() % 8; steps > 0; --steps) store.Step();
      if (!is_broken && round % 15 == 0) {
        store.Sleep(LogWriter::kRetryNs);
        store.Finish();
        store.Sleep(LogWriter::kRetryNs);
        store.Finish();
        ASSERT_EQ(store.writer().error(), 0) << "seed " << seed;
      }
      if (random() % 10 == 0) {
        SimMedium after(medium.Crash([&] { return random() % 2 == 0; }));
        Objects objects;
        const auto found = ReadInto(&after, &objects);
        ASSERT_TRUE(found.ok()) << found.status();
        if (store.writer().error() == 0) {
          ASSERT_TRUE(IsOneOf(objects, store.Possible())) << "seed " << seed;
          continue;
        }
        // A refused record may be there, as its writer was told, as long as nothing came after it.
        for (const auto& [key, object] : store.objects()) {
          const bool is_there = objects.contains(key) && objects[key].first >= object.first;
          ASSERT_TRUE(is_there || !objects.contains(key)) << key << " seed " << seed;
        }
      }
    }
    for (const auto& [ticket, outcome] : store.outcomes()) refused += outcome.error == EIO;
    EXPECT_GT(refused, 0);
    medium.fails = [](const std::string&) { return 0; };
    store.Sleep(LogWriter::kRetryNs);
    store.Finish();
    store.Put("last", "put");
    store.Finish();
    Store again(&medium);
    EXPECT_EQ(again.objects(), store.objects()) << "seed " << seed;
  }
}

TEST(LogTest, AFullDiskRefusesAndGoesOnWhenThereIsRoom) {
  SimMedium medium;
  Store store(&medium);
  store.Put("kept", "1");
  store.Finish();
  bool is_full = true;
  // Nothing gets longer.
  medium.fails = [&](const std::string& name) {
    return is_full && (!medium.files().contains(name) || medium.files()[name].durable.empty())
               ? ENOSPC
               : 0;
  };
  LogTicket ticket = 0;
  for (int i = 0; i < 100 && store.writer().error() == 0; ++i) {
    ticket = store.Put("more", std::string(5000, 'm'));
    store.Sleep(LogWriter::kRetryNs);
    store.Finish();
  }
  EXPECT_EQ(store.writer().error(), ENOSPC);
  EXPECT_EQ(store.outcomes().at(ticket),
            (LogOutcome{.ticket = ticket, .error = ENOSPC, .is_certain = true}));
  ticket = store.Put("refused", "x");
  store.Finish();
  EXPECT_EQ(store.outcomes().at(ticket).error, ENOSPC);
  {
    Objects objects;
    ASSERT_TRUE(ReadInto(&medium, &objects).ok());
    EXPECT_EQ(objects, store.objects());
  }
  is_full = false;
  store.Sleep(LogWriter::kRetryNs);
  store.Finish();
  store.Sleep(LogWriter::kRetryNs);
  store.Finish();
  EXPECT_EQ(store.writer().error(), 0);
  ticket = store.Put("again", "y");
  store.Finish();
  EXPECT_EQ(store.outcomes().at(ticket).error, 0);
  Store again(&medium);
  EXPECT_EQ(again.objects(), store.objects());
}

// Bit flips and truncation anywhere: what is read is a state that once was, or a clear refusal.
TEST(LogTest, ADamagedLogEndsWhereItIsDamagedOrSaysThatItIsUnusable) {
  std::mt19937 random(11);
  SimMedium medium;
  Store store(&medium);
  std::vector<Objects> states = {store.objects()};
  while (store.checkpoints() < 2 || store.writer().segments_in_use() < 5) {
    Ask(&store, &random);
    store.Finish();
    states.push_back(store.objects());
  }
  int cut = 0;
  int refused = 0;
  for (int damage = 0; damage < 400; ++damage) {
    SimMedium damaged(medium.Crash([] { return true; }));
    auto file = damaged.files().begin();
    std::advance(file, random() % damaged.files().size());
    Bytes& bytes = file->second.durable;
    if (bytes.empty()) continue;
    if (random() % 4 == 0) {
      bytes.resize(random() % bytes.size());
    } else {
      bytes[random() % bytes.size()] ^= static_cast<std::byte>(1 << random() % 8);
    }
    Objects objects;
    const auto found = ReadInto(&damaged, &objects);
    if (!found.ok()) {
      EXPECT_TRUE(absl::IsDataLoss(found.status())) << found.status();
      ++refused;
      continue;
    }
    EXPECT_TRUE(IsOneOf(objects, states)) << file->first;
    cut += !found->cut_at.empty();
  }
  EXPECT_GT(cut, 5);
  EXPECT_GT(refused, 5);
}

TEST(LogTest, APayloadThatLooksLikeABatchIsNone) {
  SimMedium medium;
  Store store(&medium);
  store.Put("a", "1");
  store.Finish();
  // What a later batch of this very log looks like, block-aligned in a payload.
  BatchBuilder forged(kMaxBatchBytes);
  forged.Begin(3, kBlockBytes);
  forged.Add({.version = 99, .kind = EntryKind::kPut, .flags = kFirstOfRecord | kLastOfRecord},
             "forged", AsBytes("x"));
  const BytesView batch = forged.Seal(0);
  const std::size_t before = kBlockBytes - sizeof(BatchHeader) - sizeof(EntryHeader) - 1;
  store.Put("b", std::string(before, '.') + std::string(AsText(batch)));
  store.Finish();
  Store again(&medium);
  EXPECT_EQ(again.objects(), store.objects());
}

TEST(LogTest, SegmentsWithoutACheckpointAreNoLog) {
  SimMedium medium;
  {
    Store store(&medium);
    store.Put("a", "1");
    store.Finish();
  }
  medium.files().erase(std::string(kCheckpointName));
  Objects objects;
  EXPECT_TRUE(absl::IsFailedPrecondition(ReadInto(&medium, &objects).status()));
}

}  // namespace
}  // namespace apta::daemon::log
