#include "daemon/recovery.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "daemon/group_intents.h"
#include "daemon/pool.h"
#include "fabric/hash.h"
#include "fabric/seal.h"
#include "fmt/format.h"

namespace apta::daemon {
namespace {

using fabric::ExtentHeader;
using fabric::IndexBucket;
using fabric::IndexSlot;
using fabric::IndexView;
using fabric::SlotExtentOffset;

// A billion a second for years. What is beyond was never given to anything.
constexpr Version kMaxVersion = Version{1} << 56;
// Versions that a damaged superblock may have forgotten.
constexpr Version kForgottenVersions = Version{1} << 32;

enum class State { kWhole, kHalfMade, kDamaged };
struct Verdict {
  State state;
  std::string_view fault;
};

// What bucket `bucket` overflowed to, behind the one that is `last`.
struct LostChain {
  std::uint64_t bucket;
  IndexBucket* last;
};

class Recoverer {
 public:
  Recoverer(std::byte* region, const std::vector<std::unique_ptr<HeapShare>>& shares, bool buries)
      : region_(region),
        superblock_(reinterpret_cast<fabric::Superblock*>(region)),
        shares_(shares),
        view_(shares[0]->index.view()),
        buries_(buries) {}

  Recovery Run(const std::function<void(double)>& on_progress) {
    for (std::uint64_t i = 0; i < view_.buckets(); ++i) AdoptChain(i);
    result_.lost_chains = lost_chains_.size();
    if (!buries_ && result_.lost_chains > 0) return std::move(result_);  // nothing has changed
    for (const LostChain& lost : lost_chains_) lost.last->overflow_offset.store(0);
    RedoGroups();
    for (std::uint64_t i = 0; i < view_.buckets(); ++i) {
      view_.ForEachSlotOf(i, [&](const IndexSlot& slot) {
        if (slot.load() != 0) RecoverSlot(i, const_cast<IndexSlot*>(&slot));
      });
      if (on_progress && i % 1024 == 0) {
        on_progress(static_cast<double>(i) / static_cast<double>(view_.buckets()));
      }
    }
    for (const auto& share : shares_) share->objects.FinishAdopting();
    for (const LostChain& lost : lost_chains_) MarkLostChain(lost.bucket);
    for (const auto& share : shares_) share->used_bytes.store(share->objects.used_bytes());
    const Version said = superblock_->last_version.load();
    if (said >= kMaxVersion) {
      Find("the superblock's last version", "is none that could be");
      result_.last_version = newest_ + kForgottenVersions;
    } else {
      result_.last_version = std::max(said, newest_);
    }
    return std::move(result_);
  }

 private:
  HeapShare& ShareOf(std::uint64_t key_hash) { return *shares_[view_.ShardOf(key_hash)]; }

  void Find(const std::string& what, std::string_view fault) {
    if (result_.findings.size() < Recovery::kMaxFindings) {
      result_.findings.push_back(fmt::format("{} {}", what, fault));
    }
  }

  // Of all that a slot, its extent and the index say of an object, what does not fit together.
  Verdict Judge(const IndexSlot& slot, bool looks_at_payload) const {
    const std::uint64_t word = slot.load();
    const ExtentHeader* header = view_.HeaderAt(SlotExtentOffset(word));
    if (header == nullptr) return {State::kDamaged, "has a damaged header, or slot of the index"};
    if (header->version == 0 && fabric::SlotTagMatches(word, ~header->key_hash)) {
      return {State::kHalfMade, ""};  // IndexWriter::Hold
    }
    if (header->key_bytes == 0 || fabric::KeyHash(header->key()) != header->key_hash) {
      return {State::kDamaged, "has a damaged key"};
    }
    if (!fabric::SlotTagMatches(word, header->key_hash)) {
      return {State::kDamaged, "has a damaged slot of the index"};
    }
    if (header->version == 0 || header->version >= kMaxVersion) {
      return {State::kDamaged, "has a damaged version"};
    }
    if (view_.Find(header->key_hash, header->key()) != &slot) {
      return {State::kDamaged, "is at a wrong place of the index, or there twice"};
    }
    if (looks_at_payload && header->checksum != 0 && fabric::SealOf(*header) != header->checksum) {
      return {State::kDamaged, "does not have the checksum that it had"};
    }
    return {State::kWhole, ""};
  }

  // The hash of the object's key, if the key can be believed.
  std::optional<std::uint64_t> HashAt(std::uint64_t extent) const {
    if (!view_.IsInHeap(extent)) return std::nullopt;
    const auto* header = reinterpret_cast<const ExtentHeader*>(region_ + extent);
    const std::uint64_t room = superblock_->region_bytes - extent - sizeof(ExtentHeader);
    if (header->key_bytes == 0 || header->key_bytes > std::min(fabric::kMaxKeyBytes, room) ||
        fabric::KeyHash(header->key()) != header->key_hash) {
      return std::nullopt;
    }
    return header->key_hash;
  }

  // Whether memory that a bucket is said to overflow to is a bucket: none of its objects is whole
  // and some are not only where it is something else.
  bool IsBucket(const IndexBucket& bucket) const {
    bool has_whole = false, has_damaged = false;
    for (const IndexSlot& slot : bucket.slot) {
      const std::uint64_t word = slot.load();
      if (word == 0 || fabric::IsGravestone(word) || word == fabric::kLostChain) continue;
      (Judge(slot, false).state == State::kDamaged ? has_damaged : has_whole) = true;
    }
    return has_whole || (!has_damaged && bucket.overflow_offset.load() != 0);
  }

  // The buckets that bucket `i` overflows to, as far as they can be believed.
  void AdoptChain(std::uint64_t i) {
    auto* at = const_cast<IndexBucket*>(&view_.bucket(i));
    for (std::uint64_t walked = 0;; ++walked) {
      const std::uint64_t offset = at->overflow_offset.load();
      if (offset == 0 || offset == fabric::kChainEnd) return;
      const IndexBucket* next = view_.BucketAt(offset);
      if (next == nullptr || walked == IndexView::kMaxOverflow || !IsBucket(*next) ||
          !ShareOf(i).objects.Adopt(offset, sizeof(IndexBucket))) {
        ++result_.damaged;
        Find(fmt::format("bucket {} of the index", i),
             "has a damaged link: what it overflowed to is lost");
        lost_chains_.push_back({i, at});
        return;
      }
      at = const_cast<IndexBucket*>(next);
    }
  }

  void RedoGroups() {
    for (std::uint32_t shard = 0; shard < superblock_->shards; ++shard) {
      const bool is_whole =
          ForEachIntent(region_, static_cast<int>(shard),
                        [this](Version version, const std::vector<fabric::GroupWrite>& writes) {
                          ++result_.redone;
                          if (version < kMaxVersion) newest_ = std::max(newest_, version);
                          for (const fabric::GroupWrite& write : writes) {
                            write.draft != 0 ? RedoPut(write, version) : RedoDelete(write, version);
                          }
                        });
      if (is_whole) continue;
      ++result_.damaged;
      Find(fmt::format("shard {}'s record of a transaction", shard), "is damaged");
    }
  }

  void RedoDelete(const fabric::GroupWrite& write, Version version) {
    ExtentHeader header{};
    const IndexSlot* slot = view_.Find(write.key_hash, write.key, &header);
    if (slot != nullptr && header.version < version) const_cast<IndexSlot*>(slot)->store(0);
  }

  // The slot was held for the extent, names it already, or names what it replaces.
  void RedoPut(const fabric::GroupWrite& write, Version version) {
    const ExtentHeader* header = view_.HeaderAt(write.draft);
    if (header == nullptr || header->key_hash != write.key_hash ||
        (header->version != 0 && header->version != version)) {
      return;  // another's by now, or damaged: then it is found to be
    }
    const IndexSlot* slot = nullptr;
    view_.ForEachSlotOf(write.key_hash & (view_.buckets() - 1), [&](const IndexSlot& other) {
      const std::uint64_t word = other.load();
      const bool has_tag = fabric::SlotTagMatches(word, write.key_hash) ||
                           fabric::SlotTagMatches(word, ~write.key_hash);
      if (has_tag && SlotExtentOffset(word) == write.draft) slot = &other;
    });
    ExtentHeader old{};
    if (slot == nullptr) {
      slot = view_.Find(write.key_hash, header->key(), &old);
      if (slot == nullptr || old.version >= version) return;
    }
    reinterpret_cast<ExtentHeader*>(region_ + write.draft)->version = version;
    const_cast<IndexSlot*>(slot)->store(fabric::MakeIndexSlot(write.key_hash, write.draft));
    result_.redone_extents.push_back(write.draft);
  }

  void MarkLostChain(std::uint64_t bucket) {
    IndexSlot* slot = ShareOf(bucket).index.Reserve(bucket);
    if (slot == nullptr) return;
    slot->store(fabric::kLostChain);
    ShareOf(bucket).damaged_objects.fetch_add(1);
  }

  void RecoverSlot(std::uint64_t bucket, IndexSlot* slot) {
    const std::uint64_t word = slot->load();
    HeapShare& share = ShareOf(bucket);
    if (fabric::IsGravestone(word) || word == fabric::kLostChain) {
      ++result_.buried;
      share.damaged_objects.fetch_add(1);
      return;
    }
    Verdict verdict = Judge(*slot, true);
    const std::uint64_t extent = SlotExtentOffset(word);
    if (verdict.state == State::kWhole) {
      const ExtentHeader& header = *view_.HeaderAt(extent);
      if (share.objects.Adopt(extent,
                              fabric::ExtentBytes(header.key_bytes, header.payload_bytes))) {
        ++result_.objects;
        share.live_objects.fetch_add(1);
        newest_ = std::max(newest_, header.version);
        return;
      }
      verdict = {State::kDamaged, "overlaps something else"};
    }
    if (verdict.state == State::kHalfMade) {
      ++result_.half_made;
      slot->store(0);
      return;
    }
    ++result_.damaged;
    // What tells its key: the slot, unless the key stands here, is this slot's, and says better.
    std::uint64_t key_hash = word;
    std::string name = fmt::format("an object at {:#x}, whose key is lost,", extent);
    if (const auto hash = HashAt(extent); hash && ((*hash ^ bucket) & (view_.buckets() - 1)) == 0) {
      const std::string_view key = reinterpret_cast<const ExtentHeader*>(region_ + extent)->key();
      const IndexSlot* named_by = view_.Find(*hash, key);
      if (named_by == nullptr || named_by == slot) {
        key_hash = *hash;
        name = "object " + Quoted(key);
      }
    }
    Find(name, verdict.fault);
    slot->store(buries_ ? fabric::GravestoneOf(key_hash) : 0);
    if (buries_) share.damaged_objects.fetch_add(1);
  }

  std::byte* const region_;
  fabric::Superblock* const superblock_;
  const std::vector<std::unique_ptr<HeapShare>>& shares_;
  const IndexView view_;
  const bool buries_;
  std::vector<LostChain> lost_chains_;
  Version newest_ = 0;
  Recovery result_;
};

}  // namespace

Recovery Recover(std::byte* region, const std::vector<std::unique_ptr<HeapShare>>& shares,
                 bool buries, const std::function<void(double)>& on_progress) {
  return Recoverer(region, shares, buries).Run(on_progress);
}

std::string Quoted(std::string_view key) {
  constexpr std::size_t kMaxBytes = 200;
  std::string text = "'";
  for (const char c : key.substr(0, kMaxBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    byte < 0x20 || byte == 0x7f ? text += fmt::format("\\x{:02x}", byte) : text += c;
  }
  return text + (key.size() > kMaxBytes ? "…'" : "'");
}

}  // namespace apta::daemon
