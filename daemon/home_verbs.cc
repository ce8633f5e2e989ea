// What a home does with each request, one function a verb.

#include <algorithm>
#include <cstring>
#include <functional>

#include "daemon/home.h"
#include "fabric/port.h"

namespace apta::daemon {
namespace {

// Takes the element that names `extent` out of a list without an order.
template <typename Element, typename ExtentOf>
std::optional<Element> Take(std::vector<Element>* elements, std::uint64_t extent,
                            ExtentOf extent_of) {
  const auto found = std::find_if(elements->begin(), elements->end(), [&](const Element& element) {
    return std::invoke(extent_of, element) == extent;
  });
  if (found == elements->end()) return std::nullopt;
  const Element taken = *found;
  *found = elements->back();
  elements->pop_back();
  return taken;
}

}  // namespace

using absl::StatusCode;
using fabric::Op;
using fabric::Reason;
using scheduler::Waiter;

void Home::Get(const Waiter& from, std::uint64_t key_hash, std::string_view key,
               std::uint64_t held_version) {
  if (blocking_ && blocking_->IsUnreadable(key_hash)) {
    blocking_->Defer({.from = from, .op = Op::kGet, .key_hash = key_hash, .key = std::string(key)});
    return;
  }
  const std::optional<Osc::Served> served = osc_.Translate(key_hash, key);
  if (!served) {
    Fail(from, StatusCode::kNotFound, Reason::kNoSuchObject);
    return;
  }
  bool tracked = false;
  if (fabric::TracksSharers(coherence_)) {
    tracked = otc_.Get(key_hash, from.node);
    counters_.untracked += tracked ? 0 : 1;
    EvictCold(key_hash);
  }
  const std::uint64_t bytes = served->version == held_version ? 0 : served->payload_bytes;
  gate_->Answer(from,
                {.version = served->version,
                 .extent_offset = served->extent,
                 .value = {tracked ? 0 : fabric::kUntracked}},
                bytes);
}

void Home::Stat(const Waiter& from, std::uint64_t key_hash, std::string_view key) {
  const std::optional<Osc::Served> served = osc_.Translate(key_hash, key);
  if (!served) {
    Fail(from, StatusCode::kNotFound, Reason::kNoSuchObject);
    return;
  }
  const auto sharers = static_cast<std::uint64_t>(otc_.sharers(key_hash).size());
  gate_->Answer(from, {.version = served->version, .value = {served->payload_bytes, sharers}}, 0);
}

bool Home::CheckVersion(const Waiter& from, const std::optional<Osc::Served>& served,
                        std::uint64_t if_version) {
  const Version current = served ? served->version : 0;
  if (if_version == fabric::kAnyVersion || if_version == current) return true;
  Fail(from, StatusCode::kFailedPrecondition, Reason::kVersionMoved, current);
  return false;
}

// A commit, in the order of protocol.md: first the invalidations, then the index, then the answer
// (invariant 2). The OIC keeps the old extent until nobody can read it.
// Model rule: GONE_NOT_ASKED, PUT_NEVER_WAITS, INVALIDATE_BEFORE_COMMIT, SYNC_WAITS
void Home::Supersede(Change* change, const std::optional<Osc::Served>& old) {
  Otc::Superseded superseded;
  if (fabric::TracksSharers(coherence_)) {
    superseded = change->extent != 0
                     ? otc_.Put(change->key_hash, change->from.node, oic_.answering())
                     : otc_.Delete(change->key_hash, change->from.node, oic_.answering());
    superseded.holders.Keep(oic_.present());
    counters_.untracked += superseded.tracked || change->extent == 0 ? 0 : 1;
  }
  change->tracked = superseded.tracked;
  const bool blocks = coherence_ == fabric::Coherence::kSync && superseded.counts &&
                      fabric::Upholds(fabric::Rule::kSyncWaits);
  const bool keeps_old = fabric::Upholds(fabric::Rule::kReleaseAfterAck);
  if (blocks) blocking_->Begin(*change);
  if (!superseded.holders.empty()) {
    oic_.IssueRound({.key_hash = change->key_hash,
                     .version = change->version,
                     .extent = old && keeps_old ? old->extent : 0,
                     .extent_bytes = old ? opc_.LiveBytes(old->extent) : 0,
                     .holders = superseded.holders,
                     .writer = change->from.node,
                     .counts = superseded.counts},
                    now_ns_);
  }
  if (superseded.holders.Contains(change->from.node) &&
      oic_.answering().Contains(change->from.node)) {
    change->own_sequence = oic_.Issued(change->from.node);
    change->old_extent = old && keeps_old ? old->extent : 0;
  }
  if (blocks) {
    NudgeOwing();  // somebody waits for them
    return;
  }
  Finish(*change);
  if (old && (superseded.holders.empty() || !keeps_old)) Discard(old->extent);
  EvictCold(change->key_hash);
}

// Model rule: COMMIT_BEFORE_ANSWER
void Home::Finish(const Change& change) {
  if (change.extent != 0) {
    opc_.Commit(change.slot, change.key_hash, change.extent, change.version);
  } else {
    opc_.CommitDelete(change.slot);
  }
  if (change.from.lane == fabric::kNoLane) return;  // its node is gone
  const std::uint64_t issued = oic_.Issued(change.from.node);
  const bool own_is_last = change.own_sequence != 0 && change.own_sequence == issued;
  gate_->Answer(
      change.from,
      {.version = change.version,
       .extent_offset = change.extent,
       .value = {(change.tracked ? 0 : fabric::kUntracked) | (own_is_last ? fabric::kOwnRecord : 0),
                 issued, change.old_extent}},
      0);
}

// What waited behind a put that has committed, or for a commit group; and groups that waited.
void Home::RunDeferred() {
  if (!blocking_ && fabric::Upholds(fabric::Rule::kGroupTogether)) return;
  while (true) {
    groups_.Advance();
    if (!blocking_) return;
    const std::optional<BlockingPuts::Deferred> next = blocking_->NextReady();
    if (!next) return;
    switch (next->op) {
      case Op::kGet:
        Get(next->from, next->key_hash, next->key, 0);
        break;
      case Op::kPut:
        CommitPut(next->from, next->key_hash, next->extent, next->argument);
        break;
      default:  // the only other verb that changes an object
        Delete(next->from, next->key_hash, next->key, next->argument);
        break;
    }
  }
}

// Makes room in the directory. An entry stays until its sharers have acknowledged and read its
// object no more: they are no sharers afterwards, so nobody would ask them again.
// Model rule: EVICTION_RECORD_ABOVE, EVICTION_INVALIDATES
void Home::EvictSome(std::uint64_t served_key_hash) {
  constexpr int kEvictions = 2;  // per request, which adds one entry
  constexpr std::uint64_t kEntryBudget = 256;
  for (int i = 0; i < kEvictions && otc_.IsCrowded(); ++i) {
    const std::optional<std::uint64_t> key_hash = otc_.PickVictim(kEntryBudget, served_key_hash);
    if (!key_hash) return;
    // Several, if keys share a hash.
    std::vector<std::pair<std::uint64_t, Version>> extents;
    share_->index.view().ForEachOfHash(*key_hash, [&](std::uint64_t extent, Version version) {
      extents.emplace_back(extent, version);
    });
    if (extents.empty()) extents.emplace_back(0, 0);
    const bool invalidates = fabric::Upholds(fabric::Rule::kEvictionInvalidates);
    const NodeSet sharers = otc_.Evict(*key_hash, static_cast<std::uint32_t>(extents.size()),
                                       invalidates ? oic_.present() : NodeSet());
    ++counters_.directory_evictions;
    if (sharers.empty()) continue;
    for (const auto& [extent, version] : extents) {
      oic_.IssueRound({.key_hash = *key_hash,
                       .version = version + 1,  // this one too
                       .extent = extent,
                       .holders = sharers,
                       .counts = true,
                       .is_eviction = true},
                      now_ns_);
    }
  }
}

void Home::CommitPut(const Waiter& from, std::uint64_t key_hash, std::uint64_t extent,
                     std::uint64_t if_version) {
  if (blocking_ && blocking_->IsBusy(key_hash)) {
    blocking_->Defer({.from = from,
                      .op = Op::kPut,
                      .key_hash = key_hash,
                      .key = {},
                      .argument = if_version,
                      .extent = extent});
    return;
  }
  if (pool_->journal() != nullptr) {
    groups_.CommitOne(from, {.key_hash = key_hash, .draft = extent, .if_version = if_version});
    return;
  }
  Opc::KeyBuffer buffer;
  const std::optional<std::string_view> key = opc_.KeyOf(extent, key_hash, &buffer);
  if (!key) {
    Discard(extent);
    Reject(from);
    return;
  }
  const std::optional<Osc::Served> old = osc_.Translate(key_hash, *key);
  if (!CheckVersion(from, old, if_version)) {
    Discard(extent);
    return;
  }
  fabric::IndexSlot* slot = old ? old->slot : opc_.ReserveSlot(key_hash);
  if (slot == nullptr) {
    Discard(extent);
    FailFull(from, 0, 0);
    return;
  }
  Change change{.from = from,
                .key_hash = key_hash,
                .slot = slot,
                .extent = extent,
                .version = opc_.NextVersion()};
  Supersede(&change, old);
}

void Home::Delete(const Waiter& from, std::uint64_t key_hash, std::string_view key,
                  std::uint64_t if_version) {
  if (blocking_ && blocking_->IsBusy(key_hash)) {
    blocking_->Defer({.from = from,
                      .op = Op::kDelete,
                      .key_hash = key_hash,
                      .key = std::string(key),
                      .argument = if_version});
    return;
  }
  const std::optional<Osc::Served> old = osc_.Translate(key_hash, key);
  if (!CheckVersion(from, old, if_version)) return;
  if (!old && opc_.Exhume(key_hash)) {
    gate_->Answer(from, {.version = opc_.NextVersion()}, 0);
    return;
  }
  if (!old) {
    Fail(from, StatusCode::kNotFound, Reason::kNoSuchObject);
    return;
  }
  if (pool_->journal() != nullptr) {
    groups_.CommitOne(from,
                      {.key_hash = key_hash, .if_version = if_version, .key = std::string(key)});
    return;
  }
  Change change{
      .from = from, .key_hash = key_hash, .slot = old->slot, .version = opc_.NextVersion()};
  Supersede(&change, old);
}

void Home::Create(const Waiter& from, std::uint64_t key_hash, std::string_view key,
                  std::uint64_t payload_bytes) {
  if (!pool_->trusted()) {
    Fail(from, StatusCode::kFailedPrecondition, Reason::kNotTrusted);
    return;
  }
  const std::uint64_t extent =
      payload_bytes <= fabric::kMaxPayloadBytes ? opc_.Begin(key_hash, key, payload_bytes) : 0;
  if (extent == 0) {
    FailFull(from, key.size(), payload_bytes);
    return;
  }
  node_[from.node].drafts.push_back({extent, key_hash});
  gate_->Answer(from, {.extent_offset = extent}, 0);
}

void Home::CommitDraft(const Waiter& from, std::uint64_t extent) {
  const std::optional<Draft> draft = Take(&node_[from.node].drafts, extent, &Draft::extent);
  if (!draft) {
    Fail(from, StatusCode::kFailedPrecondition, Reason::kNoSuchDraft);
    return;
  }
  CommitPut(from, draft->key_hash, extent, fabric::kAnyVersion);
}

bool Home::AbortDraft(NodeId node, std::uint64_t extent) {
  if (groups_.Abort(node, extent)) return true;
  return DiscardIf(Take(&node_[node].drafts, extent, &Draft::extent).has_value(), extent);
}

bool Home::Release(NodeId node, std::uint64_t extent) {
  return DiscardIf(Take(&node_[node].lent, extent, std::identity{}).has_value(), extent);
}

// False: the node does not have the extent, and the request was a lie.
bool Home::DiscardIf(bool is_its_own, std::uint64_t extent) {
  if (is_its_own) {
    Discard(extent);
  } else {
    ++counters_.bad_requests;
  }
  return is_its_own;
}

// ---------------------------------------------------------------------------------------------
// Requests with a payload.

Home::Upload Home::MakeUpload(const Waiter& from, const Request& request) {
  return {.node = from.node,
          .lane = from.lane,
          .request_id = from.request_id,
          .op = request.op,
          .flags = request.flags,
          .argument = request.argument,
          .key_hash = 0,
          .extent = 0,
          .staging_start = StagingStart(request),
          .body_bytes = request.payload_bytes,
          .payload_offset = 0,
          .payload = 0,
          .drained_bytes = 0,
          .function = 0};
}

void Home::BeginPut(const Waiter& from, const Request& request, std::uint64_t key_hash,
                    std::string_view key, TimeNs now_ns) {
  // Fail early what cannot succeed; CommitPut looks again when the payload is whole.
  if (request.argument != fabric::kAnyVersion &&
      !CheckVersion(from, osc_.Translate(key_hash, key), request.argument)) {
    return;
  }
  const std::uint64_t payload_bytes = request.payload_bytes;
  const std::uint64_t extent = opc_.Begin(key_hash, key, payload_bytes);
  if (extent == 0) {
    FailFull(from, key.size(), payload_bytes);
    return;
  }
  const std::uint64_t payload = Opc::PayloadAt(extent, key.size(), payload_bytes);
  if ((request.flags & fabric::kBodyStaged) == 0) {
    opc_.Fill(payload, 0, request.body + key.size(), payload_bytes, payload_bytes);
    EndPut(from, request.flags, key_hash, extent, request.argument);
    return;
  }
  Upload upload = MakeUpload(from, request);
  upload.key_hash = key_hash;
  upload.extent = extent;
  upload.payload = payload;
  Receive(upload, request, nullptr, now_ns);
}

void Home::EndPut(const Waiter& from, std::uint8_t flags, std::uint64_t key_hash,
                  std::uint64_t extent, std::uint64_t if_version) {
  if ((flags & fabric::kKeepBack) != 0) {
    KeepBack(from, key_hash, extent);
  } else {
    CommitPut(from, key_hash, extent, if_version);
  }
}

// The payload, to where it belongs. `said`: of a call.
void Home::Receive(Upload upload, const Request& request, const fabric::CallSaid* said,
                   TimeNs now_ns) {
  if ((request.flags & fabric::kBodyStaged) == 0) {
    if (request.payload_bytes > 0) {
      opc_.Fill(upload.payload, 0, request.body + request.key_bytes, request.payload_bytes,
                request.payload_bytes);
    }
    EndUpload(upload, said, now_ns);
    return;
  }
  upload.payload_offset = fabric::StagedPayloadOffset(request.key_bytes);
  upload.body_bytes = upload.payload_offset + request.payload_bytes;
  upload.drained_bytes = upload.payload_offset;
  if (AdvanceUpload(&upload)) {
    EndUpload(upload, said, now_ns);
    return;
  }
  node_[upload.node].uploading_lanes |= std::uint64_t{1} << upload.lane;
  if (said != nullptr) {
    std::string& head = heads_[LaneKey(upload)];
    head.resize(fabric::kMaxHeadBytes);
    head.resize(
        fabric::MakeCallHead(said->head, said->reads(), said->node, "", head.data()).size());
  }
  uploads_.push_back(upload);
}

bool Home::AdvanceUpload(Upload* upload) {
  // Hostile: never more than the body, never more than the staging area holds beyond what we took.
  const std::uint64_t staged =
      std::min({gate_->StagedBytes(upload->node, upload->lane), upload->body_bytes,
                upload->drained_bytes + fabric::kStagingBytes});
  const std::byte* staging = gate_->Staging(upload->node, upload->lane);
  std::uint64_t budget = fabric::kHomeCopyBytes;
  bool moved = false;
  while (upload->drained_bytes < staged && budget > 0) {
    const std::uint64_t position =
        (upload->staging_start + upload->drained_bytes) % fabric::kStagingBytes;
    const std::uint64_t bytes =
        std::min({staged - upload->drained_bytes, budget, fabric::kStagingBytes - position});
    opc_.Fill(upload->payload, upload->drained_bytes - upload->payload_offset, staging + position,
              bytes, upload->body_bytes - upload->payload_offset);
    upload->drained_bytes += bytes;
    budget -= bytes;
    moved = true;
  }
  if (upload->drained_bytes == upload->body_bytes) return true;  // the reply says so
  if (moved) gate_->SetDrained(upload->node, upload->lane, upload->drained_bytes);
  return false;
}

void Home::EndUpload(const Upload& upload, const fabric::CallSaid* said, TimeNs now_ns) {
  switch (upload.op) {
    case Op::kPut:
      EndPut({upload.node, upload.lane, upload.request_id}, upload.flags, upload.key_hash,
             upload.extent, upload.argument);
      return;
    case Op::kCall:
    case Op::kStart:
      EndCall(upload, *said, now_ns);
      return;
    case Op::kReady:
      EndReady(upload, now_ns);
      return;
    case Op::kCommitGroup:
    case Op::kEffects:
      EndGroup(upload);
      return;
    case Op::kGet:
    case Op::kDelete:
    case Op::kStat:
    case Op::kCreate:
    case Op::kCommit:
    case Op::kAbort:
    case Op::kRelease:
    case Op::kRegister:
    case Op::kUnready:
    case Op::kWait:
    case Op::kPoll:
    case Op::kForget:
    case Op::kExplain:
      return;  // have no payload
  }
}

}  // namespace apta::daemon
