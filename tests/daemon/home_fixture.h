// A home over a real pool, with nodes that the test plays.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/home.h"
#include "fabric/hash.h"
#include "tests/daemon/fake_gate.h"

namespace apta::daemon {

class HomeFixture : public ::testing::Test {
 protected:
  static constexpr NodeId kNodes = 4;

  explicit HomeFixture(const std::string& access = "isolated", int shards = 1)
      : HomeFixture(PoolOptions{.bytes = 16 << 20, .access = access}, shards) {}
  explicit HomeFixture(const PoolOptions& options, int shards = 1, Journal* journal = nullptr) {
    auto pool = Pool::Open(options, shards);
    EXPECT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
    pool_->set_journal(journal);
    home_.emplace(pool_.get(), 0, /*hosts_functions=*/true, &gate_);
    for (NodeId node = 0; node < kNodes; ++node) home_->AttachNode(node, node == 1 ? "host" : "");
  }

  static Request Inline(fabric::Op op, std::string_view key, std::string_view payload = "",
                        std::uint64_t argument = 0) {
    Request request{};
    request.op = op;
    request.argument = argument;
    request.key_bytes = static_cast<std::uint16_t>(key.size());
    request.payload_bytes = payload.size() & fabric::kMaxPayloadBytes;
    std::copy(key.begin(), key.end(), reinterpret_cast<char*>(request.body));
    std::copy(payload.begin(), payload.end(), reinterpret_cast<char*>(request.body + key.size()));
    return request;
  }
  static Request Staged(fabric::Op op, std::string_view key, std::uint64_t payload_bytes,
                        std::uint64_t argument = 0) {
    Request request{};
    request.op = op;
    request.flags = fabric::kBodyStaged;
    request.argument = argument;
    request.key_bytes = static_cast<std::uint16_t>(key.size());
    request.payload_bytes = payload_bytes & fabric::kMaxPayloadBytes;
    return request;
  }

  // Whether the home found the request good.
  bool Step(NodeId node, Request request, std::uint16_t lane = 0) {
    request.lane = fabric::IsOneWay(request.op) ? fabric::kNoLane : lane;
    request.request_id = ++last_request_id_;
    return home_->Step(node, request, now_ns_);
  }
  // What the home answers at once.
  Reply Ask(NodeId node, const Request& request, std::uint16_t lane = 0) {
    Step(node, request, lane);
    return Answer(node, lane);
  }
  Reply Answer(NodeId node, std::uint16_t lane) {
    const auto answer = gate_.Take(node, lane);
    EXPECT_TRUE(answer.has_value()) << "no answer";
    if (!answer) return {.code = 99};
    EXPECT_EQ(answer->to.request_id, last_request_id_);
    return answer->reply;
  }
  Reply Get(NodeId node, std::string_view key) { return Ask(node, Inline(fabric::Op::kGet, key)); }
  Reply Put(NodeId node, std::string_view key, std::string_view value,
            std::uint64_t if_version = fabric::kAnyVersion) {
    return Ask(node, Inline(fabric::Op::kPut, key, value, if_version));
  }
  Reply Delete(NodeId node, std::string_view key, std::uint64_t if_version = fabric::kAnyVersion) {
    return Ask(node, Inline(fabric::Op::kDelete, key, "", if_version));
  }

  // The node's part of a staged body: writes what there is room for, and says so.
  void Stage(NodeId node, std::uint16_t lane, std::string_view key, std::string_view payload) {
    std::string body(key);
    body.resize(fabric::StagedPayloadOffset(key.size()));
    body += payload;
    FakeGate::Lane& shared = gate_.node(node).lanes[lane];
    const std::uint64_t end =
        std::min<std::uint64_t>(body.size(), shared.drained_bytes + fabric::kStagingBytes);
    for (std::uint64_t i = shared.staged_bytes; i < end; ++i) {
      shared.staging[i % fabric::kStagingBytes] = static_cast<std::byte>(body[i]);
    }
    shared.staged_bytes = end;
  }
  void ResetLane(NodeId node, std::uint16_t lane) { gate_.node(node).lanes[lane] = {}; }

  std::string Payload(std::uint64_t extent) const {
    if ((extent & fabric::kInLane) != 0) return gate_.InLane(extent);
    const auto* header = reinterpret_cast<const fabric::ExtentHeader*>(pool_->data() + extent);
    return {reinterpret_cast<const char*>(header->payload()), header->payload_bytes};
  }
  // As a reader without any registration sees it.
  Version Visible(std::string_view key) {
    const auto entry = pool_->share(0).index.view().LocateUnregistered(fabric::KeyHash(key), key);
    return entry ? entry->version : 0;
  }
  std::uint64_t LiveExtents() { return pool_->share(0).objects.live_extents(); }
  void Poll(int times = 1) {
    for (int i = 0; i < times; ++i) home_->Poll(now_ns_);
  }
  static absl::StatusCode CodeOf(const Reply& reply) {
    return static_cast<absl::StatusCode>(reply.code);
  }

  FakeGate gate_;
  std::unique_ptr<Pool> pool_;
  std::optional<Home> home_;
  TimeNs now_ns_ = 1000;
  std::uint32_t last_request_id_ = 0;
};

}  // namespace apta::daemon
