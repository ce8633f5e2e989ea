// Power losses of a pool on persistent memory, store by store: which lines were written back is
// tracked, and at every fence the power fails, with any of the other lines durable or not. What
// recovery finds then is what had been answered, whole, and nothing half made.

#include <gmock/gmock.h>

#include <map>
#include <random>
#include <set>

#include "daemon/recovery.h"
#include "fabric/group_message.h"
#include "fmt/format.h"
#include "tests/daemon/home_fixture.h"

namespace apta::daemon {
namespace {

using fabric::kCacheLineBytes;
using fabric::Op;
using Values = std::map<std::string, std::string>;

// A medium behind the cache: what is in it for sure, and what may be.
class TrackedMedium final : public fabric::WriteBack {
 public:
  TrackedMedium(std::byte* region, std::uint64_t bytes)
      : region_(region), durable_(region, region + bytes) {}

  // Called at every fence, and before it has an effect.
  std::function<void()> on_fence;
  bool forgets_lines = false;

  void Lines(const void* from, std::uint64_t bytes) override {
    if (forgets_lines) return;
    const std::uint64_t begin = LineOf(static_cast<const std::byte*>(from));
    const std::uint64_t end = static_cast<const std::byte*>(from) + bytes - region_;
    for (std::uint64_t line = begin; line < end; line += kCacheLineBytes) {
      began_[line].assign(region_ + line, region_ + line + kCacheLineBytes);
    }
  }
  void Fence() override {
    on_fence();
    for (const auto& [line, content] : began_) Copy(content.data(), &durable_[line]);
    began_.clear();
  }

  // What differs from the medium: each may have reached it, or not.
  std::vector<std::uint64_t> Uncertain() const {
    std::vector<std::uint64_t> lines;
    for (std::uint64_t page = 0; page < durable_.size(); page += fabric::kPageBytes) {
      if (std::memcmp(region_ + page, &durable_[page], fabric::kPageBytes) == 0) continue;
      for (std::uint64_t i = page; i < page + fabric::kPageBytes; i += kCacheLineBytes) {
        if (std::memcmp(region_ + i, &durable_[i], kCacheLineBytes) != 0) lines.push_back(i);
      }
    }
    return lines;
  }
  // The medium after a power loss that these lines reached.
  void MakeImage(const std::vector<std::uint64_t>& lines, std::byte* image) const {
    std::copy(durable_.begin(), durable_.end(), image);
    for (const std::uint64_t line : lines) Copy(region_ + line, image + line);
  }
  std::uint64_t size_bytes() const { return durable_.size(); }

 private:
  std::uint64_t LineOf(const std::byte* at) const {
    return static_cast<std::uint64_t>(at - region_) / kCacheLineBytes * kCacheLineBytes;
  }
  static void Copy(const std::byte* line, std::byte* to) { std::copy_n(line, kCacheLineBytes, to); }

  std::byte* const region_;
  std::vector<std::byte> durable_;
  std::map<std::uint64_t, std::vector<std::byte>> began_;  // since the last fence, by line
};

// Some of the sets of these lines: none, all, all but one, one, and a few at random.
std::vector<std::vector<std::uint64_t>> SomeSets(const std::vector<std::uint64_t>& lines,
                                                 std::mt19937_64* random) {
  constexpr std::size_t kSingles = 4;
  constexpr int kAtRandom = 4;
  std::vector<std::vector<std::uint64_t>> sets = {{}, lines};
  for (std::size_t i = 0; i < std::min(lines.size(), kSingles); ++i) {
    const std::uint64_t one = lines[lines.size() <= kSingles ? i : (*random)() % lines.size()];
    sets.push_back({one});
    sets.push_back(lines);
    std::erase(sets.back(), one);
  }
  for (int i = 0; i < kAtRandom && lines.size() > 2; ++i) {
    std::vector<std::uint64_t> set;
    for (const std::uint64_t line : lines) {
      if ((*random)() % 2 == 0) set.push_back(line);
    }
    sets.push_back(set);
  }
  return sets;
}

class RegionCrashTest : public HomeFixture {
 protected:
  RegionCrashTest()
      : HomeFixture(PoolOptions{
            .bytes = 4 << 20, .durability = "region", .scrub_bytes_per_second = 1 << 30}) {
    medium_.emplace(pool_->data(), pool_->region().size_bytes());
    image_.reset(
        static_cast<std::byte*>(aligned_alloc(fabric::kHugePageBytes, medium_->size_bytes())));
    medium_->on_fence = [this] { LosePower(); };
    pool_->share(0).SetWriteBack(&*medium_);
    home_.emplace(pool_.get(), 0, /*hosts_functions=*/true, &gate_);
    for (NodeId node = 0; node < kNodes; ++node) home_->AttachNode(node);
  }

  // At this moment, with some of the lines that may have reached the medium.
  void LosePower() {
    for (const auto& lines : SomeSets(medium_->Uncertain(), &random_)) {
      ++losses_;
      const std::string fault = FaultOf(lines);
      if (!fault.empty()) faults_.insert(fault);
    }
  }

  std::string FaultOf(const std::vector<std::uint64_t>& lines) const {
    std::byte* const region = image_.get();
    medium_->MakeImage(lines, region);
    auto& superblock = *reinterpret_cast<fabric::Superblock*>(region);
    if (forgets_records_) superblock.home[0].group_intents = 0;
    if (!superblock.Validate(medium_->size_bytes()).ok()) return "the superblock is not valid";
    const auto shares = MakeShares(region);
    const Recovery found = Recover(region, shares, true);
    if (found.damaged != 0) return "something seems damaged: " + found.findings[0];
    if (found.last_version < last_version_) return "a version would be used twice";
    const fabric::IndexView& view = shares[0]->index.view();
    std::set<std::string> keys;
    for (const Values* values : {&before_, &after_}) {
      for (const auto& [key, value] : *values) keys.insert(key);
    }
    std::uint64_t objects = 0;
    bool is_before = true, is_after = true;
    for (const std::string& key : keys) {
      fabric::ExtentHeader header;
      const fabric::IndexSlot* slot = view.Find(fabric::KeyHash(key), key, &header);
      std::optional<std::string> value;
      if (slot != nullptr) {
        ++objects;
        const auto* at = view.HeaderAt(fabric::SlotExtentOffset(slot->load()));
        value = std::string(reinterpret_cast<const char*>(at->payload()), at->payload_bytes);
      }
      is_before = is_before && value == ValueIn(before_, key);
      is_after = is_after && value == ValueIn(after_, key);
    }
    if (objects != found.objects) return "there is an object that nobody put";
    return is_before || is_after ? "" : "an object is not what it was before, nor after";
  }
  static std::optional<std::string> ValueIn(const Values& values, const std::string& key) {
    const auto found = values.find(key);
    return found == values.end() ? std::nullopt : std::make_optional(found->second);
  }

  // One change, from before to after.
  void Change(const std::string& key, const std::optional<std::string>& value) {
    after_ = before_;
    Reply reply;
    if (!value) {
      after_.erase(key);
      reply = Delete(0, key);
    } else if (after_[key] = *value; value->size() <= 150) {
      reply = Put(0, key, *value);
    } else {
      ResetLane(0, 0);
      Stage(0, 0, key, *value);
      Step(0, Staged(Op::kPut, key, value->size(), fabric::kAnyVersion));
      for (int i = 0; i < 8; ++i) {
        Stage(0, 0, key, *value);
        Poll();
      }
      reply = Answer(0, 0);
    }
    EndChange(reply);
  }
  // Several, as one.
  void ChangeTogether(const std::map<std::string, std::optional<std::string>>& values) {
    after_ = before_;
    std::vector<std::byte> writes;
    for (const auto& [key, value] : values) {
      fabric::GroupWrite write{.key_hash = fabric::KeyHash(key)};
      if (value) {
        Request request = Inline(Op::kPut, key, *value, fabric::kAnyVersion);
        request.flags |= fabric::kKeepBack;
        const Reply draft = Ask(0, request);
        ASSERT_EQ(CodeOf(draft), absl::StatusCode::kOk);
        write.draft = draft.extent_offset;
      } else {
        write.key = key;
      }
      fabric::AppendGroupWrite(write, &writes);
    }
    for (const auto& [key, value] : values) {
      value ? void(after_[key] = *value) : void(after_.erase(key));
    }
    EndChange(Ask(0, Inline(Op::kCommitGroup, "", AsText(writes))));
  }
  void EndChange(const Reply& reply) {
    ASSERT_EQ(CodeOf(reply), absl::StatusCode::kOk);
    before_ = after_;  // answered
    last_version_ = reply.version;
    gate_.AcknowledgeAll(0);
    now_ns_ += 600'000'000;  // and what was superseded is used again, and seals are put on
    Poll();
  }

  void ChangeManyTimes(int changes) {
    // All of one bucket, more than it has room for.
    std::vector<std::string> keys;
    for (int i = 0; keys.size() < 12; ++i) {
      const std::string key = fmt::format("key-{}", i);
      const std::uint64_t buckets = pool_->share(0).index.view().buckets();
      if (fabric::KeyHash(key) % buckets == 7) keys.push_back(key);
    }
    for (int i = 0; i < changes; ++i) {
      if (i % 10 == 9) {
        std::map<std::string, std::optional<std::string>> together;
        for (int n = 0; n < 3; ++n) {
          const std::string& key = keys[random_() % keys.size()];
          const bool is_delete = before_.contains(key) && random_() % 3 == 0;
          together[key] = is_delete ? std::nullopt
                                    : std::make_optional<std::string>(
                                          random_() % 100, static_cast<char>('A' + i % 26));
        }
        ChangeTogether(together);
        continue;
      }
      const std::string& key = keys[random_() % keys.size()];
      if (before_.contains(key) && random_() % 4 == 0) {
        Change(key, std::nullopt);
        continue;
      }
      const std::size_t bytes = random_() % 8 == 0 ? 70'000 : random_() % 150;
      Change(key, std::string(bytes, static_cast<char>('a' + i % 26)));
    }
    LosePower();
  }

  std::mt19937_64 random_{7};
  std::optional<TrackedMedium> medium_;
  std::unique_ptr<std::byte, decltype(&free)> image_{nullptr, &free};  // as aligned as a mapping
  Values before_, after_;
  Version last_version_ = 0;
  bool forgets_records_ = false;
  int losses_ = 0;
  std::set<std::string> faults_;
};

TEST_F(RegionCrashTest, AtEveryFenceWhatWasAnsweredIsDurableAndNothingIsHalfMade) {
  ChangeManyTimes(50);
  EXPECT_THAT(faults_, ::testing::IsEmpty());
  EXPECT_GT(losses_, 500);
  EXPECT_NE(pool_->share(0).index.view().bucket(7).overflow_offset.load(), 0u);
  EXPECT_GT(pool_->share(0).scrubs.load(), 0u);
}

TEST_F(RegionCrashTest, ALineThatIsNotWrittenBackIsFound) {
  medium_->forgets_lines = true;
  ChangeManyTimes(10);
  EXPECT_THAT(faults_, ::testing::Not(::testing::IsEmpty()));
}

TEST_F(RegionCrashTest, WithoutItsRecordHalfATransactionIsFound) {
  forgets_records_ = true;
  Change("a", "1");
  ChangeTogether({{"a", "2"}, {"b", "2"}, {"c", "2"}});
  EXPECT_THAT(faults_, ::testing::Contains("an object is not what it was before, nor after"));
}

TEST_F(RegionCrashTest, WhenATransactionHasEndedItsRecordIsGone) {
  Change("a", "1");
  const std::uint64_t before = LiveExtents();
  for (int i = 0; i < 3; ++i) ChangeTogether({{"a", "2"}, {"b", "2"}});
  Poll(2);
  EXPECT_EQ(pool_->superblock()->home[0].group_intents, 0u);
  EXPECT_EQ(LiveExtents(), before + 1);
  EXPECT_THAT(faults_, ::testing::IsEmpty());
}

TEST_F(RegionCrashTest, ATransactionThatFailsLeavesNothing) {
  Change("key", "value");
  fabric::IndexSlot* slot = nullptr;
  {
    Opc opc(pool_.get(), 0);
    const std::uint64_t key_hash = fabric::KeyHash("held");
    const std::uint64_t extent = opc.Begin(key_hash, "held", 3);
    slot = opc.ReserveSlot(key_hash);
    opc.Hold(slot, key_hash, extent);
    LosePower();
    opc.Unhold(slot);
    LosePower();
    EXPECT_TRUE(opc.Release(extent));
  }
  Change("another", "value");
  LosePower();
  EXPECT_THAT(faults_, ::testing::IsEmpty());
}

}  // namespace
}  // namespace apta::daemon
