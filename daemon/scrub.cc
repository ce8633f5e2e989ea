#include "daemon/scrub.h"

#include <algorithm>

#include "fabric/hash.h"

namespace apta::daemon {

using fabric::ExtentHeader;
using fabric::IndexSlot;
using fabric::SlotExtentOffset;
using fabric::TimeNs;

Scrub::Scrub(Pool* pool, int shard, std::uint64_t bytes_per_second)
    : pool_(pool),
      share_(&pool->share(shard)),
      shard_(static_cast<std::uint64_t>(shard)),
      bytes_per_second_(bytes_per_second),
      bucket_(shard_),
      began_at_version_(pool->superblock()->last_version.load()) {}

ExtentHeader* Scrub::HeaderOf(const Current& current) const {
  return reinterpret_cast<ExtentHeader*>(pool_->data() + SlotExtentOffset(current.word));
}

// An extent that the slot has named all the time may have been released and filled again between;
// then its version has changed.
bool Scrub::IsSame(const Current& current) const {
  // Relaxed: this home is the slot's only writer.
  return current.slot->load(std::memory_order_relaxed) == current.word &&
         HeaderOf(current)->version == current.version;
}

void Scrub::BeginAt(IndexSlot* slot, std::optional<Finding>* finding) {
  const std::uint64_t word = slot->load(std::memory_order_relaxed);  // as above
  if (word == 0 || fabric::IsGravestone(word) || word == fabric::kLostChain) return;
  const std::uint64_t extent = SlotExtentOffset(word);
  const ExtentHeader* header = share_->index.view().HeaderAt(extent);
  if (header == nullptr) {
    *finding =
        Finding{.slot = slot, .extent = extent, .key = {}, .key_hash = word, .is_key_whole = false};
    return;
  }
  if (header->version == 0) return;  // a transaction has not committed it yet
  current_.emplace(Current{.slot = slot,
                           .word = word,
                           .version = header->version,
                           .payload = header->payload(),
                           .payload_bytes = header->payload_bytes,
                           .done_bytes = 0,
                           .seal = fabric::Seal(*header)});
}

bool Scrub::Begin(std::uint64_t* looked_at_bytes, std::optional<Finding>* finding) {
  const fabric::IndexView& view = share_->index.view();
  const auto shards = static_cast<std::uint64_t>(pool_->shards());
  for (; bucket_ < view.buckets(); bucket_ += shards, position_ = 0) {
    if (*looked_at_bytes >= kSliceBytes) return true;
    *looked_at_bytes += kLookBytes;
    std::uint64_t at = 0;
    view.ForEachSlotOf(bucket_, [&](const IndexSlot& slot) {
      if (at++ < position_ || current_ || *finding) return;
      position_ = at;
      BeginAt(const_cast<IndexSlot*>(&slot), finding);
    });
    if (current_ || *finding) return true;
  }
  return false;
}

// Relaxed: a hint; a put that is not seen now is seen the next time.
Version Scrub::LastVersion() const {
  return pool_->superblock()->last_version.load(std::memory_order_relaxed);
}

bool Scrub::IsDue(TimeNs now_ns) const {
  if (now_ns < next_ns_) return false;
  return calm_until_ns_ == 0 || now_ns >= calm_until_ns_ || LastVersion() != began_at_version_;
}

std::optional<Scrub::Finding> Scrub::Step(TimeNs now_ns) {
  if (!IsDue(now_ns)) return std::nullopt;
  if (calm_until_ns_ != 0) {
    began_at_version_ = LastVersion();
    calm_until_ns_ = 0;
  }
  std::optional<Finding> finding;
  std::uint64_t bytes = 0;  // looked at in this step
  while (bytes < kSliceBytes && !finding) {
    if (current_ && !IsSame(*current_)) current_.reset();
    if (!current_ && !Begin(&bytes, &finding)) {
      EndRound(now_ns);
      return std::nullopt;
    }
    if (!current_) continue;
    const std::uint64_t piece =
        std::min(kSliceBytes, current_->payload_bytes - current_->done_bytes);
    current_->seal.Add(current_->payload + current_->done_bytes, piece);
    current_->done_bytes += piece;
    bytes += piece + kLookBytes;
    if (current_->done_bytes == current_->payload_bytes) finding = End();
  }
  // Relaxed: a statistic that other threads read.
  share_->scrubbed_bytes.fetch_add(bytes, std::memory_order_relaxed);
  // What was not used while the home was busy or slept may be used later, up to a bound.
  const TimeNs allowed_ns = kWakeBytes * 1'000'000'000 / bytes_per_second_;
  next_ns_ = std::max(next_ns_, now_ns - std::min(now_ns, allowed_ns)) +
             bytes * 1'000'000'000 / bytes_per_second_;
  return finding;
}

// The current object has been looked at whole.
std::optional<Scrub::Finding> Scrub::End() {
  ExtentHeader* header = HeaderOf(*current_);
  const std::uint64_t seal = current_->seal.Value();
  std::optional<Finding> finding;
  if (header->checksum == 0) {
    header->checksum = seal;
    if (share_->write_back != nullptr) share_->write_back->Lines(header, sizeof(*header));
  } else if (header->checksum != seal) {
    const bool is_key_whole = share_->index.view().HeaderAt(SlotExtentOffset(current_->word)) &&
                              fabric::KeyHash(header->key()) == header->key_hash &&
                              fabric::SlotTagMatches(current_->word, header->key_hash);
    finding = Finding{.slot = current_->slot,
                      .extent = SlotExtentOffset(current_->word),
                      .key = std::string(is_key_whole ? header->key() : ""),
                      .key_hash = is_key_whole ? header->key_hash : current_->word,
                      .is_key_whole = is_key_whole};
  }
  current_.reset();
  return finding;
}

void Scrub::EndRound(TimeNs now_ns) {
  bucket_ = shard_;
  position_ = 0;
  next_ns_ = now_ns + kRestNs;
  calm_until_ns_ = now_ns + kCalmRestNs;
  share_->scrubs.fetch_add(1, std::memory_order_relaxed);  // a statistic
}

TimeNs Scrub::wake_ns() const {
  if (calm_until_ns_ != 0) return LastVersion() == began_at_version_ ? calm_until_ns_ : next_ns_;
  return next_ns_ + kWakeBytes * 1'000'000'000 / bytes_per_second_;
}

}  // namespace apta::daemon
