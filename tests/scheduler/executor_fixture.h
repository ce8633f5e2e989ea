// An Executor Manager whose nodes, callers and directory a test plays.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/executor_manager.h"

namespace apta::scheduler {

class ExecutorFixture : public ::testing::Test, public Environment {
 protected:
  bool OwesAcknowledgement(NodeId node, bool declares_reads,
                           absl::Span<const std::uint64_t> reads) const override {
    if (!declares_reads) return owing_.contains(node) || !owing_key_.empty();
    return std::any_of(reads.begin(), reads.end(), [&](std::uint64_t key) {
      return owing_key_.contains({node, key});
    });
  }
  void AddLocalBytes(absl::Span<const std::uint64_t> reads,
                     absl::Span<Candidate> candidates) const override {
    for (Candidate& candidate : candidates) {
      for (const std::uint64_t key : reads) {
        const auto bytes = cached_.find({candidate.node, key});
        if (bytes != cached_.end()) candidate.local_bytes += bytes->second;
      }
    }
  }
  std::string_view NameOf(NodeId node) const override { return name_[node]; }
  void AskForAcknowledgements(NodeId node) override { asked_.insert(node); }
  void Deliver(const Waiter& worker, const Delivery& delivery) override {
    delivered_.emplace_back(worker.node, delivery);
  }
  void Answer(const Waiter& waiter, const Outcome& outcome) override {
    answers_.emplace_back(waiter.lane, outcome);
    history_.assign(outcome.history.begin(), outcome.history.end());
    waited_for_ = outcome.waited_for;
  }
  void Release(Payload payload) override {
    if (payload.extent == 0) return;
    EXPECT_TRUE(released_.insert(payload.extent).second);
  }

  void Host(NodeId node, int workers = 1, FunctionLimits limits = {}) {
    EXPECT_EQ(em_.Register(node, "f", limits), fabric::Reason::kNone);
    for (int i = 0; i < workers; ++i) Ready(node);
  }
  void Ready(NodeId node) { em_.Ready({node, next_lane_++, 1}); }
  // A call of node 0, answered in `lane`; its input stands in an extent of that number.
  InvocationId Call(std::uint16_t lane, TimeNs deadline_ns = 1000) {
    return Call(CallSpec{
        .caller = 0, .waiter = Waiter{0, lane, 1}, .input = {lane}, .deadline_ns = deadline_ns});
  }
  InvocationId Call(CallSpec spec) {
    spec.function = *em_.FindFunction("f");
    if (spec.deadline_ns == 0) spec.deadline_ns = 1000;
    const ExecutorManager::Called called = em_.Call(spec, now_ns_);
    EXPECT_EQ(called.reason, fabric::Reason::kNone);
    return called.id;
  }
  // The result of what was delivered `index`-th.
  void Finish(std::size_t index, Payload result = {},
              absl::StatusCode code = absl::StatusCode::kOk) {
    em_.Finish(delivered_[index].first, delivered_[index].second.id, code, result, now_ns_);
  }

  ExecutorManager em_{this};
  std::uint16_t next_lane_ = 0;  // of workers
  TimeNs now_ns_ = 0;
  std::set<NodeId> owing_;
  std::set<std::pair<NodeId, std::uint64_t>> owing_key_;
  std::map<std::pair<NodeId, std::uint64_t>, std::uint64_t> cached_;  // bytes
  std::array<std::string, 8> name_ = {"zero", "one", "two", "three", "four", "five", "six", "7"};
  std::vector<FailedAttempt> history_;  // of the last answer
  std::string waited_for_;              // ... also
  std::set<NodeId> asked_;
  std::vector<std::pair<NodeId, Delivery>> delivered_;
  std::vector<std::pair<int, Outcome>> answers_;  // by lane of the caller
  std::set<std::uint64_t> released_;
};

}  // namespace apta::scheduler
