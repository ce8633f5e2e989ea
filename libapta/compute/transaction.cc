// Sessions and several keys at once: transactions, what invocations write, GetMany.

#include "apta/client.h"

#include <sched.h>

#include <algorithm>
#include <deque>

#include "compute/cut.h"
#include "compute/node_runtime.h"
#include "compute/session.h"
#include "compute/write_set.h"
#include "fabric/hash.h"
#include "fmt/format.h"

namespace apta {
namespace compute {

using fabric::GroupWrite;
using fabric::Op;
using fabric::Reply;

// ---------------------------------------------------------------------------------------------
// Commit groups.

// Sends the values to their homes, which keep them back.
absl::StatusOr<std::vector<GroupWrite>> Session::Ship(const WriteSet& set) {
  if (!set.status().ok()) return set.status();
  std::vector<GroupWrite> shipped;
  for (const WriteSet::Write& write : set.writes()) {
    GroupWrite& entry = shipped.emplace_back();
    entry.key_hash = fabric::KeyHash(write.key);
    entry.if_version = write.if_version;
    if (!write.value) {
      entry.key = write.key;
      continue;
    }
    Reply reply;
    absl::Status status = AskRoomy(ShardOf(entry.key_hash),
                                   {.op = Op::kPut,
                                    .flags = fabric::kKeepBack,
                                    .key = write.key,
                                    .payload = *write.value,
                                    .argument = fabric::kAnyVersion,
                                    .timeout_ns = timeout_ns_},
                                   &reply);
    if (status.ok() && reply.code != 0) status = MakeError(reply, write.key);
    if (!status.ok()) {
      shipped.pop_back();
      Unship(shipped);
      return status;
    }
    entry.draft = reply.extent_offset;
  }
  return shipped;
}

void Session::Unship(const std::vector<GroupWrite>& shipped) {
  for (const GroupWrite& entry : shipped) {
    if (entry.draft != 0) Tell(ShardOf(entry.key_hash), Op::kAbort, entry.draft);
  }
}

// Before the home commits, as for each put.
std::deque<Putc> Session::BeginPuts(const std::vector<GroupWrite>& shipped) {
  std::deque<Putc> puts;
  for (const GroupWrite& entry : shipped) puts.emplace_back(cache_.get(), entry.key_hash);
  return puts;
}

// `reply`: the home has committed them.
void Session::EndPuts(std::deque<Putc>* puts, const std::vector<GroupWrite>& shipped,
                      const WriteSet& set, const Reply& reply) {
  for (std::size_t i = 0; i < puts->size(); ++i) {
    const WriteSet::Write& write = set.writes()[i];
    // The node's own records of it are in its rings; what has one home may be cached.
    const Reply own{.code = 0,
                    .reason = fabric::Reason::kNone,
                    .version = reply.version,
                    .extent_offset = shipped[i].draft,
                    .value = {reply.value[0] & fabric::kUntracked, reply.value[1], 0}};
    (*puts)[i].OnReply(own, write.value ? write.value->size() : 0, copies_, NowOfLink());
  }
}

absl::StatusOr<Version> Session::Commit(const WriteSet& set) {
  const absl::StatusOr<std::vector<GroupWrite>> shipped = Ship(set);
  if (!shipped.ok()) return shipped.status();
  std::vector<std::byte> payload;
  std::deque<Putc> puts = BeginPuts(*shipped);
  int shard = shipped->empty() ? 0 : fabric::kMaxShards;
  for (const GroupWrite& entry : *shipped) {
    fabric::AppendGroupWrite(entry, &payload);
    shard = std::min(shard, ShardOf(entry.key_hash));
  }
  const absl::StatusOr<Reply> reply =
      Ask(shard, {.op = Op::kCommitGroup, .payload = payload, .timeout_ns = timeout_ns_});
  if (!reply.ok()) return reply.status();
  if (reply->code != 0) {
    const bool names_one =
        reply->reason == fabric::Reason::kVersionMoved && reply->value[1] < set.writes().size();
    return MakeError(*reply, names_one ? std::string_view(set.writes()[reply->value[1]].key)
                                       : std::string_view("transaction"));
  }
  EndPuts(&puts, *shipped, set, *reply);
  return reply->version;
}

absl::Status Session::FinishWith(const WriteSet& set, std::uint64_t attempt, BytesView result) {
  const absl::StatusOr<std::vector<GroupWrite>> shipped = Ship(set);
  if (!shipped.ok()) return shipped.status();
  std::vector<std::byte> payload;
  for (const GroupWrite& entry : *shipped) fabric::AppendGroupWrite(entry, &payload);
  Reply kept;
  absl::Status status = AskRoomy(
      0, {.op = Op::kEffects, .payload = payload, .argument = attempt, .timeout_ns = timeout_ns_},
      &kept);
  if (status.ok()) status = fabric::MakeStatus(kept, "what the function wrote");
  if (!status.ok()) {
    Unship(*shipped);
    return status;
  }
  std::deque<Putc> puts = BeginPuts(*shipped);
  const absl::StatusOr<Reply> reply = Ask(0, {.op = Op::kReady,
                                              .flags = fabric::kHasEffects,
                                              .payload = result,
                                              .argument = attempt,
                                              .timeout_ns = kNoTimeout});
  if (!reply.ok()) return reply.status();
  if (reply->code != 0) return fabric::MakeStatus(*reply, "the function's result");
  EndPuts(&puts, *shipped, set, *reply);
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------------------------
// GetMany.

absl::StatusOr<std::vector<Object>> Session::GetMany(absl::Span<const std::string> keys) {
  Cut cut(cache_.get());
  std::vector<Object> objects(keys.size());
  std::vector<std::size_t> wanted;
  for (const std::string& key : keys) {
    cut.Add(fabric::KeyHash(key), key);
    wanted.push_back(wanted.size());
  }
  fabric::TimeNs began_ns = 0;
  while (true) {
    if (!wanted.empty()) cut.Begin(NowOfLink());
    for (const std::size_t i : wanted) {
      absl::StatusOr<Object> object = Get(keys[i]);
      if (!object.ok()) return object.status();
      cut.Got(i, object->version(), (object->pin_ & Object::kCopy) == 0);
      objects[i] = *std::move(object);
    }
    const bool stands = cut.StandsByWords();
    if (!stands) AwaitHeap(keys.size());
    const auto moved = stands ? std::vector<std::size_t>() : cut.MovedInHeap();
    if (!cache_->life().IsAlive()) FailDead();
    if (has_failed()) return Ended();
    if (moved && moved->empty()) return objects;
    wanted = moved.value_or(std::vector<std::size_t>());
    const fabric::TimeNs now_ns = fabric::RealClock::ReadNow();
    if (began_ns == 0) began_ns = now_ns;
    if (now_ns - began_ns > timeout_ns_) {
      return absl::DeadlineExceededError(
          fmt::format("pool {}: {} objects changed too often to be read as one for {} ms", pool_,
                      keys.size(), timeout_ns_ / 1'000'000));
    }
    if (wanted.empty()) sched_yield();  // a group is half visible: its home's turn
  }
}

// Over an emulated link: one look at the index for each object, all under way at once.
void Session::AwaitHeap(std::size_t objects) {
  if (!is_link_emulated_) return;
  fabric::TimeNs back_ns = 0;
  for (int way = 0; way < 2; ++way) {
    {
      std::lock_guard<std::mutex> lock(link_mutex_);
      back_ns = to_home_.VisibleAt(fabric::RealClock::ReadNow(), objects * fabric::kCacheLineBytes,
                                   /*is_call=*/false);
    }
    while (fabric::RealClock::ReadNow() < back_ns) sched_yield();
  }
}

}  // namespace compute

// ---------------------------------------------------------------------------------------------

absl::StatusOr<std::vector<Object>> Client::GetMany(absl::Span<const std::string> keys) {
  compute::Session* session = runtime_->session();
  if (session == nullptr) return runtime_->WhyNot();
  for (const std::string& key : keys) {
    if (!fabric::IsValidKey(key)) return fabric::CheckKey(key);
  }
  return session->GetMany(keys);
}

Transaction Client::Begin() { return Transaction(runtime_); }

Transaction::Transaction(std::shared_ptr<compute::NodeRuntime> runtime)
    : runtime_(std::move(runtime)), writes_(std::make_unique<compute::WriteSet>()) {}
Transaction::Transaction(Transaction&&) noexcept = default;
Transaction& Transaction::operator=(Transaction&&) noexcept = default;
Transaction::~Transaction() = default;

void Transaction::Put(std::string_view key, BytesView value, const PutOptions& options) {
  if (writes_ != nullptr) writes_->Put(key, value, compute::Precondition(options));
}

void Transaction::Delete(std::string_view key, const PutOptions& options) {
  if (writes_ != nullptr) writes_->Delete(key, compute::Precondition(options));
}

absl::StatusOr<Version> Transaction::Commit() {
  if (writes_ == nullptr) {
    return absl::FailedPreconditionError("the transaction was committed already");
  }
  const std::unique_ptr<compute::WriteSet> writes = std::move(writes_);
  compute::Session* session = runtime_->session();
  if (session == nullptr) return runtime_->WhyNot();
  return session->Commit(*writes);
}

}  // namespace apta
