// Functions as a home carries them: between requests and the Executor Manager.

#include <algorithm>
#include <cstring>

#include "daemon/home.h"
#include "daemon/scheduler_text.h"
#include "fabric/control.h"
#include "fabric/port.h"
#include "fmt/format.h"

namespace apta::daemon {

using absl::StatusCode;
using fabric::Op;
using fabric::Reason;
using scheduler::Waiter;

bool Home::BeginCall(const Waiter& from, const Request& request, std::string_view key,
                     TimeNs now_ns) {
  std::optional<fabric::CallSaid> said;
  if ((request.flags & fabric::kHeaded) != 0) {
    said = fabric::ParseCallHead(key);
  } else {
    said.emplace().function = key;
  }
  if (!said) {
    Reject(from);
    return false;
  }
  if (!fabric::IsValidKey(said->function)) {
    Fail(from, StatusCode::kInvalidArgument, Reason::kBadKey);
    ++counters_.bad_requests;
    return false;
  }
  const auto function = executor_->FindFunction(said->function, said->node);
  if (!function) {
    Fail(from, StatusCode::kNotFound,
         said->node.empty() ? Reason::kNoSuchFunction : Reason::kNotOnThatNode);
    return true;
  }
  Upload upload = MakeUpload(from, request);
  upload.function = *function;
  if (IsSmall(request)) {
    upload.extent = KeepSmall(request).extent;
    EndCall(upload, *said, now_ns);
    return true;
  }
  if (request.payload_bytes > 0) {
    upload.extent = opc_.Begin(0, {}, request.payload_bytes);
    if (upload.extent == 0) {
      FailFull(from, 0, request.payload_bytes);
      return true;
    }
    upload.payload = Opc::PayloadAt(upload.extent, 0, request.payload_bytes);
  }
  Receive(upload, request, &*said, now_ns);
  return true;
}

void Home::EndCall(const Upload& upload, const fabric::CallSaid& said, TimeNs now_ns) {
  const Waiter from{upload.node, upload.lane, upload.request_id};
  const scheduler::Payload payload{upload.extent};
  // Its last node may have gone while the input was on its way.
  if (!executor_->IsOffered(upload.function, said.node)) {
    Release(payload);
    Fail(from, StatusCode::kNotFound,
         said.node.empty() ? Reason::kNoSuchFunction : Reason::kNotOnThatNode);
    return;
  }
  const bool waits = upload.op == Op::kCall;
  const auto called = executor_->Call(
      {.caller = from.node,
       .waiter = waits ? std::optional(from) : std::nullopt,
       .function = upload.function,
       .input = payload,
       .deadline_ns = now_ns + std::min<TimeNs>(upload.argument, TimeNs{1} << 60),
       .node_name = said.node,
       .reads = said.reads(),
       .declares_reads = (said.head.flags & fabric::CallHead::kDeclaresReads) != 0,
       .parent = said.head.parent,
       .workflow = said.head.workflow,
       .explain = (said.head.flags & fabric::CallHead::kExplain) != 0,
       .errors_are_final = (said.head.flags & fabric::CallHead::kErrorsAreFinal) != 0},
      now_ns);
  switch (called.reason) {
    case Reason::kNone:
      if (!waits) gate_->Answer(from, {.value = {called.id}}, 0);
      return;
    case Reason::kCancelled:
      Fail(from, StatusCode::kCancelled, called.reason);
      return;
    case Reason::kCallerQueueFull:
      Fail(from, StatusCode::kResourceExhausted, called.reason,
           scheduler::ExecutorManager::kMaxQueuedOfCaller);
      return;
    default:  // the only other one
      Fail(from, StatusCode::kResourceExhausted, Reason::kQueueFull,
           scheduler::ExecutorManager::kMaxQueued);
      return;
  }
}

// Also of what else has a payload that is no object's.
void Home::BeginReady(const Waiter& from, const Request& request, TimeNs now_ns) {
  Upload upload = MakeUpload(from, request);
  if (request.op == Op::kReady && IsSmall(request)) {
    upload.extent = KeepSmall(request).extent;
    EndReady(upload, now_ns);
    return;
  }
  if (request.payload_bytes > 0) {
    upload.extent = opc_.Begin(0, {}, request.payload_bytes);
    if (upload.extent == 0) {
      FailFull(from, 0, request.payload_bytes);
      return;
    }
    upload.payload = Opc::PayloadAt(upload.extent, 0, request.payload_bytes);
  }
  Receive(upload, request, nullptr, now_ns);
}

void Home::EndReady(const Upload& upload, TimeNs now_ns) {
  const Waiter from{upload.node, upload.lane, upload.request_id};
  const scheduler::Payload payload{upload.extent};
  const int code = std::min<int>(upload.flags >> fabric::kStatusShift,
                                 static_cast<int>(StatusCode::kUnauthenticated));
  bool commits = false;
  if (upload.argument == 0) {
    Release(payload);
  } else if (!(commits = CommitEffects(upload, payload))) {
    executor_->Finish(from.node, upload.argument, static_cast<StatusCode>(code), payload, now_ns);
  }
  if ((upload.flags & (fabric::kLastOfWorker | fabric::kHasEffects)) == 0) {
    executor_->Ready(from);
  } else if (!commits) {  // else the group answers
    Fail(from, StatusCode::kCancelled, Reason::kCancelled);
  }
  executor_->Poll(now_ns);
}

void Home::Register(const Waiter& from, std::string_view function, std::uint64_t packed) {
  const auto limits = fabric::FunctionLimits::Unpack(packed);
  if (limits.max_concurrency == 0 || limits.max_attempts == 0 || limits.deadline_ms == 0) {
    Reject(from);  // nothing could ever run
    return;
  }
  const Reason reason = executor_->Register(from.node, function, limits);
  if (reason == Reason::kNone) {
    gate_->Answer(from, {}, 0);
  } else {
    Fail(from,
         reason == Reason::kQueueFull ? StatusCode::kResourceExhausted : StatusCode::kAlreadyExists,
         reason, scheduler::ExecutorManager::kMaxFunctionsPerNode);
  }
}

void Home::CallOnInvocation(const Waiter& from, const Request& request) {
  switch (request.op) {
    case Op::kUnready:
      executor_->Unready(from.node);
      gate_->Answer(from, {}, 0);
      return;
    case Op::kWait:
      if (!executor_->Wait(from, request.argument)) {
        Fail(from, StatusCode::kNotFound, Reason::kNoSuchInvocation);
      }
      return;
    case Op::kPoll: {
      const std::optional<bool> has_ended = executor_->Poll(from.node, request.argument);
      if (has_ended) {
        gate_->Answer(from, {.value = {*has_ended ? 1u : 0u}}, 0);
      } else {
        Fail(from, StatusCode::kNotFound, Reason::kNoSuchInvocation);
      }
      return;
    }
    case Op::kForget:
      executor_->Forget(from.node, request.argument);
      return;
    case Op::kExplain:
      Explain(from, request.argument);
      return;
    case Op::kGet:
    case Op::kPut:
    case Op::kDelete:
    case Op::kStat:
    case Op::kCreate:
    case Op::kCommit:
    case Op::kAbort:
    case Op::kRelease:
    case Op::kRegister:
    case Op::kReady:
    case Op::kCall:
    case Op::kStart:
    case Op::kCommitGroup:
    case Op::kEffects:
      return;  // are no invocation's
  }
}

void Home::Explain(const Waiter& from, std::uint64_t invocation) {
  const scheduler::Explanation* const explanation = executor_->Explain(from.node, invocation);
  if (explanation == nullptr) {
    Fail(from, StatusCode::kNotFound, Reason::kNoSuchInvocation);
    return;
  }
  const std::string text = ExplanationAsJson(*explanation);
  const std::uint64_t extent = Lend(from.node, text);
  if (extent == 0) {
    FailFull(from, 0, text.size());
  } else {
    gate_->Answer(from, {.extent_offset = extent}, text.size());
  }
}

// A text in an extent of its own; empty: there is no room.
scheduler::Payload Home::MakeText(std::string_view text) {
  const std::uint64_t extent = opc_.Begin(0, {}, text.size());
  if (extent == 0) return {};
  opc_.Fill(Opc::PayloadAt(extent, 0, text.size()), 0,
            reinterpret_cast<const std::byte*>(text.data()), text.size(), text.size());
  return {extent};
}

// ... that is the node's until it releases it.
std::uint64_t Home::Lend(NodeId node, std::string_view text) {
  const std::uint64_t extent = MakeText(text).extent;
  if (extent != 0) node_[node].lent.push_back(extent);
  return extent;
}

// ---------------------------------------------------------------------------------------------
// scheduler::Environment

// Other homes' directories belong to other threads: what they say is a hint, as this is.
void Home::AddLocalBytes(absl::Span<const std::uint64_t> reads,
                         absl::Span<scheduler::Candidate> candidates) const {
  const fabric::IndexView& index = share_->index.view();
  for (const std::uint64_t key_hash : reads) {
    const HeapShare& share = pool_->share(static_cast<int>(index.ShardOf(key_hash)));
    const Otc* const directory = share.directory.load();
    const NodeSet sharers = directory != nullptr ? directory->sharers(key_hash) : NodeSet();
    if (sharers.empty()) continue;
    const std::uint64_t bytes = index.BytesOfHash(key_hash);
    for (scheduler::Candidate& candidate : candidates) {
      if (sharers.Contains(candidate.node)) candidate.local_bytes += bytes;
    }
  }
}

void Home::Deliver(const Waiter& worker, const scheduler::Delivery& delivery) {
  const Reply reply{
      .extent_offset = delivery.input.extent,
      .value = {delivery.id, delivery.local_function | std::uint64_t{delivery.attempt} << 32,
                delivery.left_ns}};
  if (SmallPayloads::IsSmall(delivery.input)) {
    gate_->AnswerWith(worker, reply, small_.Get(delivery.input));
    return;
  }
  gate_->Answer(worker, reply,
                delivery.input.extent != 0 ? opc_.header(delivery.input.extent)->payload_bytes : 0);
}

void Home::Answer(const Waiter& waiter, const scheduler::Outcome& outcome) {
  if (outcome.code != StatusCode::kOk && !(outcome.history.empty() && outcome.waited_for.empty())) {
    AnswerWithHistory(waiter, outcome);
  } else {
    Answer(waiter, outcome, outcome.payload);
  }
}

// The payload becomes the waiter's.
void Home::Answer(const Waiter& waiter, const scheduler::Outcome& outcome,
                  scheduler::Payload payload) {
  const Reply reply{.code = static_cast<std::uint16_t>(outcome.code),
                    .reason = outcome.reason,
                    .extent_offset = payload.extent,
                    .value = {outcome.attempts}};
  if (SmallPayloads::IsSmall(payload)) {
    gate_->AnswerWith(waiter, reply, small_.Get(payload));
    Release(payload);
    return;
  }
  if (payload.extent == 0) {
    gate_->Answer(waiter, reply, 0);
    return;
  }
  node_[waiter.node].lent.push_back(payload.extent);
  gate_->Answer(waiter, reply, opc_.header(payload.extent)->payload_bytes);
}

// A function's own message stays alone if it was its first and last attempt.
void Home::AnswerWithHistory(const Waiter& waiter, const scheduler::Outcome& outcome) {
  const bool has_message = outcome.reason == Reason::kFunctionFailed;
  if (has_message && outcome.history.size() == 1) {
    Answer(waiter, outcome, outcome.payload);
    return;
  }
  std::string text = HistoryText(outcome);
  const std::optional<BytesView> message = MessageOf(outcome.payload);
  if (has_message && message) text = fmt::format("{} ({})", AsText(*message), text);
  const scheduler::Payload told = message ? MakeText(text) : scheduler::Payload{};
  if (told.extent == 0) {  // there is no room for more
    Answer(waiter, outcome, outcome.payload);
  } else {
    Release(outcome.payload);
    Answer(waiter, outcome, told);
  }
}

void Home::Release(scheduler::Payload payload) {
  if (SmallPayloads::IsSmall(payload)) {
    small_.Release(payload);
  } else if (payload.extent != 0) {
    Discard(payload.extent);
  }
}

// ---------------------------------------------------------------------------------------------

scheduler::Payload Home::KeepSmall(const Request& request) {
  return small_.Keep({request.body + request.key_bytes, request.payload_bytes});
}

// Nullopt: it is long. In a trusted pool clients can write to its header.
std::optional<BytesView> Home::MessageOf(scheduler::Payload payload) const {
  if (payload.extent == 0) return BytesView();
  if (SmallPayloads::IsSmall(payload)) return small_.Get(payload);
  const std::uint64_t bytes = opc_.header(payload.extent)->payload_bytes;
  if (bytes > fabric::kHomeCopyBytes ||
      fabric::ExtentBytes(0, bytes) > opc_.LiveBytes(payload.extent)) {
    return std::nullopt;
  }
  return BytesView(pool_->data() + Opc::PayloadAt(payload.extent, 0, bytes), bytes);
}

}  // namespace apta::daemon
