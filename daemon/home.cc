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

// Beyond any region; what merely does not fit into this pool is answered with its size.
constexpr std::uint64_t kMaxPayloadBytes = std::uint64_t{1} << 48;

std::uint64_t DirectoryEntriesFor(const Pool& pool) {
  return std::max<std::uint64_t>(
      4096, pool.region().size_bytes() / 4096 / static_cast<std::uint64_t>(pool.shards()));
}

}  // namespace

Home::Home(Pool* pool, int shard, bool hosts_functions, NodeGate* gate)
    : pool_(pool),
      share_(&pool->share(shard)),
      gate_(gate),
      osc_(pool, shard),
      opc_(pool, shard),
      otc_(DirectoryEntriesFor(*pool)),
      oic_(gate, this) {
  scheduler::Environment* const environment = this;
  if (hosts_functions) executor_ = std::make_unique<scheduler::ExecutorManager>(environment);
  uploads_.reserve(fabric::kLanes);
}

void Home::AttachNode(NodeId node) {
  node_[node] = Node{};
  oic_.AttachNode(node);
}

// Invariant 4.
void Home::ForgetNode(NodeId node) {
  Node& state = node_[node];
  std::erase_if(uploads_, [&](const Upload& upload) {
    if (upload.node != node) return false;
    if (upload.extent != 0) Discard(upload.extent);
    return true;
  });
  for (const Draft& draft : state.drafts) Discard(draft.extent);
  if (executor_) executor_->ForgetNode(node);
  for (const std::uint64_t extent : state.lent) Discard(extent);
  state = Node{};
  oic_.ForgetNode(node);
  forgetting_.push_back({node, Otc::kScanStart});
}

bool Home::Step(NodeId node, const Request& request, TimeNs now_ns) {
  ++counters_.requests;
  const Waiter from{node, request.lane, request.request_id};
  const auto op = static_cast<std::uint8_t>(request.op);
  const std::uint64_t body_bytes = request.key_bytes + request.payload_bytes;
  const bool is_staged = (request.flags & fabric::kBodyStaged) != 0;
  const bool is_one_way = fabric::IsOneWay(request.op);
  const bool lane_fits =
      is_one_way ? request.lane == fabric::kNoLane : request.lane < fabric::kLanes;
  if (op == 0 || op > fabric::kMaxOp || !lane_fits) {
    ++counters_.bad_requests;
    return false;  // there is no lane to answer in, or nothing that would be waited for
  }
  const bool is_busy = !is_one_way && (node_[node].uploading_lanes >> request.lane & 1) != 0;
  if (is_busy || (is_one_way && (is_staged || body_bytes != 0)) ||
      request.key_bytes > fabric::kMaxKeyBytes || request.payload_bytes > kMaxPayloadBytes ||
      (!is_staged && body_bytes > fabric::kInlineBytes) ||
      (is_staged && gate_->StagedBytes(node, request.lane) < request.key_bytes)) {
    Reject(from);
    return false;
  }
  // The key is copied out of memory that the node can write before it is looked at (invariant 3).
  std::array<char, fabric::kMaxKeyBytes> key_copy;
  std::string_view key(reinterpret_cast<const char*>(request.body), request.key_bytes);
  if (is_staged) {
    std::memcpy(key_copy.data(), gate_->Staging(node, request.lane), request.key_bytes);
    key = {key_copy.data(), request.key_bytes};
  }
  const bool wants_key = request.op <= Op::kCreate || request.op == Op::kRegister ||
                         request.op == Op::kCall || request.op == Op::kStart;
  if (wants_key != !key.empty() || (wants_key && !fabric::IsValidKey(key))) {
    Fail(from, StatusCode::kInvalidArgument, Reason::kBadKey);
    ++counters_.bad_requests;
    return false;
  }
  if (request.op >= Op::kRegister && !executor_) {
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
      Get(from, key_hash, key);
      return true;
    case Op::kPut:
    case Op::kCall:
    case Op::kStart:
    case Op::kReady:
      BeginUpload(from, request, key_hash, key, now_ns);
      return true;
    case Op::kDelete:
      Delete(from, key_hash, key, request.argument);
      return true;
    case Op::kStat:
      Stat(from, key_hash, key);
      return true;
    case Op::kCreate:
      Create(from, key_hash, key, std::min(request.argument, kMaxPayloadBytes));
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
      CallOnInvocation(from, request);
      return true;
  }
  return false;
}

int Home::Poll(TimeNs now_ns) {
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
    EndUpload(upload, now_ns);
    ++done;
  }
  done += oic_.Poll();
  if (executor_) done += executor_->Poll(now_ns);
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
  // Relaxed: a statistic that other threads read.
  share_->held_bytes.store(oic_.held_bytes(), std::memory_order_relaxed);
  if (oic_.held_bytes() > opc_.capacity_bytes() / 8) NudgeOwing();
  return done;
}

void Home::NudgeOwing() {
  oic_.owing().ForEach([&](NodeId node) { AskForAcknowledgements(node); });
}

void Home::AskForAcknowledgements(NodeId node) {
  if (node_[node].nudged_at == oic_.Issued(node)) return;
  node_[node].nudged_at = oic_.Issued(node);
  gate_->Nudge(node);
}

void Home::OnAcknowledged(std::uint64_t key_hash) { otc_.AckComplete(key_hash); }

void Home::OnReleased(std::uint64_t extent) { Discard(extent); }

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
  if (ObjectManager::BucketBytes(fabric::ExtentBytes(key_bytes, payload_bytes)) > capacity_bytes) {
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
