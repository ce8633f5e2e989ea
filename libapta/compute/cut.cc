#include "compute/cut.h"

#include "fabric/coherence.h"

namespace apta::compute {

// What has been invalidated is not got again. Words serve the first round alone: they say nothing
// of what was got before they were read.
void Cut::Begin(fabric::TimeNs now_ns) {
  const bool has_words = fabric::TracksSharers(cache_->mode());
  may_stand_by_words_ = has_words && !has_begun_;
  has_begun_ = true;
  if (!has_words) return;
  for (int shard = 0; shard < cache_->shards(); ++shard) {
    if (!cache_->IsCurrent(shard)) cache_->Apply(shard, now_ns);
    const std::optional<std::uint64_t> applied = cache_->AllApplied(shard);
    may_stand_by_words_ = may_stand_by_words_ && applied.has_value();
    applied_[static_cast<std::size_t>(shard)] = applied.value_or(0);
  }
}

void Cut::Got(std::size_t index, std::uint64_t version, bool is_registered) {
  objects_[index].version = version;
  may_stand_by_words_ = may_stand_by_words_ && is_registered;
}

bool Cut::StandsByWords() const {
  if (!fabric::Upholds(fabric::Rule::kCutHolds)) return true;
  if (!may_stand_by_words_) return false;
  for (int shard = 0; shard < cache_->shards(); ++shard) {
    if (cache_->Issued(shard) != applied_[static_cast<std::size_t>(shard)]) return false;
  }
  return true;
}

std::optional<std::vector<std::size_t>> Cut::MovedInHeap() const {
  const std::optional<std::uint64_t> groups = cache_->view().QuietGroups();
  if (!groups) return std::nullopt;
  std::vector<std::size_t> moved;
  for (std::size_t i = 0; i < objects_.size(); ++i) {
    const Wanted& object = objects_[i];
    const auto at = cache_->view().LocateUnregistered(object.key_hash, object.key);
    if (!at || at->version != object.version) moved.push_back(i);
    fabric::Interleave();
  }
  if (cache_->view().QuietGroups() != groups) return std::nullopt;
  return moved;
}

}  // namespace apta::compute
