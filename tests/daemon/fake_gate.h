// Nodes that a test plays for a home: rings without an end, staging buffers, hold tables, and the
// replies that they got. Single-threaded, as a home is.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/home.h"
#include "fabric/port.h"
#include "tests/daemon/fake_holds.h"

namespace apta::daemon {

class FakeGate : public NodeGate {
 public:
  struct Lane {
    std::vector<std::byte> staging = std::vector<std::byte>(fabric::kStagingBytes);
    std::uint64_t staged_bytes = 0;
    std::uint64_t drained_bytes = 0;
  };
  struct Node {
    std::map<std::uint64_t, fabric::Invalidation> records;  // by sequence
    std::uint64_t issued = 0;
    std::uint64_t drop_all = 0;
    std::uint64_t acknowledged = 0;
    FakeHolds holds;
    int nudges = 0;
    std::map<std::uint16_t, Lane> lanes;
  };
  struct Answered {
    scheduler::Waiter to;
    Reply reply;
    std::uint64_t payload_bytes;
  };

  Node& node(NodeId id) { return nodes_[id]; }
  void AcknowledgeAll(NodeId id) { nodes_[id].acknowledged = nodes_[id].issued; }

  // The reply in a lane, which is then gone.
  std::optional<Answered> Take(NodeId node, std::uint16_t lane) {
    const auto found = std::find_if(answers_.begin(), answers_.end(), [&](const Answered& answer) {
      return answer.to.node == node && answer.to.lane == lane;
    });
    if (found == answers_.end()) return std::nullopt;
    const Answered answer = *found;
    answers_.erase(found);
    return answer;
  }
  std::vector<Answered>& answers() { return answers_; }
  std::vector<NodeId>& forgotten() { return forgotten_; }
  std::map<NodeId, FenceReason>& fenced() { return fenced_; }
  // Called when an invalidation has been issued.
  std::function<void(NodeId, const fabric::Invalidation&)> on_issue;

  // NodeGate
  void Issue(NodeId id, std::uint64_t sequence, const fabric::Invalidation& record) override {
    nodes_[id].issued = sequence;
    nodes_[id].records[sequence] = record;
    if (on_issue) on_issue(id, record);
  }
  void IssueDropAll(NodeId id, std::uint64_t sequence) override {
    nodes_[id].issued = nodes_[id].drop_all = sequence;
  }
  std::uint64_t Acknowledged(NodeId id) override { return nodes_[id].acknowledged; }
  const fabric::HoldTable& Holds(NodeId id) override { return nodes_[id].holds.table(); }
  void Answer(const scheduler::Waiter& to, const Reply& reply,
              std::uint64_t payload_bytes) override {
    answers_.push_back({to, reply, payload_bytes});
  }
  // Where the payload is found: kInLane, and its number of those that came in lanes.
  void AnswerWith(const scheduler::Waiter& to, const Reply& reply, BytesView payload) override {
    in_lanes_.emplace_back(AsText(payload));
    Reply with = reply;
    with.extent_offset = fabric::kInLane + in_lanes_.size() - 1;
    Answer(to, with, payload.size());
  }
  const std::string& InLane(std::uint64_t extent_offset) const {
    return in_lanes_.at(extent_offset & ~fabric::kInLane);
  }
  std::uint64_t StagedBytes(NodeId id, std::uint16_t lane) override {
    return nodes_[id].lanes[lane].staged_bytes;
  }
  const std::byte* Staging(NodeId id, std::uint16_t lane) override {
    return nodes_[id].lanes[lane].staging.data();
  }
  void SetDrained(NodeId id, std::uint16_t lane, std::uint64_t bytes) override {
    nodes_[id].lanes[lane].drained_bytes = bytes;
  }
  void Nudge(NodeId id) override { ++nodes_[id].nudges; }
  void Fence(NodeId id, const FenceReason& reason) override { fenced_[id] = reason; }
  void OnNodeForgotten(NodeId id) override { forgotten_.push_back(id); }
  void OnDamaged(const Pool*, std::string_view key, std::uint64_t) override {
    damaged_.emplace_back(key);
  }
  std::vector<std::string>& damaged() { return damaged_; }
  void SendToHome(const Pool*, int shard, GroupMessage message) override {
    mail_.emplace_back(shard, std::move(message));
  }
  // To homes of other shards: the test delivers it.
  std::deque<std::pair<int, GroupMessage>>& mail() { return mail_; }

 private:
  std::map<NodeId, Node> nodes_;
  std::vector<Answered> answers_;
  std::vector<std::string> in_lanes_;
  std::vector<NodeId> forgotten_;
  std::deque<std::pair<int, GroupMessage>> mail_;
  std::map<NodeId, FenceReason> fenced_;
  std::vector<std::string> damaged_;
};

}  // namespace apta::daemon
