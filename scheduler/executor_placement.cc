// Queues, and how an invocation gets from there to a node.

#include <algorithm>

#include "scheduler/executor_manager.h"

namespace apta::scheduler {

namespace {

// Between two requests: so many looks at a queued invocation's candidates (times its declared
// reads). What is left has its turn at the next poll.
constexpr std::size_t kLooksPerPoll = 2048;

}  // namespace

void ExecutorManager::Enqueue(Invocation* invocation, bool in_front) {
  Queued& queue = invocation->function->queue;
  invocation->place = in_front ? --queue.first_place : ++queue.last_place;
  queue.Of(*invocation).emplace(invocation->place, invocation->id);
  ++queued_;
  ++node_[invocation->caller].queued;
  has_changed_ = true;
}

void ExecutorManager::Dequeue(Invocation* invocation) {
  invocation->function->queue.Of(*invocation).erase(invocation->place);
  --queued_;
  --node_[invocation->caller].queued;
}

// Whether some node could run one more, whatever it owes.
bool ExecutorManager::HasRoom(const FunctionState& function) const {
  return std::any_of(function.offers.begin(), function.offers.end(), [&](const Offer& offer) {
    const Node& node = node_[offer.node];
    const LocalFunction& local = node.functions[offer.local_function];
    return !node.idle_workers.empty() && (node.threads == 0 || node.active < node.threads) &&
           local.running < local.limits.max_concurrency && node.HasLane();
  });
}

int ExecutorManager::PlaceQueued(FunctionState* function, bool has_changed, TimeNs now_ns) {
  Queued& queue = function->queue;
  int placed = 0;
  std::size_t looks = 0;
  bool is_blocked = false;  // the first ordinary one cannot start, so none can
  if (has_changed && queue.look_at != Queued::kFirst) queue.has_passed_over = true;
  auto particular = queue.particular.lower_bound(queue.look_at);
  while (looks <= kLooksPerPoll && HasRoom(*function)) {
    const auto ordinary = is_blocked ? queue.ordinary.end() : queue.ordinary.begin();
    const bool has_ordinary = ordinary != queue.ordinary.end();
    const bool has_particular = particular != queue.particular.end();
    if (!has_ordinary && !has_particular) break;
    const bool takes_ordinary =
        has_ordinary && (!has_particular || ordinary->first < particular->first);
    Invocation* const invocation = Find(takes_ordinary ? ordinary->second : particular->second);
    if (!takes_ordinary) ++particular;  // stays valid whatever becomes of the one before it
    if (PlaceOne(invocation, now_ns)) {
      Dequeue(invocation);
      ++placed;
      continue;
    }
    is_blocked = is_blocked || takes_ordinary;
    looks += function->offers.size() * (1 + invocation->reads.size());
  }
  const bool is_cut_short = looks > kLooksPerPoll && particular != queue.particular.end();
  queue.look_at = is_cut_short ? particular->first : Queued::kFirst;
  looks_on_ = looks_on_ || is_cut_short || queue.has_passed_over;
  if (!is_cut_short) queue.has_passed_over = false;
  return placed;
}

// The candidates for an invocation, as they are now; returns how many.
std::size_t ExecutorManager::Look(const Invocation& invocation,
                                  absl::Span<Candidate> candidates) const {
  std::size_t count = 0;
  for (const Offer& offer : invocation.function->offers) {
    const Node& node = node_[offer.node];
    const LocalFunction& local = node.functions[offer.local_function];
    const std::uint64_t here = AttachmentOf(offer.node);
    candidates[count++] = {
        .node = offer.node,
        .is_named = invocation.node_name.empty() ||
                    invocation.node_name == environment_->NameOf(offer.node),
        .takes_work = node.takes_work,
        .owes_acknowledgement = environment_->OwesAcknowledgement(
            offer.node, invocation.declares_reads, invocation.reads),
        .has_failed_here =
            std::any_of(invocation.history.begin(), invocation.history.end(),
                        [&](const FailedAttempt& failed) { return failed.attachment == here; }),
        .idle_workers = node.HasLane() ? static_cast<std::uint32_t>(node.idle_workers.size()) : 0,
        .threads = node.threads,
        .active = node.active,
        .stuck = node.stuck,
        .running = local.running,
        .max_concurrency = local.limits.max_concurrency,
        .local_bytes = 0,
        .predecessors = Predecessors(invocation.workflow, offer.node)};
  }
  if (!invocation.reads.empty() && (count > 1 || invocation.explain)) {
    environment_->AddLocalBytes(invocation.reads, candidates.subspan(0, count));
  }
  return count;
}

// Invariant 1.
bool ExecutorManager::PlaceOne(Invocation* invocation, TimeNs now_ns) {
  const std::size_t count = Look(*invocation, absl::MakeSpan(candidates_));
  const auto candidates = absl::MakeConstSpan(candidates_.data(), count);
  FunctionState& function = *invocation->function;
  const auto choice = Place(*policy_, {.candidates = candidates,
                                       .declares_reads = invocation->declares_reads,
                                       .function = function.id,
                                       .turn = function.placed,
                                       .last_node = function.last_node});
  if (invocation->explain) Record(*invocation, candidates, choice, now_ns);
  if (choice) {
    Start(invocation, function.offers[choice->index], now_ns);
    return true;
  }
  // It waits for acknowledgements, so somebody must be asked for them.
  for (const Candidate& candidate : candidates) {
    if (Judge(candidate) != Verdict::kOwes) continue;
    waits_for_acks_ = true;
    environment_->AskForAcknowledgements(candidate.node);
  }
  return false;
}

void ExecutorManager::Start(Invocation* invocation, const Offer& offer, TimeNs now_ns) {
  Node& node = node_[offer.node];
  LocalFunction& local = node.functions[offer.local_function];
  invocation->runs_on = offer.node;
  invocation->max_attempts = local.limits.max_attempts;
  const std::uint32_t number = ++invocation->attempts;
  const InvocationId id = fabric::AttemptOf(invocation->id, number);
  ++invocation->live_attempts;
  node.attempts.push_back({.id = id, .local_function = offer.local_function});
  ++local.running;
  ++node.active;
  ++invocation->function->placed;
  invocation->function->last_node = offer.node;
  CountPredecessor(invocation->workflow, offer.node);
  const TimeNs limit_ns = now_ns + TimeNs{local.limits.deadline_ms} * 1'000'000;
  const TimeNs deadline_ns = std::min(limit_ns, invocation->deadline_ns);
  if (limit_ns < invocation->deadline_ns) due_.Set(fabric::SlotOf(invocation->id), limit_ns);
  const Waiter worker = node.idle_workers.back();  // the last to go idle is warmest
  node.idle_workers.pop_back();
  environment_->Deliver(worker, {id, offer.local_function, number, invocation->input,
                                 deadline_ns > now_ns ? deadline_ns - now_ns : TimeNs{0}});
}

// ---------------------------------------------------------------------------------------------

// A table of fixed size, where workflows that meet push each other out: a hint that is lost costs
// locality.
std::uint32_t ExecutorManager::Predecessors(std::uint64_t workflow, NodeId node) const {
  if (workflow == 0) return 0;
  const Track& track = track_[workflow % track_.size()];
  if (track.workflow != workflow) return 0;
  for (const auto& [placed_on, count] : track.placed) {
    if (count > 0 && placed_on == node) return count;
  }
  return 0;
}

void ExecutorManager::CountPredecessor(std::uint64_t workflow, NodeId node) {
  if (workflow == 0) return;
  Track& track = track_[workflow % track_.size()];
  if (track.workflow != workflow) track = Track{.workflow = workflow};
  std::pair<NodeId, std::uint32_t>* least = &track.placed[0];
  for (auto& placed : track.placed) {
    if (placed.second > 0 && placed.first == node) {
      ++placed.second;
      return;
    }
    if (placed.second < least->second) least = &placed;
  }
  *least = {node, 1};
}

// Its name, and its number if other hosts have the same.
std::string ExecutorManager::LabelOf(NodeId node) const {
  std::string label(environment_->NameOf(node));
  for (NodeId other = 0; other < node_.size(); ++other) {
    if (other == node || node_[other].functions.empty()) continue;
    if (environment_->NameOf(other) == label) return label + " (node " + std::to_string(node) + ")";
  }
  return label;
}

FailedAttempt ExecutorManager::AttemptOn(NodeId node) const {
  return {
      .node = LabelOf(node), .end = FailedAttempt::End::kError, .attachment = AttachmentOf(node)};
}

// The last look at an invocation counts.
void ExecutorManager::Record(const Invocation& invocation, absl::Span<const Candidate> candidates,
                             const std::optional<Choice>& choice, TimeNs now_ns) {
  std::erase_if(explanation_, [&](const Explanation& old) { return old.id == invocation.id; });
  if (explanation_.size() == kMaxExplanations) explanation_.pop_front();
  Explanation& explanation = explanation_.emplace_back();
  explanation.id = invocation.id;
  explanation.caller = invocation.caller;
  explanation.policy = policy_->name();
  explanation.attempt = invocation.attempts + 1;
  explanation.queued_ns = now_ns - std::min(now_ns, invocation.queued_ns);
  for (const Candidate& candidate : candidates) {
    explanation.considered.push_back({LabelOf(candidate.node), candidate});
  }
  if (!choice) return;
  explanation.chosen = choice->index;
  explanation.because = choice->because;
}

const Explanation* ExecutorManager::Explain(NodeId caller, InvocationId id) const {
  for (const Explanation& explanation : explanation_) {
    if (explanation.id == id && explanation.caller == caller) return &explanation;
  }
  return nullptr;
}

}  // namespace apta::scheduler
