// What a home does with commit groups: between requests, the Executor Manager and GroupCommits.

#include <cstring>
#include <utility>

#include "daemon/home.h"
#include "fabric/control.h"
#include "fmt/format.h"

namespace apta::daemon {

using absl::StatusCode;
using fabric::GroupWrite;
using fabric::Op;
using fabric::Reason;
using scheduler::Waiter;

void Home::KeepBack(const Waiter& from, std::uint64_t key_hash, std::uint64_t extent) {
  if (groups_.KeepBack(from.node, key_hash, extent)) {
    gate_->Answer(from, {.extent_offset = extent}, 0);
    return;
  }
  Discard(extent);
  Fail(from, StatusCode::kResourceExhausted, Reason::kKeptBackFull, groups_.kept_bytes(from.node),
       quota_bytes_);
}

// The request's payload is copied before it is looked at: in a trusted pool clients can write to
// where it stands (invariant 3).
void Home::EndGroup(const Upload& upload) {
  const Waiter from{upload.node, upload.lane, upload.request_id};
  std::vector<std::byte> payload(upload.body_bytes - upload.payload_offset);
  if (upload.extent != 0) {
    std::memcpy(payload.data(), pool_->data() + upload.payload, payload.size());
    Discard(upload.extent);
  }
  std::optional<std::vector<GroupWrite>> writes = fabric::ParseGroup(payload);
  if (!writes || !groups_.IsGroup(&*writes)) {
    Reject(from);
    return;
  }
  if (upload.op == Op::kCommitGroup) {
    groups_.Commit(from, *std::move(writes), /*caches=*/true);
    RunDeferred();
  } else if (groups_.SetEffects(upload.node, upload.argument, *std::move(writes))) {
    gate_->Answer(from, {}, 0);
  } else {
    Fail(from, StatusCode::kResourceExhausted, Reason::kQueueFull, GroupCommits::kMaxEffects);
  }
}

// An attempt has ended. True: it counts, and what it is going to write commits with its result,
// which belongs to the group from here on. False: it has no such writes, or they were dropped.
bool Home::CommitEffects(const Upload& upload, scheduler::Payload result) {
  std::optional<std::vector<GroupWrite>> writes = groups_.TakeEffects(upload.node, upload.argument);
  if (!writes) return false;
  executor_->Poll(now_ns_);  // ends it if its deadline is over
  const bool is_good = (upload.flags & fabric::kHasEffects) != 0;
  if (is_good && executor_->BeginCommit(upload.node, upload.argument)) {
    // The worker waits for the commit, learns its version, and caches what it has written.
    const Waiter worker{upload.node, upload.lane, upload.request_id};
    groups_.Commit(worker, *std::move(writes), /*caches=*/true, upload.argument, result);
    RunDeferred();
    return true;
  }
  if (is_good && !fabric::Upholds(fabric::Rule::kOneAttemptCommits)) {
    const Waiter nobody{upload.node, fabric::kNoLane, 0};
    groups_.Commit(nobody, *std::move(writes), /*caches=*/false);
    return false;
  }
  groups_.DropEffects(upload.node, *std::move(writes));
  return false;
}

void Home::OnGroupEnded(const GroupCommits::Ended& ended) {
  const bool has_committed = ended.version != 0;
  if (!has_committed && ended.error.reason == Reason::kPoolFull) NudgeOwing();
  if (ended.from.lane != fabric::kNoLane) {
    const Reply committed{
        .version = ended.version,
        .extent_offset = ended.extent,
        .value = {ended.untracked ? fabric::kUntracked : std::uint64_t{0}, ended.issued, 0}};
    gate_->Answer(ended.from, has_committed ? committed : ended.error, 0);
  }
  if (ended.invocation == 0) return;
  if (has_committed) {
    executor_->EndCommit(ended.invocation, StatusCode::kOk, ended.result, now_ns_);
    return;
  }
  Release(ended.result);
  if (ended.error.reason == Reason::kNodeLost) {
    executor_->LoseCommit(ended.invocation, now_ns_);
    return;
  }
  const absl::Status why = fabric::MakeStatus(ended.error, "committing what the function wrote");
  executor_->EndCommit(ended.invocation, why.code(),
                       MakeText({why.message().data(), why.message().size()}), now_ns_);
}

void Home::SendToHome(int shard, GroupMessage message) {
  gate_->SendToHome(pool_, shard, std::move(message));
}

void Home::OnLogged(const std::vector<LogOutcome>& outcomes, TimeNs now_ns) {
  now_ns_ = now_ns;
  quiet_until_ns_ = 0;
  for (const LogOutcome& outcome : outcomes) groups_.OnLogged(outcome);
  RunDeferred();
}

void Home::OnGroupMessage(GroupMessage message, TimeNs now_ns) {
  now_ns_ = now_ns;
  quiet_until_ns_ = 0;
  groups_.OnMessage(std::move(message));
  RunDeferred();
}

}  // namespace apta::daemon
