#include "daemon/home.h"

#include <algorithm>
#include <cstring>

#include "fabric/check.h"
#include "fabric/control.h"
#include "fabric/hash.h"
#include "fabric/port.h"

namespace apta::daemon {

using absl::StatusCode;
using fabric::Op;
using fabric::Reason;
using scheduler::Waiter;

namespace {

// How many directory entries are looked at between two polls when a node has died.
constexpr std::uint64_t kForgetSlice = 4096;

// A node that is over its quota may be about to let go: it was asked at half of it.
#ifdef APTA_QUOTA_GRACE_NS  // the simulator's runs are short
constexpr TimeNs kQuotaGraceNs = APTA_QUOTA_GRACE_NS;
#else
constexpr TimeNs kQuotaGraceNs = 100'000'000;
#endif

// How often it is looked whether a node is past its acknowledgement deadline, or its quota.
constexpr TimeNs kMinCheckNs = 1'000'000;
constexpr TimeNs kMaxCheckNs = 50'000'000;

// How often it is looked again whether queued invocations can start, when shards are several.
constexpr TimeNs kQueuedPollNs = 500'000;

std::uint64_t DirectoryEntriesFor(const Pool& pool) {
  const auto shards = static_cast<std::uint64_t>(pool.shards());
  const std::uint64_t wanted = pool.options().directory_entries;
  if (wanted != 0) return (wanted + shards - 1) / shards;
  return std::max<std::uint64_t>(4096, pool.region().size_bytes() / 4096 / shards);
}

std::uint64_t QuotaFor(const Pool& pool) {
  const std::uint64_t wanted = pool.options().node_quota_bytes;
  return (wanted != 0 ? wanted : pool.region().size_bytes() / 2) /
         static_cast<std::uint64_t>(pool.shards());
}

// In a lane that is there for nothing else.
bool IsForWaiting(const Request& request) {
  return request.op == Op::kWait && request.lane >= fabric::kLanes &&
         request.lane < fabric::kLanes + fabric::kWaitLanes &&
         (request.flags & fabric::kBodyStaged) == 0 && request.key_bytes == 0 &&
         request.payload_bytes == 0;
}

// Whether an object's commit can take longer than one step.
bool MayBeBusy(const Pool& pool) {
  return pool.coherence() == fabric::Coherence::kSync || pool.shards() > 1 ||
         pool.journal() != nullptr;
}

}  // namespace

Home::Home(Pool* pool, int shard, bool hosts_functions, NodeGate* gate,
           const scheduler::Policy* policy)
    : pool_(pool),
      share_(&pool->share(shard)),
      gate_(gate),
      osc_(pool, shard),
      opc_(pool, shard),
      otc_(DirectoryEntriesFor(*pool)),
      oic_(gate, this),
      blocking_(MayBeBusy(*pool) ? std::make_optional<BlockingPuts>() : std::nullopt),
      groups_({.pool = pool,
               .shard = shard,
               .osc = &osc_,
               .opc = &opc_,
               .otc = &otc_,
               .oic = &oic_,
               .blocking = blocking_ ? &*blocking_ : nullptr,
               .quota_bytes = QuotaFor(*pool),
               .journal = pool->journal()},
              this),
      coherence_(pool->coherence()),
      ack_deadline_ns_(pool->options().ack_deadline_ms * 1'000'000),
      quota_bytes_(QuotaFor(*pool)) {
  scheduler::Environment* const environment = this;
  if (hosts_functions) {
    executor_ = std::make_unique<scheduler::ExecutorManager>(environment, policy);
  }
  uploads_.reserve(fabric::kLanes);
  share_->directory.store(&otc_);
  const std::uint64_t scrub_bytes_per_second = pool->options().scrub_bytes_per_second;
  if (pool->is_durable_region() && scrub_bytes_per_second != 0) {
    const auto shards = static_cast<std::uint64_t>(pool->shards());
    scrub_.emplace(pool, shard, (scrub_bytes_per_second + shards - 1) / shards);
  }
}

Home::~Home() { share_->directory.store(nullptr); }

void Home::AttachNode(NodeId node, std::string_view name) {
  quiet_until_ns_ = 0;
  node_[node] = Node{.name = std::string(name)};
  oic_.AttachNode(node);
  groups_.AttachNode(node);
}

// What the node has under way, and what it could still do to others, ends. Drafts and lent extents
// stay: its process may be writing or reading them.
void Home::FenceNode(NodeId node) {
  Node& state = node_[node];
  if (state.is_fenced) return;
  quiet_until_ns_ = 0;
  state.is_fenced = true;
  ++counters_.fenced_nodes;
  EndRequestsOf(node);
  groups_.FenceNode(node);
  oic_.FenceNode(node);
  RunDeferred();
}

void Home::EndRequestsOf(NodeId node) {
  std::erase_if(uploads_, [&](const Upload& upload) {
    if (upload.node != node) return false;
    if (upload.extent != 0) Discard(upload.extent);
    heads_.erase(LaneKey(upload));
    return true;
  });
  if (blocking_) {
    blocking_->ForgetNode(node, [this](std::uint64_t extent) { Discard(extent); });
  }
  if (executor_) executor_->ForgetNode(node);
}

// Invariant 4.
void Home::ForgetNode(NodeId node) {
  quiet_until_ns_ = 0;
  Node& state = node_[node];
  EndRequestsOf(node);
  for (const Draft& draft : state.drafts) Discard(draft.extent);
  for (const std::uint64_t extent : state.lent) Discard(extent);
  groups_.ForgetNode(node);
  state = Node{};
  oic_.ForgetNode(node);
  RunDeferred();
  forgetting_.push_back({node, Otc::kScanStart});
}

// Hostile: wraps. The key never does: it is shorter than a page.
std::uint64_t Home::StagingStart(const Request& request) {
  return request.staging_page % fabric::kStagingPages * fabric::kPageBytes;
}

bool Home::Step(NodeId node, const Request& request, TimeNs now_ns) {
  ++counters_.requests;
  now_ns_ = now_ns;
  quiet_until_ns_ = 0;
  const Waiter from{node, request.lane, request.request_id};
  const auto op = static_cast<std::uint8_t>(request.op);
  const std::uint64_t body_bytes = request.key_bytes + request.payload_bytes;
  const bool is_staged = (request.flags & fabric::kBodyStaged) != 0;
  const bool is_one_way = fabric::IsOneWay(request.op);
  const bool lane_fits =
      is_one_way ? request.lane == fabric::kNoLane : request.lane < fabric::kLanes;
  if (!lane_fits && executor_ && IsForWaiting(request)) {
    CallOnInvocation(from, request);
    return true;
  }
  if (op == 0 || op > fabric::kMaxOp || !lane_fits) {
    ++counters_.bad_requests;
    return false;  // there is no lane to answer in, or nothing that would be waited for
  }
  const bool is_call = request.op == Op::kCall || request.op == Op::kStart;
  const std::size_t max_key_bytes = is_call ? fabric::kMaxHeadBytes : fabric::kMaxKeyBytes;
  const bool is_busy = !is_one_way && (node_[node].uploading_lanes >> request.lane & 1) != 0;
  if (is_busy || (is_one_way && (is_staged || body_bytes != 0)) ||
      request.key_bytes > max_key_bytes || (!is_staged && body_bytes > fabric::kInlineBytes) ||
      (is_staged && gate_->StagedBytes(node, request.lane) < request.key_bytes)) {
    Reject(from);
    return false;
  }
  // The key is copied out of memory that the node can write before it is looked at (invariant 3).
  std::array<char, fabric::kMaxHeadBytes> key_copy;
  std::string_view key(reinterpret_cast<const char*>(request.body), request.key_bytes);
  if (is_staged) {
    std::memcpy(key_copy.data(), gate_->Staging(node, request.lane) + StagingStart(request),
                request.key_bytes);
    key = {key_copy.data(), request.key_bytes};
  }
  if (is_call && executor_) return BeginCall(from, request, key, now_ns);
  const bool wants_key = request.op <= Op::kCreate || request.op == Op::kRegister;
  if (wants_key != !key.empty() || (wants_key && !fabric::IsValidKey(key))) {
    Fail(from, StatusCode::kInvalidArgument, Reason::kBadKey);
    ++counters_.bad_requests;
    return false;
  }
  if (request.op >= Op::kRegister && !executor_ && request.op != Op::kCommitGroup) {
    Reject(from);
    return false;
  }
  const std::uint64_t key_hash = wants_key ? fabric::KeyHash(key) : 0;
  if (request.op <= Op::kCreate &&
      &pool_->share(static_cast<int>(share_->index.view().ShardOf(key_hash))) != share_) {
    Reject(from);  // not this key's home
    return false;
  }
  switch (request.op) {
    case Op::kGet:
      Get(from, key_hash, key, request.argument);
      return true;
    case Op::kPut:
      BeginPut(from, request, key_hash, key, now_ns);
      return true;
    case Op::kReady:
      BeginReady(from, request, now_ns);
      return true;
    case Op::kCommitGroup:
    case Op::kEffects:
      if (request.payload_bytes > fabric::kMaxGroupBytes) {
        Reject(from);
        return false;
      }
      BeginReady(from, request, now_ns);
      return true;
    case Op::kDelete:
      Delete(from, key_hash, key, request.argument);
      return true;
    case Op::kStat:
      Stat(from, key_hash, key);
      return true;
    case Op::kCreate:
      Create(from, key_hash, key, request.argument);
      return true;
    case Op::kCommit:
      CommitDraft(from, request.argument);
      return true;
    case Op::kAbort:
      return AbortDraft(node, request.argument);
    case Op::kRelease:
      return Release(node, request.argument);
    case Op::kRegister:
      Register(from, key, request.argument);
      return true;
    case Op::kUnready:
    case Op::kWait:
    case Op::kPoll:
    case Op::kForget:
    case Op::kExplain:
      CallOnInvocation(from, request);
      return true;
    case Op::kCall:
    case Op::kStart:
      break;  // above
  }
  return false;
}

int Home::AdvanceUploads(TimeNs now_ns) {
  int done = 0;
  for (std::size_t i = 0; i < uploads_.size();) {
    const std::uint64_t before = uploads_[i].drained_bytes;
    Upload upload = uploads_[i];
    if (!AdvanceUpload(&upload)) {
      uploads_[i] = upload;
      done += upload.drained_bytes != before;
      ++i;
      continue;
    }
    uploads_[i] = uploads_.back();
    uploads_.pop_back();
    node_[upload.node].uploading_lanes &= ~(std::uint64_t{1} << upload.lane);
    const auto head = heads_.find(LaneKey(upload));
    if (head == heads_.end()) {
      EndUpload(upload, nullptr, now_ns);
    } else {
      const std::string bytes = std::move(head->second);
      heads_.erase(head);
      const auto said = fabric::ParseCallHead(bytes);  // did so when it came
      EndUpload(upload, &*said, now_ns);
    }
    ++done;
  }
  return done;
}

// Whether nothing comes of a poll before the next deadline, unless somebody begins something.
bool Home::IsQuiet() const {
  return uploads_.empty() && oic_.IsQuiet() && forgetting_.empty() &&
         (!blocking_ || (blocking_->IsIdle() && groups_.IsIdle())) &&
         (!executor_ || !executor_->has_queued()) && (!scrub_ || !scrub_->IsDue(now_ns_));
}

int Home::PollAll() {
  const TimeNs now_ns = now_ns_;
  int done = uploads_.empty() ? 0 : AdvanceUploads(now_ns);
  done += oic_.Poll(now_ns);
  if (blocking_) RunDeferred();
  if (now_ns >= next_check_ns_) CheckDebts();
  if (executor_ && executor_->IsDue(now_ns)) done += executor_->Poll(now_ns);
  if (scrub_) {  // nothing that would keep a home awake
    if (const auto finding = scrub_->Step(now_ns)) Bury(*finding);
  }
  if (!forgetting_.empty()) {
    Forgetting& forgetting = forgetting_.front();
    forgetting.position = otc_.ForgetNode(forgetting.node, forgetting.position, kForgetSlice);
    if (forgetting.position == 0) {
      const NodeId node = forgetting.node;
      forgetting_.pop_front();
      gate_->OnNodeForgotten(node);
    }
    ++done;
  }
  if (const std::uint64_t held_bytes = oic_.held_bytes(); held_bytes != told_held_bytes_) {
    told_held_bytes_ = held_bytes;
    // Relaxed: a statistic that other threads read.
    share_->held_bytes.store(held_bytes, std::memory_order_relaxed);
    if (held_bytes > opc_.capacity_bytes() / 8) NudgeOwing();
  }
  if (done == 0 && IsQuiet()) quiet_until_ns_ = next_deadline_ns();
  return done;
}

void Home::NudgeOwing() {
  oic_.owing().ForEach([&](NodeId node) { Ask(node); });
}

// For the scheduler: once for what is owed now, to whichever home.
void Home::AskForAcknowledgements(NodeId node) {
  std::uint64_t owed = 0;
  for (int shard = 0; shard < pool_->shards(); ++shard) {
    // Of which shard it is matters: another debt must not look like this one.
    owed = owed * 1'000'003 + pool_->share(shard).owes[node].load(std::memory_order_acquire);
  }
  if (owed == 0 || owed == node_[node].nudged_for) return;
  node_[node].nudged_for = owed;
  gate_->Nudge(node);
}

// To any home of the pool: an object that a function reads may live on any shard. One that is
// declared has one home, which knows for itself; no home has to be asked (owed_keys.h).
bool Home::OwesAcknowledgement(NodeId node, bool declares_reads,
                               absl::Span<const std::uint64_t> reads) const {
  if (!fabric::Upholds(fabric::Rule::kScheduleOnlyClean)) return false;
  if (declares_reads) {
    return std::any_of(reads.begin(), reads.end(), [&](std::uint64_t key_hash) {
      const auto shard = static_cast<int>(share_->index.view().ShardOf(key_hash));
      return pool_->share(shard).owed_keys.MayOwe(node, key_hash);
    });
  }
  for (int shard = 0; shard < pool_->shards(); ++shard) {
    if (pool_->share(shard).owes[node].load(std::memory_order_acquire) != 0) return true;
  }
  return false;
}

void Home::Ask(NodeId node) {
  if (node_[node].nudged_at == oic_.Issued(node)) return;
  node_[node].nudged_at = oic_.Issued(node);
  gate_->Nudge(node);
}

void Home::OnAcknowledged(const RoundSpec& round) {
  otc_.AckComplete(round.key_hash);
  if (coherence_ != fabric::Coherence::kSync || round.is_eviction) return;
  groups_.OnAcknowledged(round);
  if (const auto change = blocking_->Take(round.key_hash, round.version)) Finish(*change);
}

// Asks nodes that have been silent for a while, and fences those that stay so. All are judged
// before the first is fenced: puts that waited for it commit, and give the others new debts.
void Home::CheckDebts() {
  next_check_ns_ = now_ns_ + std::clamp(ack_deadline_ns_ / 16, kMinCheckNs, kMaxCheckNs);
  if (oic_.open_rounds() == 0 && oic_.owing().empty()) return;
  std::vector<std::pair<NodeId, FenceReason>> overdue;
  oic_.answering().ForEach([&](NodeId node) {
    if (const auto reason = CheckDebt(node)) overdue.emplace_back(node, *reason);
  });
  for (const auto& [node, reason] : overdue) {
    FenceNode(node);
    gate_->Fence(node, reason);
  }
}

// Why the node is to be fenced, if it is.
std::optional<FenceReason> Home::CheckDebt(NodeId node) {
  Node& state = node_[node];
  const bool owes = oic_.owing().Contains(node);
  const TimeNs silent_ns = owes ? now_ns_ - std::min(now_ns_, oic_.OwingSince(node)) : 0;
  const std::uint64_t held_bytes = oic_.HeldBytesOf(node);
  if (owes && (silent_ns >= ack_deadline_ns_ / 4 || held_bytes > quota_bytes_ / 2)) {
    Ask(node);
  }
  if (held_bytes <= quota_bytes_) {
    state.over_quota_since_ns = 0;
  } else if (state.over_quota_since_ns == 0) {
    state.over_quota_since_ns = now_ns_;
  }
  const bool is_over_quota =
      state.over_quota_since_ns != 0 && now_ns_ - state.over_quota_since_ns >= kQuotaGraceNs;
  if (silent_ns < ack_deadline_ns_ && !is_over_quota) return std::nullopt;
  return FenceReason{.outstanding = oic_.Outstanding(node),
                     .silent_ns = silent_ns,
                     .held_bytes = held_bytes,
                     .allowed_silent_ns = ack_deadline_ns_,
                     .allowed_bytes = quota_bytes_};
}

// A delete that leaves a gravestone. Those who have the object in place are told to let go of it;
// its extent stays out of use until the next start, as whatever made it decay may do it again.
void Home::Bury(const Scrub::Finding& finding) {
  if (blocking_ && blocking_->IsBusy(finding.key_hash)) return;  // the next round finds it again
  if (finding.is_key_whole && fabric::TracksSharers(coherence_)) {
    Otc::Superseded superseded = otc_.Delete(finding.key_hash, Otc::kNobody, oic_.answering());
    superseded.holders.Keep(oic_.present());
    if (!superseded.holders.empty()) {
      oic_.IssueRound({.key_hash = finding.key_hash,
                       .version = opc_.NextVersion(),
                       .holders = superseded.holders,
                       .counts = superseded.counts},
                      now_ns_);
    }
  }
  opc_.Bury(finding.slot, finding.key_hash);
  gate_->OnDamaged(pool_, finding.key, finding.extent);
}

TimeNs Home::next_deadline_ns() const {
  TimeNs deadline_ns = executor_ ? executor_->next_deadline_ns() : ~TimeNs{0};
  // Nobody tells us when a node has acknowledged to another shard.
  if (executor_ && executor_->has_queued() && pool_->shards() > 1) {
    deadline_ns = std::min(deadline_ns, now_ns_ + kQueuedPollNs);
  }
  // Debts are looked at from time to time as long as there are some.
  if (oic_.open_rounds() > 0) deadline_ns = std::min(deadline_ns, next_check_ns_);
  if (scrub_) deadline_ns = std::min(deadline_ns, scrub_->wake_ns());
  return deadline_ns;
}

void Home::OnReleased(std::uint64_t extent) {
  if (!groups_.IsStillNamed(extent)) Discard(extent);
}

void Home::Discard(std::uint64_t extent) {
  if (opc_.Release(extent)) return;
  APTA_CHECK(pool_->trusted());  // only there clients can write to what we read it from
  ++counters_.tampered_extents;
}

void Home::Fail(const Waiter& to, StatusCode code, Reason reason, std::uint64_t value0,
                std::uint64_t value1, std::uint64_t value2) {
  if (to.lane == fabric::kNoLane) return;
  gate_->Answer(to,
                {.code = static_cast<std::uint16_t>(code),
                 .reason = reason,
                 .value = {value0, value1, value2}},
                0);
}

void Home::FailFull(const Waiter& to, std::uint64_t key_bytes, std::uint64_t payload_bytes) {
  const std::uint64_t capacity_bytes = opc_.capacity_bytes();
  if (payload_bytes > fabric::kMaxPayloadBytes ||
      ObjectManager::BucketBytes(fabric::ExtentBytes(key_bytes, payload_bytes)) > capacity_bytes) {
    Fail(to, StatusCode::kResourceExhausted, Reason::kObjectTooLarge, payload_bytes,
         capacity_bytes);
    return;
  }
  NudgeOwing();  // what they hold may be what is missing; the node tries again for a while
  Fail(to, StatusCode::kResourceExhausted, Reason::kPoolFull, payload_bytes,
       opc_.used_bytes() - oic_.held_bytes(), oic_.held_bytes());
}

void Home::Reject(const Waiter& to) {
  ++counters_.bad_requests;
  Fail(to, StatusCode::kInvalidArgument, Reason::kBadRequest);
}

}  // namespace apta::daemon
