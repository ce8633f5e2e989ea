// A strict pool is linearizable: real time, kept in shared memory beside Āpta, decides.

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>

#include "fmt/format.h"
#include "tests/process/aptad.h"
#include "tests/process/page.h"

namespace apta {
namespace {

using test::Aptad;
using test::ConnectTo;
using test::Folder;
using test::Other;
using test::SharedPage;

constexpr int kReaders = 3;
constexpr int kThreads = 2;
constexpr const char* kKey = "the key";

// One key's history as it was in real time.
struct History {
  std::atomic<std::uint64_t> begun;  // puts and deletes that have begun
  std::atomic<std::uint64_t> ended;  // and those that were acknowledged
  std::atomic<Version> last;         // acknowledged; valid while begun == ended
  std::atomic<std::uint64_t> last_exists;
  std::atomic<Version> seen;  // the newest that any reader got, or writer was told of
  std::atomic<std::uint64_t> exact_reads;
  std::atomic<std::uint64_t> reads;
  std::atomic<std::uint64_t> stop;
};

void Raise(std::atomic<Version>* word, Version version) {
  Version now = word->load();
  while (now < version && !word->compare_exchange_weak(now, version)) {
  }
}

// A version that is whole consists of one byte.
bool IsWhole(const Object& object) {
  return std::all_of(object.bytes().begin(), object.bytes().end(),
                     [&](std::byte byte) { return byte == object.bytes().front(); });
}

class Reader {
 public:
  Reader(Client* client, History* history) : client_(*client), history_(*history) {}

  bool Run() {
    while (history_.stop.load() == 0) {
      if (!ReadOnce()) return false;
      sched_yield();  // or two cores are the readers' alone
    }
    return true;
  }

 private:
  bool ReadOnce() {
    const Version floor = history_.seen.load();
    const std::uint64_t begun = history_.begun.load();
    const bool was_quiet = history_.ended.load() == begun;
    const Version last = history_.last.load();
    const bool exists = history_.last_exists.load() != 0;
    const absl::StatusOr<Object> object = client_.Get(kKey);
    const bool is_quiet = was_quiet && history_.begun.load() == begun;
    ++history_.reads;
    if (is_quiet) ++history_.exact_reads;
    if (!object.ok()) {
      // Nothing was put or deleted meanwhile: there is exactly one right answer.
      if (absl::IsNotFound(object.status()) && !(is_quiet && exists)) return true;
      return Fail(fmt::format("{} where version {} is", object.status().ToString(), last));
    }
    Raise(&history_.seen, object->version());
    if (object->version() < floor) {
      return Fail(fmt::format("version {} after {} was seen", object->version(), floor));
    }
    if (is_quiet && (!exists || object->version() != last)) {
      return Fail(fmt::format("version {} where {} {}", object->version(),
                              exists ? "there is" : "it was deleted by", last));
    }
    if (!IsWhole(*object)) return Fail(fmt::format("version {} is torn", object->version()));
    return true;
  }
  static bool Fail(const std::string& what) {
    fmt::print(stderr, "reader {}: {}\n", getpid(), what);
    return false;
  }

  Client& client_;
  History& history_;
};

int RunReader(const std::string& socket, History* history) {
  Client client = ConnectTo(socket, fmt::format("reader-{}", getpid()));
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] { failures += !Reader(&client, history).Run(); });
  }
  for (std::thread& thread : threads) thread.join();
  return failures.load();
}

int RunWriter(const std::string& socket, History* history, int operations) {
  Client client = ConnectTo(socket, fmt::format("writer-{}", getpid()));
  std::mt19937_64 random(1);
  for (int i = 0; i < operations && history->stop.load() == 0; ++i) {
    const bool deletes = history->last_exists.load() != 0 && random() % 10 == 0;
    const std::size_t size = random() % 50 == 0 ? 100'000 : 1 + random() % 300;
    ++history->begun;
    const absl::StatusOr<Version> version =
        deletes ? client.Delete(kKey) : client.Put(kKey, Bytes(size, static_cast<std::byte>(i)));
    if (!version.ok()) {
      fmt::print(stderr, "writer: {}\n", version.status().ToString());
      return 1;
    }
    history->last.store(*version);
    history->last_exists.store(deletes ? 0 : 1);
    Raise(&history->seen, *version);
    ++history->ended;
    // Our own reads too; and every now and then the readers' turn, so that some meet no put.
    if (!deletes && client.Get(kKey)->version() < *version) {
      fmt::print(stderr, "writer: got what is older than its own put\n");
      return 1;
    }
    for (std::uint64_t turns = random() % 4; turns > 0; --turns) sched_yield();
  }
  return 0;
}

// role: reader | writer, socket, page, operations.
int RunRole(const std::vector<std::string>& role) {
  SharedPage<History> history(role[2]);
  return role[0] == "reader" ? RunReader(role[1], history.operator->())
                             : RunWriter(role[1], history.operator->(), std::stoi(role[3]));
}

TEST(StrictTest, NobodyReadsWhatIsOlderThanWhatAnybodyHasSeen) {
  Folder folder;
  const std::string socket = folder / "s";
  Aptad aptad({"--socket", socket, "--pool", "bytes=64MiB"});
  SharedPage<History> history;
  std::vector<std::unique_ptr<Other>> readers;
  for (int i = 0; i < kReaders; ++i) {
    readers.push_back(
        std::make_unique<Other>(std::vector<std::string>{"reader", socket, history.name()}));
  }
  ASSERT_TRUE(test::Eventually([&] { return history->reads.load() > 100; }));
  const int operations = test::Scaled(300'000);
  EXPECT_EQ(Other({"writer", socket, history.name(), std::to_string(operations)}).Wait(), 0);
  history->stop.store(1);
  for (const auto& reader : readers) EXPECT_EQ(reader->Wait(), 0);
  EXPECT_GT(history->exact_reads.load(), 0u);
  std::printf("%llu reads, %llu of them between two puts\n",
              static_cast<unsigned long long>(history->reads.load()),
              static_cast<unsigned long long>(history->exact_reads.load()));
}

}  // namespace
}  // namespace apta

int main(int argc, char** argv) { return apta::test::RoleMain(argc, argv, apta::RunRole); }
