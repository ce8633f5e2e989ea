#include "compute/getc.h"

#include <utility>

namespace apta::compute {

using fabric::Coherence;
using fabric::Reply;

Getc::Getc(Cache* cache, std::uint64_t key_hash, std::string_view key, PinTable* table, bool copies,
           bool follows)
    : cache_(cache),
      key_hash_(key_hash),
      key_(key),
      table_(table),
      copies_(copies),
      follows_(follows) {}

Getc::~Getc() {
  AbandonFill();
  DropHeld();
  if (got_.pinned) got_.pinned->pin->Drop();
}

Getc::Step Getc::Begin(bool home_sleeps, fabric::TimeNs now_ns) {
  if (IsDead(*cache_)) return Step::kDead;
  was_unregistered_ = home_sleeps && cache_->mode() != Coherence::kUncached;
  if (!fabric::TracksSharers(cache_->mode())) return home_sleeps ? Step::kReadHeap : BeginAgain();
  const Cache::Looked looked =
      cache_->LookAgain({key_hash_, key_, table_}, !home_sleeps, follows_, now_ns);
  if (looked.hit) {
    was_unregistered_ = false;
    got_.pinned = looked.hit;
    return Vouched(Step::kFound);
  }
  return home_sleeps ? Step::kReadHeap : Lead(looked.miss);
}

// What was found, or read, will not do.
Getc::Step Getc::BeginAgain() {
  if (IsDead(*cache_)) return Step::kDead;
  was_unregistered_ = false;
  switch (cache_->mode()) {
    case Coherence::kStrict:
    case Coherence::kLazy:
    case Coherence::kSync:
      return Lead(cache_->BeginGet(key_hash_, follows_));
    case Coherence::kVersioned:
      return Ask();
    case Coherence::kUncached:
      return Step::kReadHeap;
  }
  return Step::kReadHeap;
}

// A fill that has not been overtaken is as good as an answer to us: what it brings was not
// superseded before we began (strict, sync), or nobody minds (lazy).
Getc::Step Getc::Lead(const Cache::Miss& miss) {
  fill_ = miss.fill;
  leads_ = miss.leads;
  return miss.leads ? Step::kAsk : Step::kFollow;
}

// Each get asks for itself: the answer to another one may be older than our question.
Getc::Step Getc::Ask() {
  DropHeld();
  if (const auto held = cache_->Lookup(key_hash_, key_, table_)) held_ = *held;
  if (held_.header != nullptr && !fabric::Upholds(fabric::Rule::kAskBeforeHit)) {
    return Found(std::exchange(held_, {}));
  }
  return Step::kAsk;
}

Getc::Step Getc::OnReply(const Reply& reply) {
  if (reply.code != 0) {
    AbandonFill();
    return Step::kNotFound;
  }
  if (held_.header != nullptr && held_.header->version == reply.version) {
    return Found(std::exchange(held_, {}));
  }
  const bool is_untracked = (reply.value[0] & fabric::kUntracked) != 0 &&
                            fabric::Upholds(fabric::Rule::kUntrackedNotCached);
  if (is_untracked) {
    AbandonFill();  // followers ask for themselves: nobody will tell them when it is stale
    return OnReadHeap();
  }
  Cache::Place place = reply.extent_offset;
  if (copies_) {
    PrivateCopy::Owner copy = PrivateCopy::Make(
        cache_->view(), {.extent = reply.extent_offset, .version = reply.version}, key_);
    if (copy == nullptr) {  // superseded, and its extent in use again; or another key's
      AbandonFill();
      return BeginAgain();
    }
    place = copy.release()->place();
  }
  const Cache::Ended ended =
      cache_->EndGet(std::exchange(fill_, nullptr), reply.version, place, table_);
  held_back_ = held_back_ || ended.was_overtaken;
  if (!ended.pinned) return BeginAgain();
  got_.pinned = ended.pinned;
  return Vouched(Step::kFound);
}

void Getc::OnNoReply() { AbandonFill(); }

// What is found counts if no commit group was being made visible meanwhile: then whoever has read
// one of its keys anew would find others as they were. Asked again when the shell has a moment,
// which is how long that takes, unless the memory server dies over it.
Getc::Step Getc::OnReadHeap() {
  const std::optional<std::uint64_t> groups = cache_->view().QuietGroups();
  if (!groups) return Vouched(Step::kReadHeap);
  while (true) {
    const auto at = cache_->view().LocateUnregistered(key_hash_, key_);
    if (cache_->view().QuietGroups() != groups) return Vouched(Step::kReadHeap);
    if (!at) return Vouched(Step::kNotFound);
    if (!MayRead(*at)) return BeginAgain();
    PrivateCopy::Owner copy = PrivateCopy::Make(cache_->view(), *at, key_);
    if (copy == nullptr) continue;
    if (cache_->mode() == Coherence::kVersioned) {
      copy->Share();
      cache_->InsertCopy(key_hash_, at->version, PrivateCopy::Owner(copy.get()));
    }
    got_.copy = std::move(copy);
    return Vouched(Step::kFound);
  }
}

bool Getc::MayRead(const fabric::IndexView::Place& place) const {
  return !was_unregistered_ || place.header.payload_bytes <= kSmallBytes;
}

Getc::Step Getc::OnFillEnded() {
  const std::optional<PinnedExtent> pinned = cache_->Followed(std::exchange(fill_, nullptr));
  return pinned ? Found(*pinned) : BeginAgain();
}

// What another get was answered: its key may be another one, of the same hash.
Getc::Step Getc::Found(const PinnedExtent& pinned) {
  if (pinned.header->key() != key_) {
    pinned.pin->Drop();
    return BeginAgain();
  }
  got_.pinned = pinned;
  return Vouched(Step::kFound);
}

void Getc::AbandonFill() {
  Cache::Fill* const fill = std::exchange(fill_, nullptr);
  if (fill == nullptr) return;
  if (leads_) {
    held_back_ = cache_->AbandonFill(fill) || held_back_;
  } else {
    cache_->LeaveFill(fill);
  }
}

void Getc::DropHeld() {
  if (held_.pin != nullptr) held_.pin->Drop();
  held_ = {};
}

}  // namespace apta::compute
