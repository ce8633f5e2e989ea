#include "daemon/blocking_puts.h"

#include <utility>

namespace apta::daemon {

void BlockingPuts::Defer(Deferred deferred) {
  waiting_.find(deferred.key_hash)->second.queue.push_back(std::move(deferred));
}

void BlockingPuts::LetGo(std::uint64_t key_hash) {
  waiting_.find(key_hash)->second.is_held = waiting_.find(key_hash)->second.is_readable = false;
  ready_.push_back(key_hash);
}

std::optional<Change> BlockingPuts::Take(std::uint64_t key_hash, Version version) {
  const auto found = waiting_.find(key_hash);
  if (found == waiting_.end() || !found->second.change) return std::nullopt;
  if (found->second.change->version != version) return std::nullopt;  // an earlier round
  ready_.push_back(key_hash);
  return std::exchange(found->second.change, std::nullopt);
}

std::optional<BlockingPuts::Deferred> BlockingPuts::NextReady() {
  while (!ready_.empty()) {
    const auto found = waiting_.find(ready_.front());
    if (found == waiting_.end()) {
      ready_.pop_front();
      continue;
    }
    Waiting& waiting = found->second;
    if (!waiting.is_busy() && !waiting.queue.empty()) {
      Deferred deferred = std::move(waiting.queue.front());
      waiting.queue.pop_front();
      return deferred;
    }
    if (!waiting.is_busy()) waiting_.erase(found);
    ready_.pop_front();
  }
  return std::nullopt;
}

void BlockingPuts::ForgetNode(NodeId node, const std::function<void(std::uint64_t)>& discard) {
  for (auto& [key_hash, waiting] : waiting_) {
    std::erase_if(waiting.queue, [&](const Deferred& deferred) {
      if (deferred.from.node != node) return false;
      if (deferred.extent != 0) discard(deferred.extent);
      return true;
    });
    // Its own change goes on, unanswered: another process may be using its lanes by then.
    if (waiting.change && waiting.change->from.node == node) {
      waiting.change->from.lane = fabric::kNoLane;
    }
  }
}

}  // namespace apta::daemon
