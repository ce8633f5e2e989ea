// What a program may expect of Client, Object and Draft, against a real aptad.

#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <numeric>
#include <set>

#include "fmt/format.h"
#include "tests/process/aptad.h"

namespace apta {
namespace {

using test::Aptad;
using test::ConnectTo;
using test::Eventually;
using test::Folder;

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMiB = 1024 * kKiB;

// Differs between seeds and within itself.
Bytes Pattern(std::size_t size, unsigned seed) {
  Bytes bytes(size);
  std::uint32_t state = seed * 2654435761u + 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

class ApiTest : public ::testing::Test {
 protected:
  Client Connect(const std::string& node, const std::string& pool = "default") {
    return ConnectTo(socket(), node, pool);
  }
  std::string socket() const { return folder_ / "s"; }
  PoolInfo PoolNamed(const std::string& name) {
    const auto pools = client_.Pools();
    EXPECT_TRUE(pools.ok()) << pools.status();
    for (const PoolInfo& pool : *pools) {
      if (pool.name == name) return pool;
    }
    ADD_FAILURE() << "no pool " << name;
    return {};
  }
  // Old versions go only when their readers have said so.
  bool UsesEventually(const std::string& pool, std::uint64_t bytes) {
    return Eventually([&] {
      const PoolInfo now = PoolNamed(pool);
      return now.bytes_used == bytes && now.bytes_held == 0;
    });
  }

  Folder folder_;
  Aptad aptad_{{"--socket", folder_ / "s", "--shards", "2", "--pool", "bytes=64MiB", "--pool",
                "name=trusted,bytes=64MiB,access=trusted"}};
  Client client_ = Connect("a");
};

TEST_F(ApiTest, KeysThatCannotBeRightAreRefusedByEveryVerb) {
  for (const std::string& key : {std::string(), std::string(1025, 'k'), std::string("a\0b", 3)}) {
    SCOPED_TRACE(fmt::format("a key of {} bytes", key.size()));
    const Bytes value = Pattern(10, 1);
    EXPECT_TRUE(absl::IsInvalidArgument(client_.Get(key).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(client_.Put(key, value).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(client_.Delete(key).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(client_.Stat(key).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(client_.Create(key, 10).status()));
  }
  EXPECT_EQ(client_.List("")->size(), 0u);
}

TEST_F(ApiTest, AnyOtherKeyIsGood) {
  for (const std::string& key : {std::string(1, '\n'), std::string(1024, 'k'), std::string("/../"),
                                 std::string("ключ"), std::string("\xff\xfe")}) {
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, 300 * kKiB}) {
      const Bytes value = Pattern(size, 2);
      ASSERT_TRUE(client_.Put(key, value).ok());
      const auto object = client_.Get(key);
      ASSERT_TRUE(object.ok()) << object.status();
      EXPECT_EQ(object->key(), key);
      EXPECT_EQ(object->bytes(), BytesView(value));
    }
  }
  EXPECT_EQ(client_.List("")->size(), 5u);
}

TEST_F(ApiTest, EverySizeComesBackAsItWent) {
  Client reader = Connect("b");
  unsigned seed = 0;
  for (const std::size_t around :
       {std::size_t{1}, std::size_t{64}, std::size_t{205}, std::size_t{256}, 4 * kKiB, 32 * kKiB,
        64 * kKiB, 128 * kKiB, 192 * kKiB, kMiB, 8 * kMiB}) {
    for (const std::size_t size : {around - 1, around, around + 1}) {
      const Bytes value = Pattern(size, ++seed);
      ASSERT_TRUE(client_.Put("k", value).ok()) << size;
      for (Client* client : {&client_, &reader}) {
        const auto object = client->Get("k");
        ASSERT_TRUE(object.ok()) << object.status();
        EXPECT_TRUE(object->bytes() == BytesView(value)) << size;
      }
    }
  }
}

TEST_F(ApiTest, AnObjectThatThePoolCanNeverHoldIsRefusedAndNothingChanges) {
  ASSERT_TRUE(client_.Put("k", AsBytes("before")).ok());
  const PoolInfo before = PoolNamed("default");
  const Bytes large(65 * kMiB);
  const absl::Status status = client_.Put("k", large).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_NE(status.message().find("pool default"), absl::string_view::npos) << status;
  EXPECT_EQ(AsText(client_.Get("k")->bytes()), "before");
  EXPECT_EQ(PoolNamed("default").bytes_used, before.bytes_used);
  EXPECT_EQ(PoolNamed("default").last_version, before.last_version);
}

TEST_F(ApiTest, AFullPoolRefusesPutsAndGoesOnAfterADelete) {
  const Bytes value = Pattern(kMiB, 3);
  std::size_t stored = 0;
  absl::Status status;
  while (stored < 64 && (status = client_.Put(fmt::format("k{}", stored), value).status()).ok()) {
    ++stored;
  }
  ASSERT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_NE(status.message().find("default"), absl::string_view::npos) << status;
  EXPECT_GT(stored, 40u);
  for (std::size_t i = 0; i < stored; ++i) {
    EXPECT_TRUE(client_.Get(fmt::format("k{}", i))->bytes() == BytesView(value)) << i;
  }
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(client_.Delete(fmt::format("k{}", i)).ok());
  EXPECT_TRUE(client_.Put("again", value).ok());
}

TEST_F(ApiTest, IfVersionDecidesPutsAndDeletes) {
  const auto only_new = client_.Put("k", AsBytes("1"), {.if_version = 0});
  ASSERT_TRUE(only_new.ok()) << only_new.status();
  EXPECT_TRUE(
      absl::IsFailedPrecondition(client_.Put("k", AsBytes("2"), {.if_version = 0}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(
      client_.Put("k", AsBytes("2"), {.if_version = *only_new + 1}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(
      client_.Put("k", Pattern(kMiB, 4), {.if_version = *only_new + 1}).status()));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(client_.Delete("k", {.if_version = *only_new + 1}).status()));
  EXPECT_EQ(AsText(client_.Get("k")->bytes()), "1");
  const auto second = client_.Put("k", AsBytes("2"), {.if_version = *only_new});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_GT(*second, *only_new);
  ASSERT_TRUE(client_.Delete("k", {.if_version = *second}).ok());
  EXPECT_TRUE(
      absl::IsFailedPrecondition(client_.Put("k", AsBytes("3"), {.if_version = *second}).status()));
  EXPECT_TRUE(client_.Put("k", AsBytes("3"), {.if_version = 0}).ok());
}

TEST_F(ApiTest, OneOfManyCompareAndSwapsWins) {
  constexpr int kThreads = 8;
  const int rounds = test::Scaled(500);
  ASSERT_TRUE(client_.Put("n", AsBytes("0")).ok());
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Client client = Connect(fmt::format("swapper-{}", t));
      for (int won = 0; won < rounds;) {
        const Object now = *client.Get("n");
        const std::string next = std::to_string(std::stoi(std::string(AsText(now.bytes()))) + 1);
        won += client.Put("n", AsBytes(next), {.if_version = now.version()}).ok();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(AsText(client_.Get("n")->bytes()), std::to_string(kThreads * rounds));
}

TEST_F(ApiTest, ADeletedObjectIsGoneForEverybody) {
  Client other = Connect("b");
  const Version put = *client_.Put("k", AsBytes("v"));
  const Object held = *other.Get("k");
  const auto deleted = client_.Delete("k");
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  EXPECT_GT(*deleted, put);
  for (Client* client : {&client_, &other}) {
    EXPECT_TRUE(absl::IsNotFound(client->Get("k").status()));
    EXPECT_TRUE(absl::IsNotFound(client->Stat("k").status()));
    EXPECT_TRUE(absl::IsNotFound(client->Delete("k").status()));
  }
  EXPECT_EQ(AsText(held.bytes()), "v");
  EXPECT_GT(*client_.Put("k", AsBytes("w")), *deleted);
}

TEST_F(ApiTest, ListPagesThroughThePrefixInOrder) {
  std::set<std::string> expected;
  for (int i = 0; i < 250; ++i) {
    const std::string key = fmt::format("list/{}", i * 7919 % 1000);
    expected.insert(key);
    ASSERT_TRUE(client_.Put(key, Pattern(static_cast<std::size_t>(i), 5)).ok());
    ASSERT_TRUE(client_.Put(fmt::format("other/{}", i), {}).ok());
  }
  std::vector<std::string> listed;
  for (std::string after;;) {
    const auto page = client_.List("list/", 33, after);
    ASSERT_TRUE(page.ok()) << page.status();
    if (page->empty()) break;
    EXPECT_LE(page->size(), 33u);
    for (const ObjectInfo& object : *page) {
      listed.push_back(object.key);
      EXPECT_EQ(object.size, client_.Get(object.key)->size());
      EXPECT_EQ(object.version, client_.Get(object.key)->version());
    }
    after = listed.back();
  }
  EXPECT_EQ(listed, std::vector<std::string>(expected.begin(), expected.end()));
  EXPECT_TRUE(client_.List("list/", 0)->empty());
  EXPECT_TRUE(client_.List("none")->empty());
  EXPECT_EQ(client_.List("", 1000)->size(), expected.size() + 250);
}

TEST_F(ApiTest, StatCountsSharersAndIsNone) {
  Client b = Connect("b");
  Client c = Connect("c");
  // Too large to be read without a home that sleeps: no agent asks for it later.
  ASSERT_TRUE(client_.Put("k", Pattern(5000, 6)).ok());
  EXPECT_EQ(c.Stat("k")->sharers, 1u);
  ASSERT_TRUE(b.Get("k").ok());
  EXPECT_EQ(c.Stat("k")->sharers, 2u);
  const Version version = *c.Put("k", Pattern(5001, 6));
  const auto info = b.Stat("k");
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->sharers, 1u);
  EXPECT_EQ(info->key, "k");
  EXPECT_EQ(info->size, 5001u);
  EXPECT_EQ(info->version, version);
}

TEST_F(ApiTest, StatsCountHitsMissesPutsAndInvalidations) {
  Client reader = Connect("b");
  // Too large to be read without a home that sleeps.
  ASSERT_TRUE(client_.Put("k", Pattern(5000, 7)).ok());
  EXPECT_EQ(client_.stats().puts, 1u);
  {
    const Object held = *reader.Get("k");
    for (int i = 0; i < 9; ++i) ASSERT_TRUE(reader.Get("k").ok());
    const ClientStats stats = reader.stats();
    EXPECT_EQ(stats.misses, 1u);
    EXPECT_EQ(stats.hits, 9u);
    EXPECT_EQ(stats.objects_cached, 1u);
    EXPECT_EQ(stats.bytes_cached, 5000u);
    EXPECT_EQ(stats.bytes_pinned, 5000u);
  }
  EXPECT_EQ(reader.stats().bytes_pinned, 0u);
  ASSERT_TRUE(client_.Put("k", Pattern(5010, 8)).ok());
  EXPECT_EQ(reader.Get("k")->size(), 5010u);
  EXPECT_EQ(reader.stats().misses, 2u);
  EXPECT_EQ(reader.stats().invalidations_applied, 1u);
}

TEST_F(ApiTest, TheCacheKeepsToItsLimit) {
  auto small = Client::Connect({.socket = socket(), .node = "small", .cache_bytes = 65 * kKiB});
  ASSERT_TRUE(small.ok()) << small.status();
  // Too large to be read without a home that sleeps, which caches nothing.
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(client_.Put(fmt::format("k{}", i), Pattern(5 * kKiB, 9)).ok());
  }
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 100; ++i) {
      const auto object = small->Get(fmt::format("k{}", i));
      ASSERT_TRUE(object.ok()) << object.status();
      EXPECT_TRUE(object->bytes() == BytesView(Pattern(5 * kKiB, 9)));
      EXPECT_LE(small->stats().bytes_cached, 65 * kKiB);
    }
  }
  EXPECT_GT(small->stats().evictions, 0u);
}

TEST_F(ApiTest, ObjectsOutliveOverwritesDeletesAndTheirClient) {
  const Bytes value = Pattern(3 * kMiB, 10);
  const std::uint64_t empty_bytes = PoolNamed("default").bytes_used;
  ASSERT_TRUE(client_.Put("k", value).ok());
  std::vector<Object> held;
  {
    Client reader = Connect("b");
    for (int i = 0; i < 10; ++i) held.push_back(*reader.Get("k"));
  }
  ASSERT_TRUE(client_.Put("k", Pattern(3 * kMiB, 11)).ok());
  ASSERT_TRUE(client_.Delete("k").ok());
  // The heap is used over and over; what is held must not be.
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(client_.Put("z", Pattern(3 * kMiB, 12)).ok());
  std::vector<Object> copies(held);
  held.clear();
  for (const Object& object : copies) EXPECT_TRUE(object.bytes() == BytesView(value));
  copies.clear();
  ASSERT_TRUE(client_.Delete("z").ok());
  EXPECT_TRUE(UsesEventually("default", empty_bytes));
  EXPECT_TRUE(Eventually([&] { return client_.Nodes()->size() == 1; }));  // the lingering one left
}

TEST_F(ApiTest, AThousandPinnedVersionsAndMoreStayWhole) {
  constexpr int kVersions = 1500;  // more than the hold table has slots
  const std::uint64_t empty_bytes = PoolNamed("default").bytes_used;
  Client reader = Connect("b");
  std::vector<Object> held;
  for (int i = 0; i < kVersions; ++i) {
    ASSERT_TRUE(client_.Put("k", AsBytes(fmt::format("version {}", i))).ok());
    held.push_back(*reader.Get("k"));
  }
  for (int i = 0; i < kVersions; ++i) {
    ASSERT_EQ(AsText(held[static_cast<std::size_t>(i)].bytes()), fmt::format("version {}", i));
  }
  held.clear();
  ASSERT_TRUE(client_.Delete("k").ok());
  EXPECT_TRUE(UsesEventually("default", empty_bytes));
}

TEST_F(ApiTest, ANodeThatNeverReadsItsInvalidationsMissesNone) {
  constexpr int kPuts = 3000;  // more than the invalidation ring has records
  Client reader = Connect("b");
  for (int i = 0; i < kPuts; ++i) {
    const std::string key = fmt::format("k{}", i % 100);
    ASSERT_TRUE(client_.Put(key, AsBytes(std::to_string(i))).ok());
    if (i % 100 == 99 && i < kPuts - 100) {
      for (int k = 0; k < 100; ++k) ASSERT_TRUE(reader.Get(fmt::format("k{}", k)).ok());
    }
  }
  for (int k = 0; k < 100; ++k) {
    EXPECT_EQ(AsText(reader.Get(fmt::format("k{}", k))->bytes()), std::to_string(kPuts - 100 + k));
  }
}

TEST_F(ApiTest, MoreThreadsThanLanesShareOneClient) {
  constexpr int kThreads = 100;
  const int rounds = test::Scaled(200);
  std::barrier start(kThreads);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      start.arrive_and_wait();
      const std::string key = fmt::format("thread-{}", t);
      for (int i = 0; i < rounds; ++i) {
        const Bytes value = Pattern(static_cast<std::size_t>(i % 10 == 0 ? 200'000 : i),
                                    static_cast<unsigned>(t * 1000 + i));
        const auto put = client_.Put(key, value);
        const auto got = client_.Get(key);
        wrong +=
            !put.ok() || !got.ok() || got->version() != *put || got->bytes() != BytesView(value);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST_F(ApiTest, ADraftIsInvisibleUntilItIsCommittedOnce) {
  for (const char* pool : {"default", "trusted"}) {
    SCOPED_TRACE(pool);
    Client writer = Connect("w", pool);
    Client reader = Connect("r", pool);
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, 64 * kKiB, 3 * kMiB}) {
      const Bytes value = Pattern(size, 13);
      const std::string key = fmt::format("d{}", size);
      auto draft = writer.Create(key, size);
      ASSERT_TRUE(draft.ok()) << draft.status();
      ASSERT_EQ(draft->bytes().size(), size);
      std::copy(value.begin(), value.end(), draft->bytes().begin());
      EXPECT_TRUE(absl::IsNotFound(reader.Get(key).status()));
      const auto version = draft->Commit();
      ASSERT_TRUE(version.ok()) << version.status();
      const auto object = reader.Get(key);
      ASSERT_TRUE(object.ok()) << object.status();
      EXPECT_EQ(object->version(), *version);
      EXPECT_TRUE(object->bytes() == BytesView(value));
      EXPECT_TRUE(absl::IsFailedPrecondition(draft->Commit().status()));
      EXPECT_EQ(reader.Get(key)->version(), *version);
    }
  }
}

TEST_F(ApiTest, LargePutsIntoATrustedPoolComeBackWholeAndKeepNothing) {
  Client writer = Connect("w", "trusted"), reader = Connect("r", "trusted");
  const std::uint64_t used_bytes = PoolNamed("trusted").bytes_used;
  for (const std::size_t size : {32 * kKiB - 1, 32 * kKiB, kMiB + 3, 9 * kMiB}) {
    SCOPED_TRACE(size);
    Version last = 0;
    for (unsigned seed = 20; seed < 24; ++seed) {
      const Bytes value = Pattern(size, seed);
      const auto version = writer.Put("large", value);
      ASSERT_TRUE(version.ok()) << version.status();
      EXPECT_GT(*version, std::exchange(last, *version));
      for (Client* client : {&writer, &reader}) {
        const auto object = client->Get("large");
        ASSERT_TRUE(object.ok()) << object.status();
        EXPECT_EQ(object->version(), *version);
        EXPECT_TRUE(object->bytes() == BytesView(value));
      }
    }
    const Bytes other = Pattern(size, 1);
    EXPECT_TRUE(
        absl::IsFailedPrecondition(writer.Put("large", other, {.if_version = last - 1}).status()));
    EXPECT_TRUE(writer.Put("large", other, {.if_version = last}).ok());
  }
  ASSERT_TRUE(writer.Delete("large").ok());
  EXPECT_TRUE(absl::IsNotFound(reader.Get("large").status()));
  EXPECT_TRUE(UsesEventually("trusted", used_bytes));
}

TEST_F(ApiTest, ADroppedDraftNeverHappened) {
  for (const char* pool : {"default", "trusted"}) {
    SCOPED_TRACE(pool);
    Client writer = Connect("w", pool);
    ASSERT_TRUE(writer.Put("k", AsBytes("before")).ok());
    const PoolInfo before = PoolNamed(pool);
    for (int i = 0; i < 200; ++i) ASSERT_TRUE(writer.Create("k", kMiB).ok());
    EXPECT_TRUE(UsesEventually(pool, before.bytes_used));
    EXPECT_EQ(PoolNamed(pool).last_version, before.last_version);
    EXPECT_EQ(AsText(writer.Get("k")->bytes()), "before");
  }
}

TEST_F(ApiTest, DraftsDroppedWhileOtherThreadsUploadAreGivenBack) {
  Client writer = Connect("w", "trusted");
  const Bytes large = Pattern(2 * kMiB, 14);
  ASSERT_TRUE(writer.Put("large", large).ok());
  const std::uint64_t used_bytes = PoolNamed("trusted").bytes_used;
  std::atomic<bool> stop{false};
  std::vector<std::thread> uploads;
  for (int t = 0; t < 3; ++t) {
    uploads.emplace_back([&] {
      while (!stop.load()) {
        const absl::Status status = writer.Put("large", large).status();
        EXPECT_TRUE(status.ok()) << status;
        if (!status.ok()) return;
      }
    });
  }
  ASSERT_TRUE(Eventually([&] { return writer.stats().puts > 10; }));
  const int drafts = test::Scaled(3000);  // more than the bad requests that get a node cut off
  for (int i = 0; i < drafts && !HasFailure(); ++i) {
    const auto draft = writer.Create(fmt::format("draft-{}", i), 100);
    EXPECT_TRUE(draft.ok()) << i << ": " << draft.status();
  }
  stop.store(true);
  for (std::thread& upload : uploads) upload.join();
  EXPECT_TRUE(UsesEventually("trusted", used_bytes)) << PoolNamed("trusted").bytes_used;
  EXPECT_EQ(writer.stats().reconnects, 0u);
}

TEST_F(ApiTest, ADraftOutlivesItsClient) {
  for (const char* pool : {"default", "trusted"}) {
    SCOPED_TRACE(pool);
    auto client = std::make_unique<Client>(Connect("w", pool));
    auto draft = client->Create("k", 5);
    ASSERT_TRUE(draft.ok()) << draft.status();
    client.reset();
    const std::string_view text = "hello";
    std::copy_n(AsBytes(text).begin(), text.size(), draft->bytes().begin());
    EXPECT_TRUE(draft->Commit().ok());
    EXPECT_EQ(AsText(Connect("r", pool).Get("k")->bytes()), text);
  }
}

TEST_F(ApiTest, ADraftLargerThanThePoolIsRefusedBeforeItCanBeFilled) {
  Client writer = Connect("w", "trusted");
  for (const std::size_t size : {65 * kMiB, std::size_t{1} << 50, ~std::size_t{0}}) {
    const absl::Status status = writer.Create("k", size).status();
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  }
  EXPECT_TRUE(writer.Put("k", AsBytes("v")).ok());
}

TEST_F(ApiTest, EveryPoolIsPopulatedWholeInTheEnd) {
  for (const char* name : {"default", "trusted"}) {
    SCOPED_TRACE(name);
    EXPECT_EQ(PoolNamed(name).bytes, 64u << 20);
    EXPECT_TRUE(Eventually([&] { return PoolNamed(name).bytes_populated == 64u << 20; }));
    EXPECT_NE(PoolNamed(name).page_bytes, 0u);
  }
}

TEST_F(ApiTest, PoolsAreSeparate) {
  Client other = Connect("b", "trusted");
  ASSERT_TRUE(client_.Put("k", AsBytes("default")).ok());
  EXPECT_TRUE(absl::IsNotFound(other.Get("k").status()));
  ASSERT_TRUE(other.Put("k", AsBytes("trusted")).ok());
  EXPECT_EQ(AsText(client_.Get("k")->bytes()), "default");
  const absl::Status status =
      Client::Connect({.socket = socket(), .pool = "none", .node = "n"}).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
}

TEST_F(ApiTest, OptionsThatCannotBeRightAreRefused) {
  const std::vector<ClientOptions> wrong = {
      {.socket = socket(), .pool = ""},
      {.socket = socket(), .pool = std::string(64, 'p')},
      {.socket = socket(), .node = std::string(128, 'n')},
      {.socket = socket(), .timeout = absl::ZeroDuration()},
      {.socket = std::string(200, 's')},
  };
  for (const ClientOptions& options : wrong) {
    const absl::Status status = Client::Connect(options).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  }
  const absl::Status nobody = Client::Connect({.socket = folder_ / "nobody"}).status();
  EXPECT_TRUE(absl::IsUnavailable(nobody)) << nobody;
}

// Far memory, without far memory: the same answers, from copies of this process's own.
TEST_F(ApiTest, AClientThatReadsFromCopiesSeesEveryPutAndKeepsWhatItReads) {
  auto reader = Client::Connect({.socket = socket(), .placement = Placement::kLocalCopy});
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::vector<Object> kept;
  for (int i = 0; i < 50; ++i) {
    const std::string value(static_cast<std::size_t>(i * 997), static_cast<char>('a' + i % 26));
    ASSERT_TRUE(client_.Put("key", AsBytes(value)).ok());
    for (int again = 0; again < 2; ++again) {
      absl::StatusOr<Object> got = reader->Get("key");
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(AsText(got->bytes()), value);
      kept.push_back(*got);
    }
  }
  for (std::size_t i = 0; i < kept.size(); ++i) EXPECT_EQ(kept[i].size(), i / 2 * 997);
  EXPECT_EQ(reader->stats().placement, Placement::kLocalCopy);
  // The small ones may have been read while the home slept.
  EXPECT_GE(reader->stats().hits, 45u);
  EXPECT_EQ(client_.stats().placement, Placement::kInPlace) << "this memory is near";
}

TEST_F(ApiTest, EverySlotCanBeTakenAndNoMore) {
  std::vector<Client> clients;
  absl::StatusOr<Client> next = absl::UnknownError("");
  while (clients.size() < 1000 &&
         (next = Client::Connect({.socket = socket(), .node = "n", .cache_bytes = 1 << 20})).ok()) {
    clients.push_back(*std::move(next));
  }
  EXPECT_EQ(clients.size(), 255u);  // and client_
  EXPECT_TRUE(absl::IsResourceExhausted(next.status())) << next.status();
  for (Client& client : clients) ASSERT_TRUE(client.Put("k", AsBytes("v")).ok());
  EXPECT_EQ(client_.Nodes()->size(), 256u);
  clients.clear();
  EXPECT_TRUE(Eventually([&] { return client_.Nodes()->size() == 1; }));
  EXPECT_TRUE(Client::Connect({.socket = socket(), .node = "n"}).ok());
}

}  // namespace
}  // namespace apta
