// What a session's agent does between calls: applies invalidations, answers nudges, and registers
// what was read while its home slept.

#include <algorithm>

#include "compute/session.h"
#include "fabric/hash.h"

namespace apta::compute {

bool Session::ApplyInBackground() {
  bool has_applied = false;
  for (int shard = 0; shard < static_cast<int>(homes_.size()); ++shard) {
    if (cache_->IsCurrent(shard)) continue;
    cache_->Apply(shard, NowOfLink());
    // The home may have asked before the link let us see what it asked about, and sleep by now.
    RingIfAsleep(shard);
    has_applied = true;
  }
  if (cache_->is_fenced()) FailFenced();
  return has_applied;
}

void Session::OnNudge() {
  cache_->ApplyAll(fabric::RealClock::ReadNow());
  // The home asked because something needs the answer: it may be asleep by now.
  for (int shard = 0; shard < static_cast<int>(homes_.size()); ++shard) RingIfAsleep(shard);
}

// The reader does not wait for this, and does not wake the home either: the agent does. Nor does it
// wake the agent for what is read once: only when a key is read again, or many have been.
void Session::Want(std::string_view key) {
  {
    std::lock_guard<std::mutex> lock(wanted_mutex_);
    const bool is_again = std::find(wanted_.begin(), wanted_.end(), key) != wanted_.end();
    if (!is_again && wanted_.size() < kMaxWanted) wanted_.emplace_back(key);
    if (!is_again && wanted_.size() < kMaxWanted) return;
    is_wanted_soon_ = true;
  }
  // Ordered by the lock: either BeginSleep finds the key, or we find that it sleeps.
  if (agent_asleep_.load() && agent_asleep_.exchange(false)) pins_->Wake();
}

bool Session::BeginSleep() {
  agent_asleep_.store(true);
  std::lock_guard<std::mutex> lock(wanted_mutex_);
  return is_wanted_soon_;
}

bool Session::FetchWanted() {
  constexpr fabric::TimeNs kPatienceNs = 1'000'000;  // whoever follows this fill waits with us
  std::vector<std::string> keys;
  {
    std::lock_guard<std::mutex> lock(wanted_mutex_);
    keys.swap(wanted_);
    is_wanted_soon_ = false;
  }
  PinTable* const table = pins_->ThreadTable();
  for (const std::string& key : keys) {
    const std::uint64_t key_hash = fabric::KeyHash(key);
    // What fails somebody will get again; a home that does not answer is left alone.
    // Nor is another thread's answer waited for: in mode sync that may wait for our
    // acknowledgement.
    Getc get(cache_.get(), key_hash, key, table, copies_, /*follows=*/false);
    const Getc::Step step = get.Begin(/*home_sleeps=*/false, NowOfLink());
    const absl::StatusOr<Object> object = EndGet(&get, step, ShardOf(key_hash), key, kPatienceNs);
    if (absl::IsDeadlineExceeded(object.status())) break;
  }
  return !keys.empty();
}

}  // namespace apta::compute
