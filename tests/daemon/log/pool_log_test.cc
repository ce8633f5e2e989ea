// The log's threads over a real folder: what is said when a disk fails below it.

#include "daemon/log/pool_log.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/log/folder_medium.h"
#include "fmt/format.h"

namespace apta::daemon::log {
namespace {

// A folder whose disk can be told to fail.
class FailingMedium final : public Medium {
 public:
  FailingMedium(std::unique_ptr<FolderMedium> folder, std::atomic<int>* error)
      : folder_(std::move(folder)), error_(error) {}

  absl::StatusOr<std::vector<std::string>> List() override { return folder_->List(); }
  absl::StatusOr<std::unique_ptr<MediumFile>> Open(const std::string& name) override {
    return folder_->Open(name);
  }
  absl::StatusOr<std::unique_ptr<MediumFile>> Create(const std::string& name) override {
    if (const int error = error_->load()) return absl::ErrnoToStatus(error, name);
    return folder_->Create(name);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return folder_->Rename(from, to);
  }
  absl::Status SyncFolder() override { return folder_->SyncFolder(); }
  absl::Status Remove(const std::string& name) override { return folder_->Remove(name); }
  void BeginWrite(const std::string& name, std::uint64_t offset, BytesView bytes) override {
    folder_->BeginWrite(name, offset, bytes);
  }
  // The bytes are there, and yet it failed: the worst that a disk can do.
  std::optional<int> PollWrite() override {
    const std::optional<int> done = folder_->PollWrite();
    return done && error_->load() != 0 ? error_->load() : done;
  }
  void Wait(fabric::TimeNs timeout_ns) override { folder_->Wait(timeout_ns); }
  void Forget(const std::string& name) override { folder_->Forget(name); }
  void Wake() override { folder_->Wake(); }

 private:
  std::unique_ptr<FolderMedium> folder_;
  std::atomic<int>* error_;
};

class PoolLogTest : public ::testing::Test {
 protected:
  PoolLogTest() {
    std::string name = ::testing::TempDir() + "/apta-log-XXXXXX";
    path_ = mkdtemp(name.data());
    Open();
  }
  ~PoolLogTest() override {
    log_.reset();
    std::filesystem::remove_all(path_);
  }

  void Open() {
    log_.reset();
    objects_.clear();
    auto folder = FolderMedium::OpenFolder(path_);
    ASSERT_TRUE(folder.ok()) << folder.status();
    auto log = PoolLog::Open(std::make_unique<FailingMedium>(*std::move(folder), &error_),
                             {.segment_bytes = kMinSegmentBytes, .recovery_target_ms = 1},
                             [this](const LoggedObject& object) {
                               objects_[std::string(object.key)] = AsText(object.payload);
                               return absl::OkStatus();
                             });
    ASSERT_TRUE(log.ok()) << log.status();
    log_ = *std::move(log);
    log_->Start({.name = "test",
                 .visit_objects = [this](const ObjectVisitor& visit) { return Visit(visit); },
                 .last_version = [this] { return last_version_.load(); },
                 .deliver =
                     [this](int, const std::vector<LogOutcome>& outcomes) {
                       std::lock_guard<std::mutex> lock(mutex_);
                       for (const LogOutcome& outcome : outcomes)
                         outcomes_[outcome.ticket] = outcome;
                       changed_.notify_all();
                     }});
  }
  absl::Status Visit(const ObjectVisitor& visit) {
    std::map<std::string, std::string> objects;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      objects = objects_;
    }
    for (const auto& [key, value] : objects) {
      const absl::Status visited =
          visit({.key = key, .version = last_version_.load(), .payload = AsBytes(value)});
      if (!visited.ok()) return visited;
    }
    return absl::OkStatus();
  }
  // What becomes of a put.
  LogOutcome Put(const std::string& key, const std::string& value) {
    const LogTicket ticket = ++ticket_;
    log_->Append({.ticket = ticket,
                  .version = ++last_version_,
                  .writes = {{.key = key, .payload = AsBytes(value)}}});
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return outcomes_.contains(ticket); });
    const LogOutcome outcome = outcomes_[ticket];
    if (outcome.error == 0) objects_[key] = value;
    lock.unlock();
    if (outcome.error == 0) log_->Applied(0, ticket);
    return outcome;
  }
  void PutUntilItWorks(const std::string& key, const std::string& value) {
    while (Put(key, value).error != 0) {
    }
  }

  std::string path_;
  std::atomic<int> error_{0};
  std::atomic<Version> last_version_{0};
  LogTicket ticket_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<LogTicket, LogOutcome> outcomes_;
  std::map<std::string, std::string> objects_;
  std::unique_ptr<PoolLog> log_;
};

TEST_F(PoolLogTest, IsThereAgainAfterManyCheckpoints) {
  for (int i = 0; i < 300; ++i) {
    ASSERT_EQ(
        Put(fmt::format("k{}", i % 7), std::string(5000, static_cast<char>('a' + i % 26))).error,
        0);
  }
  const std::map<std::string, std::string> before = objects_;
  Open();
  EXPECT_EQ(objects_, before);
  // 300 puts of 8 KiB each; 64 KiB a segment.
  EXPECT_LT(std::distance(std::filesystem::directory_iterator(path_), {}), 30);
  EXPECT_GT(log_->found().checkpoint_objects, 0u);
}

TEST_F(PoolLogTest, RefusesWhileTheDiskFailsAndWhatItRefusedIsVoidWhenItWorksAgain) {
  ASSERT_EQ(Put("a", "old").error, 0);
  error_.store(EIO);
  const LogOutcome first = Put("a", "lost");
  EXPECT_EQ(first.error, EIO);
  EXPECT_FALSE(first.is_certain);
  const LogOutcome second = Put("a", "lost too");
  EXPECT_EQ(second.error, EIO);
  EXPECT_TRUE(second.is_certain);
  error_.store(0);
  PutUntilItWorks("b", "new");
  Open();
  EXPECT_EQ(objects_, (std::map<std::string, std::string>{{"a", "old"}, {"b", "new"}}));
}

TEST(PoolLogTargetTest, ASlowStartMakesCheckpointsMoreFrequentAndAFastOneDoesNot) {
  constexpr std::uint64_t kMs = 2000, kAssumed = kMs * PoolLog::kReplayBytesPerMs;
  constexpr TimeNs kSecond = 1'000'000'000;
  EXPECT_EQ(PoolLog::BytesReplayedIn(kMs, 0, 0), kAssumed);
  EXPECT_EQ(PoolLog::BytesReplayedIn(kMs, 1 << 20, kSecond), kAssumed) << "that tells nothing";
  EXPECT_EQ(PoolLog::BytesReplayedIn(kMs, 1 << 30, kSecond), kAssumed);
  const std::uint64_t slow = PoolLog::BytesReplayedIn(kMs, 128 << 20, kSecond);
  EXPECT_LE(slow, 128u << 20) << "read twice, 64 MiB of a log in a second";
  EXPECT_GT(slow, 120u << 20);
}

TEST_F(PoolLogTest, TwoCannotUseOneFolder) {
  const auto other = FolderMedium::OpenFolder(path_);
  EXPECT_TRUE(absl::IsFailedPrecondition(other.status())) << other.status();
}

}  // namespace
}  // namespace apta::daemon::log
