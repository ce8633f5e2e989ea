// The file of a region decays: bits flip, its end is missing. Whatever the place, the memory server
// starts and says what is lost, or says why it does not; nobody ever reads what was not put.

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <random>

#include "fabric/hash.h"
#include "fabric/index.h"
#include "fmt/format.h"
#include "tests/process/aptad.h"

namespace apta {
namespace {

using test::Aptad;
using test::ConnectTo;
using test::Eventually;
using test::Folder;
using test::PoolOf;

using Values = std::map<std::string, Bytes>;

class DamageTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kPoolBytes = 8 << 20;

  // True: it serves.
  bool StartAptad() {
    aptad_.emplace(std::vector<std::string>{
        "--socket", socket_, "--pool",
        fmt::format("bytes=8MiB,durability=region,scrub=1GiB,backing=file:{}", file_)});
    return aptad_->log().find("serving ") != std::string::npos;
  }
  int End(int signal) {
    const int code = aptad_->End(signal);
    aptad_.reset();
    return code;
  }
  // Objects of all sizes, some of them all in one bucket of the index.
  void PutAll(Client* client) {
    const std::uint64_t buckets = fabric::IndexBucketsFor(kPoolBytes);
    for (int i = 0, crowded = 0; i < 100 || crowded < 20; ++i) {
      const std::string key = fmt::format("object {}", i);
      const bool is_crowded = fabric::KeyHash(key) % buckets == 99;
      crowded += is_crowded ? 1 : 0;
      if (i >= 100 && !is_crowded) continue;
      Bytes value(i % 25 == 0 ? 100'000 : static_cast<std::size_t>(i % 40) * 97);
      for (std::byte& byte : value) byte = static_cast<std::byte>(random_());
      const auto version = client->Put(key, value);
      ASSERT_TRUE(version.ok()) << version.status();
      last_version_ = *version;
      values_[key] = std::move(value);
    }
  }
  // Until a round that began after this call has ended: there is none without a put.
  static void AwaitScrub(Client* client) {
    for (int round = 0; round < 2; ++round) {
      const std::uint64_t scrubs = PoolOf(*client).scrubs;
      ASSERT_TRUE(client->Put("a reason to look", {}).ok());
      ASSERT_TRUE(Eventually([&] { return PoolOf(*client).scrubs > scrubs; }));
    }
  }
  std::string ReadFile() const {
    std::ifstream in(file_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void WriteFile(std::string_view content) const {
    std::ofstream(file_, std::ios::binary | std::ios::trunc) << content;
  }
  // Every object is what was put, or is said to be lost; how many are.
  int Judge(Client* client) {
    int lost = 0;
    for (const auto& [key, value] : values_) {
      const auto object = client->Get(key);
      if (object.ok()) {
        EXPECT_TRUE(object->bytes() == BytesView(value)) << key << " is garbage";
      } else {
        EXPECT_TRUE(absl::IsDataLoss(object.status())) << object.status();
        EXPECT_TRUE(absl::IsDataLoss(client->Stat(key).status()));
        ++lost;
      }
    }
    EXPECT_TRUE(lost == 0 || PoolOf(*client).objects_damaged > 0);
    EXPECT_TRUE(lost == 0 || aptad_->log().find(file_ + ": ") != std::string::npos)
        << aptad_->log();
    const auto version = client->Put("a new one", AsBytes("x"));
    EXPECT_TRUE(version.ok() && *version > last_version_) << version.status();
    return lost;
  }

  Folder folder_;
  const std::string socket_ = folder_ / "s";
  const std::string file_ = folder_ / "region";
  std::mt19937_64 random_{20261121};
  std::optional<Aptad> aptad_;
  Values values_;
  Version last_version_ = 0;
};

TEST_F(DamageTest, FlippedBitsLoseObjectsAndNeverMakeGarbage) {
  ASSERT_TRUE(StartAptad());
  {
    Client client = ConnectTo(socket_, "writer");
    PutAll(&client);
    AwaitScrub(&client);
  }
  EXPECT_EQ(End(SIGKILL), -SIGKILL);
  const std::string whole = ReadFile();
  std::vector<std::size_t> used;  // places that say something
  for (std::size_t i = 0; i < whole.size(); ++i) {
    if (whole[i] != 0) used.push_back(i);
  }
  // As many in index and headers as in payloads.
  std::vector<std::size_t> index;
  for (const std::size_t at : used) {
    if (at >= fabric::kSuperblockBytes && at < (2 << 20)) index.push_back(at);
  }
  int lost = 0, started = 0;
  const int rounds = test::Scaled(16);
  for (int round = 0; round < rounds; ++round) {
    SCOPED_TRACE(fmt::format("round {}", round));
    std::string damaged = whole;
    for (int flips = 1 + round % 5; flips > 0; --flips) {
      const auto& places = flips % 2 == 0 ? index : used;
      const std::size_t at =
          random_() % 8 == 0 ? random_() % whole.size() : places[random_() % places.size()];
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << random_() % 8));
    }
    WriteFile(damaged);
    if (!StartAptad()) {  // the superblock was hit
      EXPECT_NE(aptad_->log().find(file_), std::string::npos) << aptad_->log();
      EXPECT_GT(End(SIGTERM), 0);
      continue;
    }
    ++started;
    Client client = ConnectTo(socket_, "reader");
    lost += Judge(&client);
    EXPECT_EQ(End(SIGTERM), 0);
  }
  EXPECT_GT(started, rounds / 2);
  if (rounds >= 16) EXPECT_GT(lost, 2);
}

TEST_F(DamageTest, ATruncatedFileIsNotServed) {
  ASSERT_TRUE(StartAptad());
  {
    Client client = ConnectTo(socket_, "writer");
    ASSERT_TRUE(client.Put("key", AsBytes("value")).ok());
  }
  EXPECT_EQ(End(SIGTERM), 0);
  const std::string whole = ReadFile();
  for (int round = 0; round < test::Scaled(5); ++round) {
    const std::size_t bytes = round % 2 == 0 ? random_() % whole.size() : 2 << 20;
    WriteFile(std::string_view(whole).substr(0, bytes + 1));
    EXPECT_FALSE(StartAptad()) << bytes;
    EXPECT_GT(aptad_->End(SIGTERM), 0) << aptad_->log();
    EXPECT_NE(aptad_->log().find(file_), std::string::npos) << aptad_->log();
  }
  aptad_.reset();
  WriteFile(whole);
  ASSERT_TRUE(StartAptad());
  Client client = ConnectTo(socket_, "reader");
  EXPECT_EQ(AsText(client.Get("key")->bytes()), "value");
}

TEST_F(DamageTest, WhatDecaysWhileItIsServedIsFoundAndCanBePutAnew) {
  ASSERT_TRUE(StartAptad());
  Client client = ConnectTo(socket_, "n");
  const std::string value(3000, 'v');
  ASSERT_TRUE(client.Put("decays", AsBytes(value)).ok());
  ASSERT_TRUE(client.Put("stays", AsBytes(value)).ok());
  AwaitScrub(&client);
  ASSERT_TRUE(client.Get("decays").ok());  // cached
  const std::size_t at = ReadFile().find("decays") + 1000;
  std::fstream(file_, std::ios::binary | std::ios::in | std::ios::out)
          .seekp(static_cast<std::streamoff>(at))
      << 'w';
  ASSERT_TRUE(client.Put("a reason to look", {}).ok());
  ASSERT_TRUE(Eventually([&] { return PoolOf(client).objects_damaged == 1; }));
  EXPECT_TRUE(absl::IsDataLoss(client.Get("decays").status())) << client.Get("decays").status();
  EXPECT_NE(aptad_->log().find("object 'decays'"), std::string::npos) << aptad_->log();
  EXPECT_EQ(AsText(client.Get("stays")->bytes()), value);
  EXPECT_EQ(PoolOf(client).objects, 2u);
  // It stays lost, until somebody knows better.
  EXPECT_EQ(End(SIGKILL), -SIGKILL);
  ASSERT_TRUE(StartAptad());
  EXPECT_TRUE(Eventually([&] { return absl::IsDataLoss(client.Get("decays").status()); }));
  ASSERT_TRUE(client.Put("decays", AsBytes("new")).ok());
  EXPECT_EQ(AsText(client.Get("decays")->bytes()), "new");
  EXPECT_EQ(PoolOf(client).objects_damaged, 0u);
  ASSERT_TRUE(client.Delete("decays").ok());
  EXPECT_TRUE(absl::IsNotFound(client.Get("decays").status()));
}

}  // namespace
}  // namespace apta
