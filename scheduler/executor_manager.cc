#include "scheduler/executor_manager.h"

#include <algorithm>

#include "scheduler/placement.h"

namespace apta::scheduler {

using fabric::Reason;

Reason ExecutorManager::Register(NodeId node, std::string_view function,
                                 const FunctionLimits& limits) {
  node_[node].takes_work = true;
  const auto known = function_id_.find(std::string(function));
  if (known != function_id_.end() && FindLocal(node, known->second) != nullptr) {
    return Reason::kAlreadyRegistered;
  }
  if (node_[node].functions.size() >= kMaxFunctionsPerNode) return Reason::kQueueFull;
  FunctionId id;
  if (known != function_id_.end()) {
    id = known->second;
  } else {
    id = ++last_function_;
    function_[id].name = function;
    function_id_.emplace(std::string(function), id);
  }
  node_[node].functions.push_back({id, limits});
  function_.at(id).nodes.push_back(node);
  return Reason::kNone;
}

// Invariant 4.
void ExecutorManager::DropIfUnused(FunctionId function) {
  const auto entry = function_.find(function);
  if (entry == function_.end()) return;  // went with its last invocation
  if (!entry->second.nodes.empty() || entry->second.invocations > 0) return;
  function_id_.erase(entry->second.name);
  function_.erase(entry);
}

void ExecutorManager::Ready(const Waiter& worker) {
  if (node_[worker.node].takes_work) {
    std::vector<Waiter>& idle = node_[worker.node].idle_workers;
    // A lane has one question at a time; one that asks again forgets the first.
    std::erase_if(idle, [&](const Waiter& other) { return other.lane == worker.lane; });
    idle.push_back(worker);
  } else {
    environment_->Answer(worker, {absl::StatusCode::kCancelled, Reason::kCancelled});
  }
}

void ExecutorManager::Unready(NodeId node) {
  node_[node].takes_work = false;
  std::vector<Waiter> workers;
  workers.swap(node_[node].idle_workers);
  for (const Waiter& worker : workers) {
    environment_->Answer(worker, {absl::StatusCode::kCancelled, Reason::kCancelled});
  }
}

void ExecutorManager::Finish(NodeId node, InvocationId id, absl::StatusCode code, Payload payload) {
  const auto entry = invocation_.find(id);
  // Invariant 2: ended meanwhile, or running elsewhere.
  if (entry == invocation_.end() || entry->second.runs_on != node) {
    environment_->Release(payload);
    return;
  }
  Invocation& invocation = entry->second;
  StopRunning(&invocation);
  if (invocation.ended) {  // past its deadline
    environment_->Release(payload);
    EraseIfDone(id);
    return;
  }
  End(id, {code, code == absl::StatusCode::kOk ? Reason::kNone : Reason::kFunctionFailed,
           invocation.attempts, payload});
}

std::optional<FunctionId> ExecutorManager::FindFunction(std::string_view function) const {
  const auto entry = function_id_.find(std::string(function));
  if (entry == function_id_.end() || !IsOffered(entry->second)) return std::nullopt;
  return entry->second;
}

bool ExecutorManager::IsOffered(FunctionId function) const {
  const auto entry = function_.find(function);
  return entry != function_.end() && !entry->second.nodes.empty();
}

std::optional<InvocationId> ExecutorManager::Call(NodeId caller, std::optional<Waiter> waiter,
                                                  FunctionId function, Payload input,
                                                  TimeNs deadline_ns, TimeNs now_ns) {
  if (queued_ >= kMaxQueued || invocation_.size() >= kMaxInvocations) {
    environment_->Release(input);
    return std::nullopt;
  }
  const InvocationId id = ++last_id_;
  invocation_.emplace(id, Invocation{.function = function,
                                     .caller = caller,
                                     .waiter = waiter,
                                     .input = input,
                                     .deadline_ns = deadline_ns});
  ++function_.at(function).invocations;
  SetDeadline(id, deadline_ns);
  Enqueue(id, /*in_front=*/false);
  PlaceQueued(function, now_ns);
  return id;
}

bool ExecutorManager::Wait(const Waiter& waiter, InvocationId id) {
  const auto entry = invocation_.find(id);
  if (entry == invocation_.end() || entry->second.caller != waiter.node ||
      entry->second.waiter.has_value() || entry->second.forgotten) {
    return false;
  }
  entry->second.waiter = waiter;
  if (entry->second.outcome.has_value()) {
    environment_->Answer(waiter, *entry->second.outcome);
    entry->second.outcome.reset();
    EraseIfDone(id);
  }
  return true;
}

std::optional<bool> ExecutorManager::Poll(NodeId caller, InvocationId id) const {
  const auto entry = invocation_.find(id);
  if (entry == invocation_.end() || entry->second.caller != caller) return std::nullopt;
  return entry->second.outcome.has_value();
}

void ExecutorManager::Forget(NodeId caller, InvocationId id) {
  const auto entry = invocation_.find(id);
  if (entry == invocation_.end() || entry->second.caller != caller) return;
  Invocation& invocation = entry->second;
  invocation.forgotten = true;
  invocation.waiter.reset();
  if (invocation.outcome.has_value()) environment_->Release(invocation.outcome->payload);
  invocation.outcome.reset();
  EraseIfDone(id);
}

void ExecutorManager::ForgetNode(NodeId node) {
  const std::vector<LocalFunction> functions = std::move(node_[node].functions);
  for (const LocalFunction& local : functions) {
    std::erase(function_.at(local.function).nodes, node);
  }
  node_[node] = Node{};
  std::vector<InvocationId> orphaned;
  std::vector<InvocationId> lost;
  for (const auto& [id, invocation] : invocation_) {
    if (invocation.caller == node) orphaned.push_back(id);
    // A queued one that nobody is left to run ends now, not at its deadline.
    const bool is_queued = !invocation.runs_on && !invocation.ended;
    if (invocation.runs_on == node || (is_queued && !IsOffered(invocation.function))) {
      lost.push_back(id);
    }
  }
  // Backwards, because each goes to the front of its queue.
  for (auto id = lost.rbegin(); id != lost.rend(); ++id) Lose(*id);
  for (const InvocationId id : orphaned) Forget(node, id);
  for (const LocalFunction& local : functions) DropIfUnused(local.function);
}

// The node that ran it is gone, or all that could run it.
void ExecutorManager::Lose(InvocationId id) {
  Invocation& invocation = invocation_.at(id);
  const bool was_running = invocation.runs_on.has_value();
  invocation.runs_on.reset();
  if (invocation.ended) {
    EraseIfDone(id);
    return;
  }
  const bool can_run_again =
      IsOffered(invocation.function) && invocation.attempts < invocation.max_attempts;
  if (was_running && can_run_again) {
    Enqueue(id, /*in_front=*/true);
    return;
  }
  if (!was_running) Dequeue(id);
  End(id, {absl::StatusCode::kUnavailable, Reason::kNodeLost, invocation.attempts});
}

int ExecutorManager::Poll(TimeNs now_ns) {
  int moved = 0;
  while (!by_deadline_.empty() && by_deadline_.begin()->first <= now_ns) {
    const InvocationId id = by_deadline_.begin()->second;
    const Invocation& invocation = invocation_.at(id);
    if (!invocation.runs_on) Dequeue(id);
    End(id, {absl::StatusCode::kDeadlineExceeded, Reason::kDeadline, invocation.attempts});
    ++moved;
  }
  if (queued_ == 0) return moved;
  for (const auto& [function, state] : function_) {
    if (!state.queue.empty()) moved += PlaceQueued(function, now_ns);
  }
  return moved;
}

int ExecutorManager::PlaceQueued(FunctionId function, TimeNs now_ns) {
  int placed = 0;
  std::deque<InvocationId>& queue = function_.at(function).queue;
  while (!queue.empty() && PlaceOne(function, queue.front(), now_ns)) {
    queue.pop_front();
    --queued_;
    ++placed;
  }
  return placed;
}

// Model rule: SCHEDULE_ONLY_CLEAN
bool ExecutorManager::PlaceOne(FunctionId function, InvocationId id, TimeNs now_ns) {
  std::array<Candidate, fabric::kMaxNodes> candidate;
  std::size_t candidates = 0;
  for (const NodeId node : function_.at(function).nodes) {
    const LocalFunction& local = *FindLocal(node, function);
    candidate[candidates++] = {node,
                               environment_->OwesAcknowledgement(node),
                               static_cast<std::uint32_t>(node_[node].idle_workers.size()),
                               local.running,
                               local.limits.max_concurrency,
                               node_[node].running};
  }
  const auto chosen = Place(absl::MakeConstSpan(candidate.data(), candidates));
  if (!chosen) {
    // Invariant 1. It waits for acknowledgements, so somebody must be asked for them.
    for (std::size_t i = 0; i < candidates; ++i) {
      if (candidate[i].owes_acknowledgement && candidate[i].idle_workers > 0) {
        environment_->AskForAcknowledgements(candidate[i].node);
      }
    }
    return false;
  }
  const NodeId node = candidate[*chosen].node;
  Invocation& invocation = invocation_.at(id);
  LocalFunction* local = FindLocal(node, function);
  ++local->running;
  ++node_[node].running;
  invocation.runs_on = node;
  invocation.max_attempts = local->limits.max_attempts;
  ++invocation.attempts;
  const TimeNs limit_ns = now_ns + TimeNs{local->limits.deadline_ms} * 1'000'000;
  if (limit_ns < invocation.deadline_ns) SetDeadline(id, limit_ns);
  const Waiter worker = node_[node].idle_workers.back();  // the last to go idle is warmest
  node_[node].idle_workers.pop_back();
  environment_->Deliver(
      worker, {id, static_cast<std::uint32_t>(local - node_[node].functions.data()),
               invocation.attempts, invocation.input,
               invocation.deadline_ns > now_ns ? invocation.deadline_ns - now_ns : TimeNs{0}});
  return true;
}

ExecutorManager::LocalFunction* ExecutorManager::FindLocal(NodeId node, FunctionId function) {
  for (LocalFunction& local : node_[node].functions) {
    if (local.function == function) return &local;
  }
  return nullptr;
}

void ExecutorManager::Enqueue(InvocationId id, bool in_front) {
  std::deque<InvocationId>& queue = function_.at(invocation_.at(id).function).queue;
  if (in_front) {
    queue.push_front(id);
  } else {
    queue.push_back(id);
  }
  ++queued_;
}

void ExecutorManager::StopRunning(Invocation* invocation) {
  const NodeId node = *invocation->runs_on;
  --FindLocal(node, invocation->function)->running;
  --node_[node].running;
  invocation->runs_on.reset();
}

void ExecutorManager::Dequeue(InvocationId id) {
  std::erase(function_.at(invocation_.at(id).function).queue, id);
  --queued_;
}

void ExecutorManager::SetDeadline(InvocationId id, TimeNs deadline_ns) {
  ClearDeadline(id);
  invocation_.at(id).deadline_ns = deadline_ns;
  by_deadline_.emplace(deadline_ns, id);
}

void ExecutorManager::ClearDeadline(InvocationId id) {
  const auto [first, last] = by_deadline_.equal_range(invocation_.at(id).deadline_ns);
  const auto entry = std::find_if(first, last, [id](const auto& e) { return e.second == id; });
  if (entry != last) by_deadline_.erase(entry);
}

void ExecutorManager::End(InvocationId id, const Outcome& outcome) {
  Invocation& invocation = invocation_.at(id);
  ClearDeadline(id);
  invocation.ended = true;
  if (invocation.waiter) {
    environment_->Answer(*invocation.waiter, outcome);
  } else if (invocation.forgotten) {
    environment_->Release(outcome.payload);
  } else {
    invocation.outcome = outcome;
  }
  EraseIfDone(id);
}

// Invariant 3.
void ExecutorManager::EraseIfDone(InvocationId id) {
  Invocation& invocation = invocation_.at(id);
  if (!invocation.ended || invocation.runs_on) return;
  environment_->Release(invocation.input);
  invocation.input = {};
  if (invocation.outcome) return;
  const FunctionId function = invocation.function;
  invocation_.erase(id);
  --function_.at(function).invocations;
  DropIfUnused(function);
}

std::vector<std::string> ExecutorManager::FunctionsOf(NodeId node) const {
  std::vector<std::string> names;
  for (const LocalFunction& local : node_[node].functions) {
    names.push_back(function_.at(local.function).name);
  }
  return names;
}

}  // namespace apta::scheduler
