#include "daemon/group_commits.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "fabric/check.h"
#include "fabric/control.h"
#include "fabric/hash.h"

namespace apta::daemon {

using absl::StatusCode;
using fabric::Reason;
using fabric::Upholds;
using Kind = GroupMessage::Kind;
using Order = CommitGroup::Order;

namespace {

Reply Refusal(StatusCode code, Reason reason, std::uint64_t value0 = 0, std::uint64_t value1 = 0,
              std::uint64_t value2 = 0) {
  return {.code = static_cast<std::uint16_t>(code),
          .reason = reason,
          .version = 0,
          .extent_offset = 0,
          .value = {value0, value1, value2}};
}

}  // namespace

GroupCommits::GroupCommits(const Controllers& controllers, Owner* owner)
    : c_(controllers), owner_(owner) {
  if (c_.pool->is_durable_region()) intents_.emplace(c_.pool, c_.shard, c_.opc);
}

// ---------------------------------------------------------------------------------------------
// Nodes and their drafts.

void GroupCommits::AttachNode(NodeId node) {
  node_[node].is_present = true;
  ++node_[node].attachment;
}

void GroupCommits::FenceNode(NodeId node) {
  node_[node].is_present = false;
  node_[node].effects.clear();
  for (auto& [serial, group] : commits_) {
    if (group.ended.from.node == node) group.ended.from.lane = fabric::kNoLane;
  }
}

// Invariant 1.
void GroupCommits::ForgetNode(NodeId node) {
  FenceNode(node);
  for (const auto& [extent, draft] : node_[node].drafts) owner_->Discard(extent);
  node_[node].drafts.clear();
  node_[node].kept_bytes = 0;
}

// Invariant 4.
bool GroupCommits::KeepBack(NodeId node, std::uint64_t key_hash, std::uint64_t extent) {
  Node& state = node_[node];
  const std::uint64_t bytes = c_.opc->LiveBytes(extent);
  if (state.drafts.size() >= kMaxDrafts || state.kept_bytes + bytes > c_.quota_bytes) return false;
  state.drafts.emplace(extent, Draft{key_hash, bytes});
  state.kept_bytes += bytes;
  return true;
}

bool GroupCommits::Abort(NodeId node, std::uint64_t extent) {
  Node& state = node_[node];
  const auto draft = state.drafts.find(extent);
  if (draft == state.drafts.end()) return false;
  state.kept_bytes -= draft->second.bytes;
  state.drafts.erase(draft);
  owner_->Discard(extent);
  return true;
}

bool GroupCommits::SetEffects(NodeId node, scheduler::InvocationId invocation,
                              std::vector<GroupWrite> writes) {
  Node& state = node_[node];
  if (state.effects.size() >= kMaxEffects || state.effects.contains(invocation)) return false;
  state.effects.emplace(invocation, std::move(writes));
  return true;
}

std::optional<std::vector<GroupWrite>> GroupCommits::TakeEffects(
    NodeId node, scheduler::InvocationId invocation) {
  auto taken = node_[node].effects.extract(invocation);
  if (taken.empty()) return std::nullopt;
  return std::move(taken.mapped());
}

void GroupCommits::DropEffects(NodeId node, std::vector<GroupWrite> writes) {
  std::map<int, std::vector<GroupWrite>> by_shard;
  for (GroupWrite& write : writes) {
    const auto shard = static_cast<int>(c_.pool->share(0).index.view().ShardOf(write.key_hash));
    by_shard[shard].push_back(std::move(write));
  }
  for (auto& [shard, its_writes] : by_shard) {
    Send(shard, {.kind = Kind::kAbort,
                 .group = {c_.shard, ++last_serial_},
                 .node = node,
                 .attachment = node_[node].attachment,
                 .writes = std::move(its_writes)});
  }
  Drain();
}

// ---------------------------------------------------------------------------------------------
// The coordinator's shell.

bool GroupCommits::IsGroup(std::vector<GroupWrite>* writes) const {
  std::vector<std::uint64_t> hashes;
  for (const GroupWrite& write : *writes) {
    hashes.push_back(write.key_hash);
    if (write.draft != 0) continue;
    if (!fabric::IsValidKey(write.key) || fabric::KeyHash(write.key) != write.key_hash) {
      return false;
    }
  }
  std::sort(hashes.begin(), hashes.end());
  return std::adjacent_find(hashes.begin(), hashes.end()) == hashes.end();
}

void GroupCommits::Commit(const scheduler::Waiter& from, std::vector<GroupWrite> writes,
                          bool caches, scheduler::InvocationId invocation,
                          scheduler::Payload result) {
  Begin({.from = from, .invocation = invocation, .result = result}, std::move(writes), caches);
}

void GroupCommits::Begin(const Ended& ended, std::vector<GroupWrite> writes, bool caches) {
  std::map<int, std::vector<GroupWrite>> by_shard;
  for (GroupWrite& write : writes) {
    const auto shard = static_cast<int>(c_.pool->share(0).index.view().ShardOf(write.key_hash));
    by_shard[shard].push_back(std::move(write));
  }
  std::vector<int> shards;
  for (const auto& [shard, its_writes] : by_shard) shards.push_back(shard);
  const bool is_cached =
      caches && shards.size() == 1 && fabric::TracksSharers(c_.pool->coherence());
  const GroupId id{c_.shard, ++last_serial_};
  const bool is_recorded = intents_ && writes.size() > 1;
  const bool is_logged = c_.journal != nullptr || is_recorded;
  const auto group =
      commits_.emplace(id.serial, Coordinated{.machine = CommitGroup(std::move(shards), is_logged),
                                              .ended = ended,
                                              .attachment = node_[ended.from.node].attachment,
                                              .caches = is_cached,
                                              .is_recorded = is_recorded,
                                              .writes = std::move(by_shard)});
  Obey(id, group.first->second.machine.Begin());
  Drain();
}

void GroupCommits::Obey(GroupId id, Order order) {
  Coordinated& group = commits_.at(id.serial);
  const std::vector<int>& shards = group.machine.shards();
  GroupMessage message{.kind = Kind::kPrepare,
                       .group = id,
                       .node = group.ended.from.node,
                       .attachment = group.attachment,
                       .is_single = group.ended.is_single,
                       .is_recorded = group.is_recorded,
                       .keeps_copies = group.caches};
  switch (order) {
    case Order::kNothing:
      return;
    case Order::kPrepare:
      message.writes = group.writes.at(group.machine.next_shard());
      Send(group.machine.next_shard(), std::move(message));
      return;
    case Order::kLog:
      // All keys are busy everywhere: each one's earlier versions are smaller, later ones greater.
      group.ended.version = c_.opc->NextVersion();
      group.is_recorded ? Record(id) : Log(id);
      return;
    case Order::kPublish:
      if (group.ended.version == 0) group.ended.version = c_.opc->NextVersion();  // as above
      message.version = group.ended.version;
      message.kind = Kind::kPublish;
      for (const int shard : shards) Send(shard, message);
      return;
    case Order::kFlip:
      // Before the first slot changes: see Superblock::groups_begun. One slot is no group.
      if (!group.is_one()) {
        c_.pool->superblock()->groups_begun.fetch_add(1, std::memory_order_acq_rel);
      }
      message.kind = Kind::kFlip;
      for (const int shard : shards) Send(shard, message);
      return;
    case Order::kFinish:
      if (c_.journal != nullptr && !shards.empty()) c_.journal->Applied(c_.shard, id.serial);
      if (shards.empty()) {
        group.ended.version = c_.opc->NextVersion();
      } else if (!group.is_one()) {
        // Release: after all slots, those of other shards too, whose answers we have.
        c_.pool->superblock()->groups_ended.fetch_add(1, std::memory_order_acq_rel);
      }
      if (group.is_recorded) {
        intents_->Remove(id.serial);
        message.kind = Kind::kEnd;
        for (const int shard : shards) Send(shard, message);
      }
      Finish(id);
      return;
    case Order::kAbort:
      message.kind = Kind::kAbort;
      group.ended.version = 0;
      // But for the one that has refused: it has dropped its drafts itself, and the node may have
      // others in the same extents by the time that it would hear of it.
      for (const int shard : shards) {
        if (shard == group.machine.refusing_shard()) continue;
        message.writes = group.writes.at(shard);
        Send(shard, message);
      }
      Finish(id);
      return;
  }
}

void GroupCommits::CommitOne(const scheduler::Waiter& from, GroupWrite write) {
  if (write.draft != 0) {
    // It counts now, so that what takes it out of the drafts finds what it counted.
    const std::uint64_t bytes = c_.opc->LiveBytes(write.draft);
    node_[from.node].drafts.emplace(write.draft, Draft{write.key_hash, bytes});
    node_[from.node].kept_bytes += bytes;
  }
  Ended ended{.from = from, .result = {}, .is_single = true, .extent = write.draft};
  std::vector<GroupWrite> writes;
  writes.push_back(std::move(write));
  Begin(ended, std::move(writes), /*caches=*/true);
}

// One record of all writes, whichever shards they belong to: their drafts are the homes' own by
// now, and stay as they are until the group has ended.
void GroupCommits::Log(GroupId id) {
  const Coordinated& group = commits_.at(id.serial);
  LogRecord record{.shard = c_.shard, .ticket = id.serial, .version = group.ended.version};
  for (const auto& [shard, writes] : group.writes) {
    for (const GroupWrite& write : writes) {
      if (write.draft == 0) {
        record.writes.push_back({.key = write.key, .payload = {}, .is_delete = true});
        continue;
      }
      // Copied and checked: clients of a trusted pool can write to it.
      fabric::ExtentHeader header;
      const bool is_good = c_.pool->share(0).index.view().CopyHeader(write.draft, &header) &&
                           header.key_hash == write.key_hash;
      if (!is_good) {
        const Reply error = Refusal(StatusCode::kInvalidArgument, Reason::kBadRequest);
        Send(c_.shard, {.kind = Kind::kUnlogged, .group = id, .error = error});
        return;
      }
      const std::byte* extent = c_.pool->data() + write.draft;
      const auto* key = reinterpret_cast<const char*>(extent + sizeof(header));
      record.writes.push_back({.key = std::string(key, header.key_bytes),
                               .payload = {extent + header.payload_offset, header.payload_bytes}});
    }
  }
  c_.journal->Append(std::move(record));
}

// All are prepared: what is recorded will be done, whoever is killed when.
void GroupCommits::Record(GroupId id) {
  const Coordinated& group = commits_.at(id.serial);
  GroupMessage answer{.kind = Kind::kLogged, .group = id};
  if (!intents_->Add(id.serial, group.ended.version, group.writes)) {
    answer.kind = Kind::kUnlogged;
    answer.error = Refusal(StatusCode::kResourceExhausted, Reason::kPoolFull, fabric::kPageBytes,
                           c_.opc->used_bytes() - c_.oic->held_bytes(), c_.oic->held_bytes());
  }
  Send(c_.shard, std::move(answer));
}

void GroupCommits::OnLogged(const LogOutcome& outcome) {
  GroupMessage answer{.kind = outcome.error == 0 ? Kind::kLogged : Kind::kUnlogged,
                      .group = {c_.shard, outcome.ticket},
                      .from_shard = c_.shard};
  if (outcome.error != 0) {
    const bool is_full = outcome.is_certain && (outcome.error == ENOSPC ||
                                                outcome.error == EDQUOT || outcome.error == EFBIG);
    answer.error =
        Refusal(is_full ? StatusCode::kResourceExhausted : StatusCode::kUnavailable,
                Reason::kLogFailed, static_cast<std::uint64_t>(outcome.error), outcome.is_certain);
  }
  OnMessage(std::move(answer));
}

void GroupCommits::Finish(GroupId id) {
  auto group = commits_.extract(id.serial);
  owner_->OnGroupEnded(group.mapped().ended);
}

void GroupCommits::Send(int shard, GroupMessage message) {
  message.from_shard = c_.shard;
  if (shard == c_.shard) {
    inbox_.push_back(std::move(message));
  } else {
    owner_->SendToHome(shard, std::move(message));
  }
}

void GroupCommits::OnMessage(GroupMessage message) {
  Handle(std::move(message));
  Drain();
}

// What this home has told itself, within the same step.
void GroupCommits::Drain() {
  while (!inbox_.empty()) {
    GroupMessage message = std::move(inbox_.front());
    inbox_.pop_front();
    Handle(std::move(message));
  }
}

void GroupCommits::Handle(GroupMessage message) {
  switch (message.kind) {
    case Kind::kPrepare:
      waiting_.push_back(std::move(message));
      if (waiting_.size() == 1) Advance();
      return;
    case Kind::kPublish:
      Publish(&parts_.at(message.group), message.version);
      return;
    case Kind::kFlip:
      Flip(&parts_.at(message.group));
      return;
    case Kind::kEnd:
      EndFlip(message.group);
      return;
    case Kind::kAbort:
      OnAbort(message);
      return;
    case Kind::kLogged:
    case Kind::kUnlogged:
    case Kind::kPrepared:
    case Kind::kRefused:
    case Kind::kPublished:
    case Kind::kFlipped: {
      Coordinated& group = commits_.at(message.group.serial);
      group.ended.untracked = group.ended.untracked || message.untracked;
      group.ended.issued = std::max(group.ended.issued, message.issued);
      if (message.kind == Kind::kRefused || message.kind == Kind::kUnlogged) {
        group.ended.error = message.error;
      }
      Obey(message.group, group.machine.OnAnswer(message.kind));
      return;
    }
  }
}

// ---------------------------------------------------------------------------------------------
// This home's part.

void GroupCommits::Tell(const Part& part, Kind kind, bool untracked) {
  Send(part.order.group.coordinator,
       {.kind = kind,
        .group = part.order.group,
        .untracked = untracked,
        .issued = IsPresent(part.order) ? c_.oic->Issued(part.order.node) : 0});
}

bool GroupCommits::IsPresent(const GroupMessage& order) const {
  return node_[order.node].is_present && node_[order.node].attachment == order.attachment;
}

bool GroupCommits::IsBusy(const GroupMessage& prepare) const {
  return c_.blocking != nullptr &&
         std::any_of(prepare.writes.begin(), prepare.writes.end(),
                     [&](const GroupWrite& write) { return c_.blocking->IsBusy(write.key_hash); });
}

// First come, first served: who waits for several keys gets them all at last (CommitGroup's
// invariant 3 needs no more than that the order is one).
void GroupCommits::Advance() {
  for (const GroupId id : std::exchange(half_flipped_, {})) Flip(&parts_.at(id));
  for (const GroupId id : std::exchange(acknowledged_, {})) Tell(parts_.at(id), Kind::kPublished);
  while (!waiting_.empty() && !IsBusy(waiting_.front())) {
    GroupMessage prepare = std::move(waiting_.front());
    waiting_.pop_front();
    Prepare(std::move(prepare));
    Drain();
  }
  Drain();
}

void GroupCommits::Prepare(GroupMessage prepare) {
  Part part;
  std::optional<Reply> refusal = TakeDrafts(prepare, &part);
  if (!refusal) refusal = FindSlots(prepare, &part);
  if (refusal) {
    Undo(&part);
    DropDrafts(prepare);  // those that were not taken any more
  }
  prepare.writes.clear();
  part.order = std::move(prepare);
  if (refusal) {
    Send(part.order.group.coordinator,
         {.kind = Kind::kRefused, .group = part.order.group, .error = *refusal});
    return;
  }
  for (const Write& write : part.writes) {
    // Invariant 2.
    if (c_.blocking != nullptr) c_.blocking->Hold(write.write.key_hash, c_.journal != nullptr);
  }
  Tell(part, Kind::kPrepared);
  parts_.emplace(part.order.group, std::move(part));
}

// Invariant 1.
std::optional<Reply> GroupCommits::TakeDrafts(const GroupMessage& prepare, Part* part) {
  if (!IsPresent(prepare)) return Refusal(StatusCode::kUnavailable, Reason::kNodeLost);
  Node& node = node_[prepare.node];
  for (const GroupWrite& write : prepare.writes) {
    if (write.draft != 0) {
      const auto draft = node.drafts.find(write.draft);
      if (draft == node.drafts.end() || draft->second.key_hash != write.key_hash) {
        return Refusal(StatusCode::kFailedPrecondition, Reason::kNoSuchDraft, 0, write.index);
      }
      node.kept_bytes -= draft->second.bytes;
      node.drafts.erase(draft);
    }
    part->writes.push_back({.write = write});
  }
  return std::nullopt;
}

std::optional<Reply> GroupCommits::FindSlots(const GroupMessage& prepare, Part* part) {
  for (Write& write : part->writes) {
    const GroupWrite& wanted = write.write;
    Opc::KeyBuffer buffer;
    std::optional<std::string_view> key = wanted.key;
    if (wanted.draft != 0) key = c_.opc->KeyOf(wanted.draft, wanted.key_hash, &buffer);
    if (!key) return Refusal(StatusCode::kInvalidArgument, Reason::kBadRequest);
    const std::optional<Osc::Served> old = c_.osc->Translate(wanted.key_hash, *key);
    const Version current = old ? old->version : 0;
    if (wanted.if_version != fabric::kAnyVersion && wanted.if_version != current) {
      return Refusal(StatusCode::kFailedPrecondition, Reason::kVersionMoved, current, wanted.index);
    }
    // It was there when the request came, and the group had to wait behind another.
    if (!old && wanted.draft == 0 && prepare.is_single) {
      return Refusal(StatusCode::kNotFound, Reason::kNoSuchObject);
    }
    if (old) {
      write.slot = old->slot;
      write.old_extent = old->extent;
    } else if (wanted.draft != 0) {
      write.slot = c_.opc->ReserveSlot(wanted.key_hash);
      if (write.slot == nullptr) {
        return Refusal(StatusCode::kResourceExhausted, Reason::kPoolFull, fabric::kCacheLineBytes,
                       c_.opc->used_bytes() - c_.oic->held_bytes(), c_.oic->held_bytes());
      }
      c_.opc->Hold(write.slot, wanted.key_hash, wanted.draft);
    }
    if (prepare.is_recorded && wanted.draft != 0) c_.opc->PersistDraft(wanted.draft, write.slot);
  }
  return std::nullopt;
}

void GroupCommits::Undo(Part* part) {
  for (const Write& write : part->writes) {
    if (write.slot != nullptr && write.old_extent == 0) c_.opc->Unhold(write.slot);
    if (write.write.draft != 0) owner_->Discard(write.write.draft);
  }
}

// The writer is a sharer of what it has written only if it will cache that, and is still there.
void GroupCommits::PublishOne(Part* part, Write* write) {
  if (write->slot == nullptr || !fabric::TracksSharers(c_.pool->coherence())) return;
  const std::uint64_t key_hash = write->write.key_hash;
  const bool caches = part->order.keeps_copies && IsPresent(part->order);
  const NodeId node = part->order.node;
  Otc::Superseded superseded =
      caches && write->write.draft != 0
          ? c_.otc->Put(key_hash, node, c_.oic->answering())
          : c_.otc->Delete(key_hash, caches ? node : Otc::kNobody, c_.oic->answering());
  superseded.holders.Keep(c_.oic->present());
  if (superseded.holders.empty()) return;
  write->has_holders = true;
  if (write->old_extent != 0) still_named_.emplace(write->old_extent, false);
  const bool waits = c_.pool->coherence() == fabric::Coherence::kSync && superseded.counts &&
                     Upholds(fabric::Rule::kSyncWaits);
  part->rounds_awaited += waits ? 1 : 0;
  c_.oic->IssueRound(
      {.key_hash = key_hash,
       .version = part->version,
       .extent = write->old_extent,
       .extent_bytes = write->old_extent != 0 ? c_.opc->LiveBytes(write->old_extent) : 0,
       .holders = superseded.holders,
       .writer = caches ? node : RoundSpec::kNoWriter,
       .counts = superseded.counts},
      owner_->now_ns());
}

void GroupCommits::Publish(Part* part, Version version) {
  part->version = version;
  for (Write& write : part->writes) {
    if (c_.blocking != nullptr) c_.blocking->HoldFromGets(write.write.key_hash);
    PublishOne(part, &write);
  }
  if (part->rounds_awaited == 0) {
    Tell(*part, Kind::kPublished);
  } else {
    owner_->NudgeOwing();
  }
}

void GroupCommits::OnAcknowledged(const RoundSpec& round) {
  if (round.is_eviction) return;
  for (auto& [id, part] : parts_) {
    if (part.version != round.version || part.rounds_awaited == 0) continue;
    if (--part.rounds_awaited == 0) acknowledged_.push_back(id);  // Advance goes on
  }
}

bool GroupCommits::IsStillNamed(std::uint64_t extent) {
  const auto named = still_named_.find(extent);
  if (named == still_named_.end()) return false;
  named->second = true;
  return true;
}

void GroupCommits::FlipOne(const Part& part, const Write& write) {
  if (write.slot == nullptr) return;
  if (write.write.draft != 0) {
    c_.opc->Commit(write.slot, write.write.key_hash, write.write.draft, part.version);
  } else {
    c_.opc->CommitDelete(write.slot);
  }
}

void GroupCommits::Flip(Part* part) {
  std::size_t until = part->writes.size();
  if (!Upholds(fabric::Rule::kGroupTogether) && part->flipped == 0) until /= 2;
  while (part->flipped < until) FlipOne(*part, part->writes[part->flipped++]);
  if (until < part->writes.size()) {
    half_flipped_.push_back(part->order.group);
    return;
  }
  // As it is now: since the group was published, the entry may have been evicted, or be about to
  // go when those have acknowledged who are asked to drop the old version.
  const bool untracked =
      std::any_of(part->writes.begin(), part->writes.end(), [&](const Write& write) {
        const std::uint64_t key_hash = write.write.key_hash;
        const bool is_sharer = c_.otc->state(key_hash) != Otc::State::kSI &&
                               c_.otc->sharers(key_hash).Contains(part->order.node);
        return write.write.draft != 0 && !is_sharer;
      });
  Tell(*part, Kind::kFlipped, untracked);
  if (!part->order.is_recorded) EndFlip(part->order.group);  // else by kEnd
}

// Invariants 2 and 3.
void GroupCommits::EndFlip(GroupId id) {
  auto taken = parts_.extract(id);
  const Part& part = taken.mapped();
  for (const Write& write : part.writes) {
    const std::uint64_t key_hash = write.write.key_hash;
    if (write.old_extent != 0) {
      const auto named = still_named_.find(write.old_extent);
      const bool is_free = !write.has_holders || (named != still_named_.end() && named->second);
      if (named != still_named_.end()) still_named_.erase(named);
      if (is_free) owner_->Discard(write.old_extent);
    }
    if (c_.blocking != nullptr) c_.blocking->LetGo(key_hash);
  }
  for (const Write& write : part.writes) owner_->OnChanged(write.write.key_hash);
}

void GroupCommits::OnAbort(const GroupMessage& abort) {
  std::erase_if(waiting_, [&](const GroupMessage& other) { return other.group == abort.group; });
  auto part = parts_.extract(abort.group);
  if (!part.empty()) {
    Undo(&part.mapped());
    if (c_.blocking == nullptr) return;
    for (const Write& write : part.mapped().writes) c_.blocking->LetGo(write.write.key_hash);
    return;
  }
  DropDrafts(abort);  // not prepared here
}

// Those that are still the node's own. Another node may be in its place by now.
void GroupCommits::DropDrafts(const GroupMessage& order) {
  if (node_[order.node].attachment != order.attachment) return;
  for (const GroupWrite& write : order.writes) {
    if (write.draft != 0) Abort(order.node, write.draft);
  }
}

}  // namespace apta::daemon
