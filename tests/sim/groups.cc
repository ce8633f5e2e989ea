// What simulated compute servers do with several keys at once: transactions, the writes of
// invocations, GetMany; and what must hold of them.

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "fabric/group_message.h"
#include "fmt/format.h"
#include "tests/sim/world.h"

namespace apta::sim {

using compute::Getc;
using compute::Got;
using fabric::GroupWrite;
using fabric::Op;
using fabric::Reply;

namespace {

// Of no process: nobody's own writes.
constexpr std::uint32_t kEffectsClient = 1'000'000;

}  // namespace

std::vector<std::uint64_t> World::SomeKeys() {
  std::vector<std::uint64_t> keys;
  for (std::uint64_t i = 0; i < 4; ++i) {
    const std::uint64_t key = Random(profile_.keys);
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  }
  return keys;
}

// ---------------------------------------------------------------------------------------------
// GetMany, driven as Session::GetMany does.

void World::BeginCut(Node* node, Thread* thread) {
  thread->cut = std::make_unique<compute::Cut>(node->cache.get());
  thread->cut_begin_ns = now_ns_;
  thread->cut_rounds = 0;
  for (const std::uint64_t key : SomeKeys()) {
    thread->cut->Add(key_hash_[key], key_name_[key]);
    thread->wanted.push_back(thread->members.size());
    thread->members.push_back({.key_index = key});
  }
  thread->cut->Begin(now_ns_);
  NextMember(node, thread);
}

void World::NextMember(Node* node, Thread* thread) {
  if (thread->wanted.empty()) {
    JudgeCut(node, thread);
    return;
  }
  thread->key_index = thread->members[thread->wanted.back()].key_index;
  thread->key = key_name_[thread->key_index];
  BeginGet(node, thread);
}

void World::OnMember(Node* node, Thread* thread, Got got, bool found) {
  thread->get.reset();
  if (!found) {
    EndCut(node, thread);
    return;
  }
  const std::size_t index = thread->wanted.back();
  thread->wanted.pop_back();
  Thread::Member& member = thread->members[index];
  if (member.got.pinned) member.got.pinned->pin->Drop();
  const fabric::ExtentHeader* header = got.pinned ? got.pinned->header : got.copy->header();
  member.version = header->version;
  member.value = ReadValue(header);
  thread->cut->Got(index, member.version, got.pinned.has_value());
  member.got = std::move(got);
  if (Chance(2)) {
    AtNode(Soon(), node, [this, node, thread] { NextMember(node, thread); });
  } else {
    NextMember(node, thread);
  }
}

void World::JudgeCut(Node* node, Thread* thread) {
  if (thread->cut->StandsByWords()) {
    ++outcome_.cuts_by_words;
    RecordCut(node, thread);
    EndCut(node, thread);
    return;
  }
  const TimeNs there_ns = node->to_home.VisibleAt(now_ns_, 64, false);
  AtNode(node->to_node.VisibleAt(there_ns, 64, false) + Random(200), node, [this, node, thread] {
    const auto moved = thread->cut->MovedInHeap();
    if (!node->cache->life().IsAlive()) {
      LoseSession(node);
      return;
    }
    if (moved && moved->empty()) {
      RecordCut(node, thread);
      EndCut(node, thread);
      return;
    }
    if (++thread->cut_rounds == 200) {  // as if its time were up
      EndCut(node, thread);
      return;
    }
    thread->wanted = moved.value_or(std::vector<std::size_t>());
    if (moved) thread->cut->Begin(now_ns_);
    AtNode(Soon(), node, [this, node, thread] { NextMember(node, thread); });
  });
}

void World::RecordCut(Node* node, Thread* thread) {
  if (node->is_orphan) return;
  ++outcome_.cuts;
  CutRecord cut;
  for (const Thread::Member& member : thread->members) {
    Trace("n{}.{} has in its cut {} v{}, value {}", node->index, thread->lane,
          key_name_[member.key_index], member.version, member.value);
    cut.emplace_back(member.key_index, member.version);
    history_.push_back(
        {.kind = Operation::Kind::kGet,
         .client = static_cast<std::uint32_t>(node->index) * kClientsPerNode + thread->lane,
         .key = member.key_index,
         .value = member.value,
         .version = member.version,
         .begin_ns = thread->cut_begin_ns,
         .end_ns = now_ns_});
    is_void_.push_back(false);
    const fabric::ExtentHeader* header =
        member.got.pinned ? member.got.pinned->header : member.got.copy->header();
    if (ReadValue(header) != member.value) Fail("a pinned member of a cut changed");
  }
  cuts_.push_back(std::move(cut));
}

void World::DropCut(Thread* thread) {
  for (Thread::Member& member : thread->members) {
    if (member.got.pinned) member.got.pinned->pin->Drop();
  }
  thread->members.clear();
  thread->wanted.clear();
  thread->cut.reset();
}

void World::EndCut(Node* node, Thread* thread) {
  DropCut(thread);
  AtNode(Soon(), node, [node] { node->cache->ReleaseHolds(); });
  EndOperation(node, thread);
}

// ---------------------------------------------------------------------------------------------
// Transactions, driven as Session::Commit does, and the writes of invocations.

void World::PlanGroup(Thread* thread, std::uint32_t client, bool may_fail) {
  thread->group.clear();
  for (const std::uint64_t key : SomeKeys()) {
    Thread::Planned& planned = thread->group.emplace_back();
    Operation& record = planned.record;
    record = {.kind = Operation::Kind::kPut, .client = client, .key = key, .end_ns = kNever};
    planned.write = {.key_hash = key_hash_[key]};
    std::uint64_t known = 0;
    for (const Operation& operation : history_) {
      if (operation.key == key) known = std::max(known, operation.version);
    }
    if (may_fail && Chance(4)) {  // of what exists: else it may have been a deletion of nothing
      const bool is_delete = known != 0 && Chance(2);
      record.kind = is_delete ? Operation::Kind::kDelete : Operation::Kind::kConditionalPut;
      record.expected = planned.write.if_version = known;
    }
    if (record.kind == Operation::Kind::kDelete) {
      planned.write.key = key_name_[key];
    } else {
      record.value = ++next_value_;
      planned.payload = PayloadOf(record.value, Chance(6) ? 1 + Random(1'000) : 1 + Random(20));
    }
  }
}

void World::BeginTransaction(Node* node, Thread* thread) {
  PlanGroup(thread, static_cast<std::uint32_t>(node->index) * kClientsPerNode + thread->lane,
            /*may_fail=*/true);
  Ship(node, thread, 0, [this, node, thread](bool is_shipped) {
    if (is_shipped) {
      CommitGroup(node, thread);
    } else {
      EndOperation(node, thread);
    }
  });
}

// One draft after the other; `then` is told whether the home keeps all of them back.
void World::Ship(Node* node, Thread* thread, std::size_t next, std::function<void(bool)> then) {
  while (next < thread->group.size() && thread->group[next].payload.empty()) ++next;
  if (next == thread->group.size()) {
    then(true);
    return;
  }
  thread->on_reply = [this, node, thread, next, then](const Reply& reply) {
    if (reply.code == 0) {
      thread->group[next].write.draft = reply.extent_offset;
      Ship(node, thread, next + 1, then);
      return;
    }
    for (const Thread::Planned& planned : thread->group) {  // no room
      if (planned.write.draft == 0) continue;
      fabric::Request abort{};
      abort.op = Op::kAbort;
      abort.lane = fabric::kNoLane;
      abort.argument = planned.write.draft;
      node->requests.emplace_back(now_ns_, abort);
    }
    then(false);
  };
  const Thread::Planned& planned = thread->group[next];
  Send(node, thread, Op::kPut, key_name_[planned.record.key], planned.payload, fabric::kAnyVersion,
       fabric::kKeepBack);
}

std::string World::GroupPayload(const Thread& thread) {
  std::vector<std::byte> payload;
  for (const Thread::Planned& planned : thread.group) {
    fabric::AppendGroupWrite(planned.write, &payload);
  }
  return {reinterpret_cast<const char*>(payload.data()), payload.size()};
}

// Its writes begin now.
void World::RecordGroup(Thread* thread) {
  std::vector<std::size_t> records;
  for (Thread::Planned& planned : thread->group) {
    planned.record.begin_ns = now_ns_;
    records.push_back(history_.size());
    history_.push_back(planned.record);
    is_void_.push_back(false);
  }
  thread->group_index = groups_.size();
  groups_.push_back(std::move(records));
}

void World::BeginPuts(Node* node, Thread* thread) {
  for (const Thread::Planned& planned : thread->group) {
    thread->puts.push_back(
        std::make_unique<compute::Putc>(node->cache.get(), planned.write.key_hash));
  }
}

void World::EndPuts(Thread* thread, const Reply& reply) {
  for (std::size_t i = 0; i < thread->puts.size(); ++i) {
    const Reply own{.code = 0,
                    .reason = fabric::Reason::kNone,
                    .version = reply.version,
                    .extent_offset = thread->group[i].write.draft,
                    .value = {reply.value[0] & fabric::kUntracked, reply.value[1], 0}};
    thread->puts[i]->OnReply(own, thread->group[i].payload.size(), profile_.copies, now_ns_);
  }
}

void World::CommitGroup(Node* node, Thread* thread) {
  BeginPuts(node, thread);
  RecordGroup(thread);
  thread->on_reply = [this, node, thread](const Reply& reply) {
    OnGroupReply(thread, reply);
    EndOperation(node, thread);
  };
  Send(node, thread, Op::kCommitGroup, "", GroupPayload(*thread), 0);
}

void World::OnGroupReply(Thread* thread, const Reply& reply) {
  ++outcome_.transactions;
  for (std::size_t i = 0; i < thread->group.size(); ++i) {
    const std::size_t index = groups_[thread->group_index][i];
    Operation& done = history_[index];
    done.end_ns = now_ns_;
    if (reply.code == 0) {
      done.version = reply.version;
    } else if (reply.reason == fabric::Reason::kVersionMoved && reply.value[1] == i) {
      done.failed = true;
    } else {
      EndRefused(index, reply);
    }
    Trace("a group's {} has ended", sim::Describe(done));
  }
  if (reply.code == 0) EndPuts(thread, reply);
  thread->puts.clear();
}

// What the invocation has written goes with its result.
void World::EndInvocation(Node* node, Thread* thread) {
  thread->invocation_ns.reset();
  thread->group.clear();
  if (profile_.errors && Chance(5)) {
    ++outcome_.failed_attempts;
    AskForWork(node, thread, Result::kError);
    return;
  }
  if (Chance(2)) {
    AskForWork(node, thread, Result::kPlain);
    return;
  }
  PlanGroup(thread, kEffectsClient, /*may_fail=*/false);
  Ship(node, thread, 0, [this, node, thread](bool is_shipped) {
    if (!is_shipped) {
      AskForWork(node, thread, Result::kPlain);
      return;
    }
    thread->on_reply = [this, node, thread](const Reply& reply) {
      if (reply.code != 0) {
        AskForWork(node, thread, Result::kPlain);
        return;
      }
      RecordGroup(thread);
      FinishWithEffects(node, thread);
    };
    Send(node, thread, Op::kEffects, "", GroupPayload(*thread), thread->invocation);
  });
}

// What the index names, looked at between the home's steps; or nullptr.
const fabric::ExtentHeader* World::Current(std::size_t key) const {
  const fabric::IndexSlot* const slot =
      pool_->share(0).index.view().Find(key_hash_[key], key_name_[key]);
  if (slot == nullptr) return nullptr;
  return reinterpret_cast<const fabric::ExtentHeader*>(pool_->data() +
                                                       fabric::SlotExtentOffset(slot->load()));
}

// Right after the step in which the home got an attempt's result: nobody has written since. In mode
// sync they may become visible later; in a pool with a log they do, if at all.
void World::JudgeEffects(std::size_t group, std::uint64_t token) {
  if (profile_.mode == Coherence::kSync) return;
  if (AreVisible(group, token)) return;
  if (disk_) {
    unjudged_.emplace_back(group, token);
    return;
  }
  for (const std::size_t index : groups_[group]) is_void_[index] = true;
}

// REQUIRES: nobody else has written since they may have become visible.
bool World::AreVisible(std::size_t group, std::uint64_t token) {
  std::size_t visible = 0;
  const std::vector<std::size_t>& records = groups_[group];
  for (const std::size_t index : records) {
    Operation& record = history_[index];
    const fabric::ExtentHeader* const now = Current(record.key);
    if (now == nullptr || ReadValue(now) != record.value) continue;
    ++visible;
    record.version = now->version;
    record.end_ns = now_ns_;
  }
  if (visible == 0) return false;
  if (visible != records.size()) Fail("an invocation's writes are half visible");
  ++outcome_.effects;
  if (!committed_tokens_.insert(token).second) Fail("two attempts have written");
  if (failed_tokens_.contains(token)) Fail("an invocation has failed, and has written");
  return true;
}

// ---------------------------------------------------------------------------------------------

void World::CheckGroups() {
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> version_of;  // key and value
  for (std::size_t i = 0; i < history_.size(); ++i) {
    const Operation& operation = history_[i];
    if (operation.value != 0 && operation.version != 0) {
      version_of[{operation.key, operation.value}] = operation.version;
    }
  }
  for (const std::vector<std::size_t>& group : groups_) {
    // By whatever of it somebody has seen.
    std::uint64_t version = 0;
    for (const std::size_t index : group) {
      const Operation& write = history_[index];
      const auto seen = version_of.find({write.key, write.value});
      if (seen != version_of.end()) version = std::max(version, seen->second);
    }
    if (version == 0) continue;
    for (const std::size_t index : group) CheckWhole(history_[index], version);
    for (const CutRecord& cut : cuts_) CheckCut(cut, group, version);
  }
  if (profile_.mode == Coherence::kSync || profile_.restart_every > 0) return;
  for (const CutRecord& cut : cuts_) CheckCutInOrder(cut);
}

// A write of a group of which another write was seen.
void World::CheckWhole(const Operation& write, std::uint64_t version) {
  if (write.kind == Operation::Kind::kDelete) return;
  const fabric::ExtentHeader* const now = Current(write.key);
  if (now == nullptr || now->version >= version) return;  // it may have been deleted since
  Fail(fmt::format("{} is at version {}, and a group that wrote it at version {}",
                   key_name_[write.key], now->version, version));
}

// All of its keys before the group, or none.
void World::CheckCut(const CutRecord& cut, const std::vector<std::size_t>& group,
                     std::uint64_t version) {
  std::optional<bool> is_after;
  for (const auto& [key, read] : cut) {
    const bool is_member =
        std::any_of(group.begin(), group.end(),
                    [&, key = key](std::size_t index) { return history_[index].key == key; });
    if (!is_member) continue;
    if (is_after.value_or(read >= version) != (read >= version)) {
      Fail(fmt::format("a cut is torn: {} at version {}, and a group at version {}", key_name_[key],
                       read, version));
    }
    is_after = read >= version;
  }
}

// One home commits in the order of versions, in every mode but sync: what was superseded by a
// version is in no cut with that version, or a later one.
void World::CheckCutInOrder(const CutRecord& cut) {
  std::uint64_t newest = 0;
  for (const auto& [key, version] : cut) newest = std::max(newest, version);
  for (std::size_t i = 0; i < history_.size(); ++i) {
    const Operation& write = history_[i];
    if (is_void_[i] || write.failed || write.kind == Operation::Kind::kGet) continue;
    for (const auto& [key, version] : cut) {
      if (write.key != key || write.version <= version || write.version > newest) continue;
      Fail(fmt::format("a cut at version {} has {} at version {}, which version {} superseded",
                       newest, key_name_[key], version, write.version));
    }
  }
}

}  // namespace apta::sim
