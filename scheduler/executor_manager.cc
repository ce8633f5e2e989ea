// The life of invocations and attempts; how they are placed is in executor_placement.cc.

#include "scheduler/executor_manager.h"

#include <algorithm>

namespace apta::scheduler {

using absl::StatusCode;
using fabric::InvocationOf;
using fabric::Reason;
using fabric::SlotOf;

namespace {

static_assert(ExecutorManager::kMaxInvocations <= fabric::kMaxInvocationSlots);

constexpr std::size_t kMaxTracks = 1024;
constexpr NodeId kNobody = fabric::kMaxNodes;

void Remember(std::vector<FailedAttempt>* history, FailedAttempt attempt, FailedAttempt::End end,
              StatusCode code = StatusCode::kOk) {
  if (history->size() == ExecutorManager::kMaxHistory) history->erase(history->begin());
  attempt.end = end;
  attempt.code = code;
  history->push_back(std::move(attempt));
}

}  // namespace

ExecutorManager::ExecutorManager(Environment* environment, const Policy* policy)
    : environment_(environment),
      policy_(policy),
      track_(kMaxTracks),
      candidates_(fabric::kMaxNodes) {}

Reason ExecutorManager::Register(NodeId node, std::string_view function,
                                 const FunctionLimits& limits) {
  Node& state = node_[node];
  state.takes_work = true;
  has_changed_ = true;
  const auto known = function_id_.find(absl::string_view(function.data(), function.size()));
  if (known != function_id_.end()) {
    for (const LocalFunction& local : state.functions) {
      if (local.function != known->second) continue;
      return local.limits == limits ? Reason::kAlreadyRegistered : Reason::kOtherLimits;
    }
  }
  if (state.functions.size() >= kMaxFunctionsPerNode) return Reason::kQueueFull;
  FunctionId id;
  if (known != function_id_.end()) {
    id = known->second;
  } else {
    id = ++last_function_;
    function_[id].id = id;
    function_[id].name = function;
    function_id_.emplace(std::string(function), id);
  }
  state.threads = limits.threads;
  state.functions.push_back({id, limits});
  std::vector<Offer>& offers = function_.at(id).offers;
  const Offer offer{node, static_cast<std::uint32_t>(state.functions.size() - 1)};
  offers.insert(std::upper_bound(offers.begin(), offers.end(), offer,
                                 [](const Offer& a, const Offer& b) { return a.node < b.node; }),
                offer);
  return Reason::kNone;
}

// Invariant 4.
void ExecutorManager::DropIfUnused(FunctionId function) {
  const auto entry = function_.find(function);
  if (entry == function_.end()) return;  // went with its last invocation
  if (!entry->second.offers.empty() || entry->second.invocations > 0) return;
  function_id_.erase(entry->second.name);
  function_.erase(entry);
}

void ExecutorManager::Ready(const Waiter& worker) {
  if (node_[worker.node].takes_work) {
    std::vector<Waiter>& idle = node_[worker.node].idle_workers;
    // A lane has one question at a time; one that asks again forgets the first.
    std::erase_if(idle, [&](const Waiter& other) { return other.lane == worker.lane; });
    idle.push_back(worker);
    has_changed_ = true;
  } else {
    environment_->Answer(worker, {StatusCode::kCancelled, Reason::kCancelled});
  }
}

void ExecutorManager::Unready(NodeId node) {
  node_[node].takes_work = false;
  std::vector<Waiter> workers;
  workers.swap(node_[node].idle_workers);
  for (const Waiter& worker : workers) {
    environment_->Answer(worker, {StatusCode::kCancelled, Reason::kCancelled});
  }
}

// Invariant 2.
void ExecutorManager::Finish(NodeId node, InvocationId attempt, StatusCode code, Payload payload,
                             TimeNs now_ns) {
  Attempt* const found = FindAttempt(node, attempt);
  if (found == nullptr) {
    environment_->Release(payload);
    return;
  }
  const bool counts = !found->is_abandoned;
  RemoveAttempt(node, found);
  Invocation* const invocation = Find(attempt);  // as long as an attempt lives
  --invocation->live_attempts;
  if (!counts) {
    environment_->Release(payload);
    EraseIfDone(invocation);
    return;
  }
  invocation->runs_on.reset();
  if (code != StatusCode::kOk) invocation->last_node = AttemptOn(node);
  Conclude(invocation, code, payload, now_ns);
}

// The attempt that counts has returned.
void ExecutorManager::Conclude(Invocation* invocation, StatusCode code, Payload payload,
                               TimeNs now_ns) {
  if (code == StatusCode::kOk) {
    End(invocation, {code, Reason::kNone, invocation->attempts, payload});
    return;
  }
  Remember(&invocation->history, invocation->last_node, FailedAttempt::End::kError, code);
  const Outcome failed{code, Reason::kFunctionFailed, invocation->attempts, payload};
  if (invocation->errors_are_final) {
    End(invocation, failed);
  } else {
    FailAttempt(invocation, failed, now_ns);
  }
}

// Invariant 2.
bool ExecutorManager::BeginCommit(NodeId node, InvocationId attempt) {
  Attempt* const found = FindAttempt(node, attempt);
  if (found == nullptr || found->is_abandoned) return false;
  RemoveAttempt(node, found);
  Invocation* const invocation = Find(attempt);
  invocation->runs_on.reset();
  invocation->is_committing = true;
  invocation->last_node.node = environment_->NameOf(node);  // no label: this is no failure yet
  invocation->last_node.attachment = AttachmentOf(node);
  due_.Clear(SlotOf(attempt));
  return true;
}

void ExecutorManager::EndCommit(InvocationId attempt, StatusCode code, Payload payload,
                                TimeNs now_ns) {
  Invocation* const invocation = Find(attempt);
  invocation->is_committing = false;
  --invocation->live_attempts;
  if (invocation->caller == kNobody) {
    environment_->Release(payload);
    Cancel(invocation);
  } else {
    Conclude(invocation, code, payload, now_ns);
  }
}

void ExecutorManager::LoseCommit(InvocationId attempt, TimeNs now_ns) {
  Invocation* const invocation = Find(attempt);
  invocation->is_committing = false;
  --invocation->live_attempts;
  Remember(&invocation->history, invocation->last_node, FailedAttempt::End::kNodeGone);
  if (invocation->caller == kNobody) {
    Cancel(invocation);
  } else {
    FailAttempt(invocation, {StatusCode::kUnavailable, Reason::kNodeLost, invocation->attempts},
                now_ns);
  }
}

std::optional<FunctionId> ExecutorManager::FindFunction(std::string_view function,
                                                        std::string_view node_name) const {
  const auto entry = function_id_.find(absl::string_view(function.data(), function.size()));
  if (entry == function_id_.end() || !IsOffered(entry->second, node_name)) return std::nullopt;
  return entry->second;
}

bool ExecutorManager::IsOffered(FunctionId function, std::string_view node_name) const {
  const auto entry = function_.find(function);
  if (entry == function_.end()) return false;
  return std::any_of(entry->second.offers.begin(), entry->second.offers.end(),
                     [&](const Offer& offer) {
                       return node_[offer.node].takes_work &&
                              (node_name.empty() || environment_->NameOf(offer.node) == node_name);
                     });
}

// ---------------------------------------------------------------------------------------------

ExecutorManager::Invocation* ExecutorManager::Find(InvocationId id) {
  const std::uint32_t slot = SlotOf(id);
  if (slot >= invocation_.size() || id == 0) return nullptr;
  return invocation_[slot].id == InvocationOf(id) ? &invocation_[slot] : nullptr;
}
const ExecutorManager::Invocation* ExecutorManager::Find(InvocationId id) const {
  return const_cast<ExecutorManager*>(this)->Find(id);
}

ExecutorManager::Called ExecutorManager::Call(const CallSpec& spec, TimeNs now_ns) {
  Called called;
  Node& caller = node_[spec.caller];
  Attempt* const parent = spec.parent != 0 ? FindAttempt(spec.caller, spec.parent) : nullptr;
  if (spec.parent != 0 && (parent == nullptr || parent->is_abandoned)) {
    called.reason = Reason::kCancelled;
  } else if (queued_ >= kMaxQueued ||
             (free_slots_.empty() && invocation_.size() >= kMaxInvocations)) {
    called.reason = Reason::kQueueFull;
  } else if (caller.queued >= kMaxQueuedOfCaller || caller.invocations >= kMaxInvocations / 2) {
    called.reason = Reason::kCallerQueueFull;
  }
  if (called.reason != Reason::kNone) {
    environment_->Release(spec.input);
    return called;
  }
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<std::uint32_t>(invocation_.size()));
    invocation_.emplace_back();
  }
  const std::uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  Invocation& invocation = invocation_[slot];
  invocation.id = fabric::MakeInvocationId(++last_sequence_, slot);
  invocation.function = &function_.at(spec.function);
  invocation.caller = spec.caller;
  invocation.input = spec.input;
  invocation.queued_ns = now_ns;
  invocation.deadline_ns = spec.deadline_ns;
  invocation.parent = parent != nullptr ? spec.parent : 0;
  invocation.workflow = WorkflowOf(spec);
  invocation.declares_reads = spec.declares_reads;
  invocation.explain = spec.explain;
  invocation.errors_are_final = spec.errors_are_final;
  invocation.node_name = spec.node_name;
  invocation.reads.assign(spec.reads.begin(), spec.reads.end());
  ++invocation.function->invocations;
  ++caller.invocations;
  due_.Set(slot, spec.deadline_ns);
  if (spec.waiter) {
    invocation.waiter = spec.waiter;
    SetWaiting(&invocation, true);
  }
  called.id = invocation.id;
  // Not past those that wait already, unless they wait for something else.
  if (!invocation.function->queue.empty() || !PlaceOne(&invocation, now_ns)) {
    Enqueue(&invocation, /*in_front=*/false);
  }
  return called;
}

// That of the attempt that calls, or the one that the caller has numbered.
std::uint64_t ExecutorManager::WorkflowOf(const CallSpec& spec) {
  if (spec.workflow != 0) return spec.workflow * fabric::kMaxNodes + spec.caller;
  const Invocation* parent = spec.parent != 0 ? Find(spec.parent) : nullptr;
  if (parent == nullptr) return 0;
  if (parent->workflow == 0) {
    Find(spec.parent)->workflow = parent->id;
    if (parent->runs_on) CountPredecessor(parent->id, *parent->runs_on);
  }
  return parent->workflow;
}

bool ExecutorManager::Wait(const Waiter& waiter, InvocationId id) {
  Invocation* const invocation = Find(id);
  if (invocation == nullptr || invocation->caller != waiter.node ||
      invocation->waiter.has_value() || invocation->forgotten) {
    return false;
  }
  invocation->waiter = waiter;
  if (invocation->outcome.has_value()) {
    Outcome outcome = *invocation->outcome;
    outcome.history = invocation->history;
    outcome.waited_for = invocation->waited_for;
    environment_->Answer(waiter, outcome);
    invocation->outcome.reset();
    EraseIfDone(invocation);
  } else {
    SetWaiting(invocation, true);
  }
  return true;
}

std::optional<bool> ExecutorManager::Poll(NodeId caller, InvocationId id) const {
  const Invocation* const invocation = Find(id);
  if (invocation == nullptr || invocation->caller != caller) return std::nullopt;
  return invocation->outcome.has_value();
}

void ExecutorManager::Forget(NodeId caller, InvocationId id) {
  Invocation* const invocation = Find(id);
  if (invocation == nullptr || invocation->caller != caller) return;
  SetWaiting(invocation, false);
  invocation->forgotten = true;
  invocation->waiter.reset();
  if (invocation->outcome.has_value()) environment_->Release(invocation->outcome->payload);
  invocation->outcome.reset();
  EraseIfDone(invocation);
}

// Invariant 5. The attempt that called stops, or begins again, to take a thread.
void ExecutorManager::SetWaiting(Invocation* invocation, bool waits) {
  if (invocation->parent == 0 || invocation->parent_waits == waits) return;
  invocation->parent_waits = waits;
  Attempt* const parent = FindAttempt(invocation->caller, invocation->parent);
  if (parent == nullptr) return;
  const bool was_waiting = parent->waits > 0;
  parent->waits += waits ? 1u : ~0u;
  if (was_waiting == (parent->waits > 0)) return;
  Node& node = node_[invocation->caller];
  const std::uint32_t change = waits ? ~0u : 1u;  // -1 or 1
  node.waiting -= change;
  node.functions[parent->local_function].running += change;
  if (!parent->is_abandoned) node.active += change;
  has_changed_ = true;
}

ExecutorManager::Attempt* ExecutorManager::FindAttempt(NodeId node, InvocationId id) {
  // The youngest first: a chain ends, and goes on, there.
  std::vector<Attempt>& attempts = node_[node].attempts;
  const auto found = std::find_if(attempts.rbegin(), attempts.rend(),
                                  [id](const Attempt& attempt) { return attempt.id == id; });
  return found != attempts.rend() ? &*found : nullptr;
}

void ExecutorManager::RemoveAttempt(NodeId node, Attempt* attempt) {
  Node& state = node_[node];
  if (attempt->waits == 0) {
    --state.functions[attempt->local_function].running;
  } else {
    --state.waiting;
  }
  if (attempt->is_abandoned) {
    --state.stuck;
  } else if (attempt->waits == 0) {
    --state.active;
  }
  *attempt = state.attempts.back();
  state.attempts.pop_back();
  has_changed_ = true;
}

// The attempt that counts does so no more, and goes on running.
void ExecutorManager::Abandon(Invocation* invocation) {
  if (!invocation->runs_on) return;
  const NodeId node = *invocation->runs_on;
  invocation->runs_on.reset();
  Attempt* const attempt =
      FindAttempt(node, fabric::AttemptOf(invocation->id, invocation->attempts));
  attempt->is_abandoned = true;
  if (attempt->waits == 0) --node_[node].active;
  ++node_[node].stuck;
  has_changed_ = true;
}

// The attempt that counted is over, without a result: another one, or the end with `last`.
void ExecutorManager::FailAttempt(Invocation* invocation, const Outcome& last, TimeNs now_ns) {
  if (invocation->ended) {
    EraseIfDone(invocation);
  } else if (invocation->attempts < invocation->max_attempts) {
    environment_->Release(last.payload);
    invocation->queued_ns = now_ns;
    due_.Set(SlotOf(invocation->id), invocation->deadline_ns);
    Enqueue(invocation, /*in_front=*/true);
  } else {
    End(invocation, last);
  }
}

// Past the deadline of the invocation, or of its current attempt.
void ExecutorManager::Expire(Invocation* invocation, TimeNs now_ns) {
  const std::optional<NodeId> node = invocation->runs_on;
  if (node) {
    Remember(&invocation->history, AttemptOn(*node), FailedAttempt::End::kDeadline);
    Abandon(invocation);
  } else {
    const std::size_t count = Look(*invocation, absl::MakeSpan(candidates_));
    invocation->waited_for = WhyNone(absl::MakeConstSpan(candidates_.data(), count));
    Dequeue(invocation);
  }
  if (now_ns < invocation->deadline_ns) {
    FailAttempt(invocation,
                {StatusCode::kDeadlineExceeded, Reason::kAttemptDeadline, invocation->attempts},
                now_ns);
  } else {
    End(invocation, {StatusCode::kDeadlineExceeded, Reason::kDeadline, invocation->attempts});
  }
}

// Its caller is gone: no attempt of it counts any more, nor does any begin.
void ExecutorManager::Cancel(Invocation* invocation) {
  const bool is_queued = !invocation->runs_on && !invocation->ended && !invocation->is_committing;
  if (invocation->runs_on) Abandon(invocation);
  if (is_queued && invocation->caller != kNobody) Dequeue(invocation);
  if (invocation->outcome) environment_->Release(invocation->outcome->payload);
  invocation->outcome.reset();
  if (invocation->caller != kNobody) --node_[invocation->caller].invocations;
  invocation->caller = kNobody;  // the node's slot is somebody else's soon
  invocation->parent = 0;
  invocation->forgotten = true;
  invocation->waiter.reset();
  if (invocation->is_committing) return;  // it ends when it has
  End(invocation, {StatusCode::kCancelled, Reason::kCancelled, invocation->attempts});
}

void ExecutorManager::ForgetNode(NodeId node) {
  const FailedAttempt lost = AttemptOn(node);
  Node gone = std::move(node_[node]);
  node_[node] = Node{};
  for (const LocalFunction& local : gone.functions) {
    std::erase_if(function_.at(local.function).offers,
                  [node](const Offer& offer) { return offer.node == node; });
  }
  node_[node].queued = gone.queued;
  node_[node].invocations = gone.invocations;
  // The youngest first, because each goes to the front of its queue.
  std::sort(gone.attempts.begin(), gone.attempts.end(),
            [](const Attempt& a, const Attempt& b) { return a.id < b.id; });
  for (auto attempt = gone.attempts.rbegin(); attempt != gone.attempts.rend(); ++attempt) {
    Invocation* const invocation = Find(attempt->id);
    --invocation->live_attempts;
    if (attempt->is_abandoned) {
      EraseIfDone(invocation);
      continue;
    }
    invocation->runs_on.reset();
    Remember(&invocation->history, lost, FailedAttempt::End::kNodeGone);
    FailAttempt(invocation, {StatusCode::kUnavailable, Reason::kNodeLost, invocation->attempts},
                invocation->queued_ns);
  }
  for (Invocation& invocation : invocation_) {
    if (invocation.id != 0 && invocation.caller == node) Cancel(&invocation);
  }
  node_[node] = Node{};
  node_[node].attachments = gone.attachments + 1;
  for (const LocalFunction& local : gone.functions) DropIfUnused(local.function);
  has_changed_ = true;
}

int ExecutorManager::Poll(TimeNs now_ns) {
  int moved = 0;
  while (!due_.empty() && due_.next_ns() <= now_ns) {
    Expire(&invocation_[due_.next_slot()], now_ns);
    ++moved;
  }
  const bool has_changed = has_changed_ || waits_for_acks_;
  if (queued_ == 0 || !(has_changed || looks_on_)) return moved;
  has_changed_ = false;
  waits_for_acks_ = false;
  looks_on_ = false;
  for (auto& [id, function] : function_) {
    if (!function.queue.empty()) moved += PlaceQueued(&function, has_changed, now_ns);
  }
  return moved;
}

void ExecutorManager::End(Invocation* invocation, const Outcome& outcome) {
  due_.Clear(SlotOf(invocation->id));
  invocation->ended = true;
  SetWaiting(invocation, false);
  if (invocation->waiter) {
    Outcome answer = outcome;
    answer.history = invocation->history;
    answer.waited_for = invocation->waited_for;
    environment_->Answer(*invocation->waiter, answer);
  } else if (invocation->forgotten) {
    environment_->Release(outcome.payload);
  } else {
    invocation->outcome = outcome;
  }
  EraseIfDone(invocation);
}

// Invariant 3.
void ExecutorManager::EraseIfDone(Invocation* invocation) {
  if (!invocation->ended || invocation->live_attempts > 0) return;
  environment_->Release(invocation->input);
  invocation->input = {};
  if (invocation->outcome) return;
  FunctionState* const function = invocation->function;
  if (invocation->caller != kNobody) --node_[invocation->caller].invocations;
  free_slots_.push_back(SlotOf(invocation->id));
  // What has been allocated stays with the slot.
  std::vector<std::uint64_t> reads = std::move(invocation->reads);
  reads.clear();
  *invocation = Invocation{};
  invocation->reads = std::move(reads);
  --function->invocations;
  DropIfUnused(function->id);
}

std::vector<std::string> ExecutorManager::FunctionsOf(NodeId node) const {
  std::vector<std::string> names;
  for (const LocalFunction& local : node_[node].functions) {
    names.push_back(function_.at(local.function).name);
  }
  return names;
}

NodeLoad ExecutorManager::LoadOf(NodeId node) const {
  const Node& state = node_[node];
  return {.threads = state.threads,
          .idle = static_cast<std::uint32_t>(state.idle_workers.size()),
          .running = static_cast<std::uint32_t>(state.attempts.size()),
          .waiting = state.waiting,
          .stuck = state.stuck};
}

}  // namespace apta::scheduler
