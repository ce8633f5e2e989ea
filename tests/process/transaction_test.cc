// What a program may expect of Transaction and Client::GetMany, in every coherence mode, over one
// shard and several.

#include <gtest/gtest.h>

#include <atomic>
#include <charconv>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <vector>

#include "apta/apta.h"
#include "fmt/format.h"
#include "tests/process/aptad.h"

namespace apta {
namespace {

using test::Folder;
using test::Scaled;

std::string TextOf(const absl::StatusOr<Object>& object) {
  return object.ok() ? std::string(AsText(object->bytes())) : object.status().ToString();
}
long NumberOf(const Object& object) {
  const std::string_view text = AsText(object.bytes());
  long number = -1;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

class TransactionTest : public ::testing::TestWithParam<std::tuple<const char*, int>> {
 protected:
  void SetUp() override {
    ServerOptions options{.socket = folder_ / "socket", .shards = std::get<1>(GetParam())};
    options.pools[0].bytes = 64 << 20;
    options.pools[0].coherence = std::get<0>(GetParam());
    auto server = MemoryServer::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_.emplace(*std::move(server));
  }
  Client Connect() { return *Client::Connect({.socket = server_->socket()}); }
  static absl::StatusOr<Version> PutAll(Client* client, const std::vector<std::string>& keys,
                                        const std::string& value) {
    Transaction transaction = client->Begin();
    for (const std::string& key : keys) transaction.Put(key, AsBytes(value));
    return transaction.Commit();
  }

  static auto Many(Client* client, const std::vector<std::string>& keys) {
    return client->GetMany(keys);
  }
  bool is_lazy() const { return std::string_view(std::get<0>(GetParam())) == "lazy"; }

  Folder folder_;
  std::optional<MemoryServer> server_;
};

TEST_P(TransactionTest, AllOfItHasOneVersion) {
  Client writer = Connect();
  Client reader = Connect();
  const std::vector<std::string> keys = {"a", "b", "c", "d", "e", "f"};
  ASSERT_TRUE(writer.Put("a", AsBytes("before")).ok());
  ASSERT_TRUE(writer.Put("gone", AsBytes("before")).ok());
  EXPECT_EQ(TextOf(reader.Get("a")), "before");
  Transaction transaction = writer.Begin();
  for (const std::string& key : keys) transaction.Put(key, AsBytes("value of " + key));
  transaction.Put("b", AsBytes("the last one counts"));
  transaction.Delete("gone");
  transaction.Delete("never there");
  EXPECT_EQ(TextOf(writer.Get("a")), "before") << "kept back";
  const auto version = transaction.Commit();
  ASSERT_TRUE(version.ok()) << version.status();
  std::vector<Client*> clients = {&writer};
  if (!is_lazy()) clients.push_back(&reader);  // its hits may be old
  for (Client* client : clients) {
    for (const std::string& key : keys) {
      const auto object = client->Get(key);
      ASSERT_TRUE(object.ok()) << object.status();
      EXPECT_EQ(object->version(), *version) << key;
    }
    EXPECT_EQ(TextOf(client->Get("b")), "the last one counts");
    EXPECT_TRUE(absl::IsNotFound(client->Get("gone").status()));
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(transaction.Commit().status())) << "once";
  const auto next = writer.Begin().Commit();
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_GT(*next, *version) << "of nothing, a version all the same";
}

TEST_P(TransactionTest, AConditionThatDoesNotHoldChangesNothingAndNamesItsKey) {
  Client client = Connect();
  const auto first = client.Put("a", AsBytes("1"));
  ASSERT_TRUE(client.Put("b", AsBytes("1")).ok());
  const std::vector<PoolInfo> before = *client.Pools();
  const auto attempt = [&](Version of_b, Version of_new) {
    Transaction transaction = client.Begin();
    transaction.Put("a", AsBytes("2"), {.if_version = *first});
    transaction.Delete("b", {.if_version = of_b});
    transaction.Put("new", AsBytes(std::string(100'000, 'n')), {.if_version = of_new});
    return transaction.Commit();
  };
  const absl::Status moved = attempt(77, 0).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(moved)) << moved;
  EXPECT_NE(moved.message().find(" b: "), moved.message().npos) << moved;
  const Version of_b = client.Get("b")->version();
  const absl::Status absent = attempt(of_b, 5).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(absent)) << absent;
  EXPECT_NE(absent.message().find(" new: "), absent.message().npos) << absent;
  EXPECT_EQ(TextOf(client.Get("a")), "1");
  EXPECT_EQ(TextOf(client.Get("b")), "1");
  EXPECT_TRUE(test::Eventually([&] {
    return (*client.Pools())[0].bytes_used == before[0].bytes_used;
  })) << "drafts are gone";
  EXPECT_EQ((*client.Pools())[0].objects, 2u);
  EXPECT_TRUE(attempt(of_b, 0).ok());
  EXPECT_EQ((*client.Pools())[0].objects, 2u);
  EXPECT_EQ(client.Get("new")->size(), 100'000u);
}

TEST_P(TransactionTest, WhatCannotBeRightIsCommitsError) {
  Client client = Connect();
  Transaction bad_key = client.Begin();
  bad_key.Put("good", AsBytes("1"));
  bad_key.Put("", AsBytes("1"));
  EXPECT_TRUE(absl::IsInvalidArgument(bad_key.Commit().status()));
  Transaction contradiction = client.Begin();
  contradiction.Put("good", AsBytes("1"), {.if_version = 1});
  contradiction.Delete("good", {.if_version = 2});
  EXPECT_TRUE(absl::IsInvalidArgument(contradiction.Commit().status()));
  Transaction too_many = client.Begin();
  for (int i = 0; i < 4097; ++i) too_many.Delete(std::to_string(i));
  EXPECT_TRUE(absl::IsInvalidArgument(too_many.Commit().status()));
  Transaction too_large = client.Begin();
  const std::vector<std::byte> half(20 << 20);
  for (int i = 0; i < 8; ++i) too_large.Put(std::to_string(i), half);
  const absl::Status full = too_large.Commit().status();
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_TRUE(test::Eventually([&] { return (*client.Pools())[0].bytes_used == 0; }))
      << "nothing is left of any of them";
  EXPECT_EQ((*client.Pools())[0].objects, 0u);
}

TEST_P(TransactionTest, ManyKeysCommitTogether) {
  Client client = Connect();
  std::vector<std::string> keys;
  for (int i = 0; i < 4096; ++i) keys.push_back(fmt::format("key {}", i));
  const auto version = PutAll(&client, keys, "x");
  ASSERT_TRUE(version.ok()) << version.status();
  const auto objects = Connect().GetMany(keys);
  ASSERT_TRUE(objects.ok()) << objects.status();
  for (const Object& object : *objects) EXPECT_EQ(object.version(), *version);
  Transaction transaction = client.Begin();
  for (const std::string& key : keys) transaction.Delete(key);
  EXPECT_TRUE(transaction.Commit().ok());
  EXPECT_EQ((*client.Pools())[0].objects, 0u);
}

TEST_P(TransactionTest, GetManyBringsObjectsInOrderOrSaysWhichIsMissing) {
  Client writer = Connect();
  Client reader = Connect();
  ASSERT_TRUE(PutAll(&writer, {"a", "b", "c"}, "1").ok());
  for (int round = 0; round < 3; ++round) {
    const auto objects = Many(&reader, {"c", "a", "b", "a"});
    ASSERT_TRUE(objects.ok()) << objects.status();
    ASSERT_EQ(objects->size(), 4u);
    EXPECT_EQ((*objects)[0].key(), "c");
    EXPECT_EQ((*objects)[1].key(), "a");
    EXPECT_EQ((*objects)[3].key(), "a");
  }
  if (std::string_view(std::get<0>(GetParam())) == "strict") {
    // What was read while its home slept is no hit yet.
    for (const char* key : {"a", "b", "c"}) ASSERT_TRUE(test::BecomeSharer(reader, key));
    const ClientStats before = reader.stats();
    ASSERT_TRUE(Many(&reader, {"c", "a", "b"}).ok());
    EXPECT_EQ(reader.stats().hits - before.hits, 3u);
    EXPECT_EQ(reader.stats().misses, before.misses);
  }
  EXPECT_TRUE(Many(&reader, {})->empty());
  const absl::Status missing = Many(&reader, {"a", "nothing"}).status();
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_NE(missing.message().find("nothing"), missing.message().npos);
  EXPECT_TRUE(absl::IsInvalidArgument(Many(&reader, {"a", ""}).status()));
}

// Money moves between accounts; whoever looks at all of them sees all of it.
TEST_P(TransactionTest, TheSumOfAllAccountsIsConstant) {
  constexpr int kAccounts = 6;
  constexpr long kEach = 100;
  const int transfers = Scaled(400);
  std::vector<std::string> accounts;
  for (int i = 0; i < kAccounts; ++i) accounts.push_back(fmt::format("account {}", i));
  Client bank = Connect();
  ASSERT_TRUE(PutAll(&bank, accounts, std::to_string(kEach)).ok());
  std::atomic<int> left{transfers};
  std::atomic<int> moved{0}, refused{0};
  const auto transfer = [&](Client* client, unsigned seed) {
    std::mt19937 random(seed);
    while (left.load() > 0) {
      const std::size_t from = random() % kAccounts;
      const std::size_t to = (from + 1 + random() % (kAccounts - 1)) % kAccounts;
      const auto source = client->Get(accounts[from]);
      const auto target = client->Get(accounts[to]);
      ASSERT_TRUE(source.ok() && target.ok());
      const long amount = static_cast<long>(random() % 10);
      Transaction transaction = client->Begin();
      transaction.Put(accounts[from], AsBytes(std::to_string(NumberOf(*source) - amount)),
                      {.if_version = source->version()});
      transaction.Put(accounts[to], AsBytes(std::to_string(NumberOf(*target) + amount)),
                      {.if_version = target->version()});
      const auto version = transaction.Commit();
      if (version.ok()) {
        left.fetch_sub(1);
        ++moved;
      } else {
        ASSERT_TRUE(absl::IsFailedPrecondition(version.status())) << version.status();
        ++refused;
      }
    }
  };
  std::atomic<int> cuts{0};
  const auto look = [&](Client* client) {
    while (left.load() > 0 || cuts.load() == 0) {
      const auto cut = client->GetMany(accounts);
      ASSERT_TRUE(cut.ok()) << cut.status();
      long sum = 0;
      for (const Object& account : *cut) sum += NumberOf(account);
      ASSERT_EQ(sum, kEach * kAccounts);
      ++cuts;
    }
  };
  std::vector<Client> clients;
  for (int i = 0; i < 4; ++i) clients.push_back(Connect());
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 2; ++i) threads.emplace_back([&, i] { transfer(&clients[i], i); });
  threads.emplace_back([&] { transfer(&clients[0], 77); });  // shares its cache with another
  threads.emplace_back([&] { look(&clients[1]); });
  for (unsigned i = 2; i < 4; ++i) threads.emplace_back([&, i] { look(&clients[i]); });
  for (std::thread& thread : threads) thread.join();
  fmt::print("{} transfers, {} refused, {} cuts\n", moved.load(), refused.load(), cuts.load());
}

// Who has seen one key of a transaction anew finds no other one as it was: by plain gets.
TEST_P(TransactionTest, NobodyReadsBackwardsAcrossKeys) {
  if (is_lazy()) GTEST_SKIP() << "a lazy hit may be old, of whatever key";
  const std::vector<std::string> keys = {"one", "two", "three", "four", "five"};
  Client writer = Connect();
  ASSERT_TRUE(PutAll(&writer, keys, "0").ok());
  std::atomic<bool> done{false};
  std::vector<Client> readers;
  for (int i = 0; i < 2; ++i) readers.push_back(Connect());
  std::vector<std::thread> threads;
  for (Client& reader : readers) {
    threads.emplace_back([&, seed = static_cast<unsigned>(threads.size())] {
      std::mt19937 random(seed);
      long seen = 0;
      while (!done.load()) {
        const auto object = reader.Get(keys[random() % keys.size()]);
        ASSERT_TRUE(object.ok()) << object.status();
        ASSERT_GE(NumberOf(*object), seen);
        seen = NumberOf(*object);
      }
    });
  }
  for (int i = 1; i <= Scaled(400); ++i) {
    const auto version = PutAll(&writer, keys, std::to_string(i));
    ASSERT_TRUE(version.ok()) << version.status();
  }
  done.store(true);
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(Modes, TransactionTest,
                         ::testing::Combine(::testing::Values("strict", "lazy", "sync", "versioned",
                                                              "uncached"),
                                            ::testing::Values(1, 4)),
                         [](const auto& param) {
                           return fmt::format("{}On{}", std::get<0>(param.param),
                                              std::get<1>(param.param));
                         });

}  // namespace
}  // namespace apta
