// Functions as a home carries them: payloads in extents, between requests and the Executor Manager.

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "tests/daemon/home_fixture.h"

namespace apta::daemon {
namespace {

using absl::StatusCode;
using fabric::kAnyVersion;
using fabric::Op;
using fabric::Reason;

class HomeFunctionTest : public HomeFixture {
 protected:
  static constexpr NodeId kCaller = 0, kHost = 1, kOther = 2;
  static constexpr std::uint64_t kSecond = 1'000'000'000;
  // Too large for a lane, and not for a request.
  static inline const std::string kInput = std::string(fabric::kLanePayloadBytes + 1, 'i');
  static inline const std::string kResult = std::string(fabric::kLanePayloadBytes + 2, 'r');

  void Register(NodeId node, std::string_view name, fabric::FunctionLimits limits = {}) {
    EXPECT_EQ(Ask(node, Inline(Op::kRegister, name, "", limits.Pack()), 63).code, 0);
  }
  void Ready(NodeId node, std::uint16_t lane, std::uint64_t finished = 0,
             std::string_view result = "", StatusCode code = StatusCode::kOk) {
    Request request = Inline(Op::kReady, "", result, finished);
    request.flags = static_cast<std::uint8_t>(static_cast<int>(code) << fabric::kStatusShift);
    EXPECT_TRUE(Step(node, request, lane));
  }
  void Call(std::string_view input, std::uint16_t lane) {
    EXPECT_TRUE(Step(kCaller, Inline(Op::kCall, "f", input, kSecond), lane));
  }
  // A call with a head.
  Request Headed(Op op, const fabric::CallHead& head, std::vector<std::string> reads,
                 std::string_view node, std::string_view input) {
    std::vector<std::uint64_t> hashes;
    for (const std::string& key : reads) hashes.push_back(fabric::KeyHash(key));
    std::array<char, fabric::kMaxHeadBytes> bytes;
    Request request =
        Inline(op, fabric::MakeCallHead(head, hashes, node, "f", bytes.data()), input, kSecond);
    request.flags = fabric::kHeaded;
    return request;
  }
  // What a worker was given.
  Reply Delivered(NodeId node, std::uint16_t lane) {
    const auto answer = gate_.Take(node, lane);
    EXPECT_TRUE(answer.has_value()) << "nothing was delivered";
    return answer ? answer->reply : Reply{.code = 99};
  }
};

TEST_F(HomeFunctionTest, ACallsInputAndResultAreReadInPlaceAndGoWhenTheyAreReleased) {
  Register(kHost, "f");
  Ready(kHost, 4);
  EXPECT_TRUE(gate_.answers().empty());
  Call(kInput, 7);
  const Reply delivery = Delivered(kHost, 4);
  EXPECT_EQ(delivery.code, 0);
  EXPECT_EQ(Payload(delivery.extent_offset), kInput);
  EXPECT_EQ(delivery.value[1], 1ull << 32);  // function 0, attempt 1
  EXPECT_EQ(delivery.value[2], kSecond);
  Ready(kHost, 4, delivery.value[0], kResult);
  const auto result = gate_.Take(kCaller, 7);
  ASSERT_TRUE(result);
  EXPECT_EQ(result->reply.code, 0);
  EXPECT_EQ(Payload(result->reply.extent_offset), kResult);
  EXPECT_EQ(result->payload_bytes, kResult.size());
  EXPECT_EQ(LiveExtents(), 1u);
  EXPECT_FALSE(Step(kOther, Inline(Op::kRelease, "", "", result->reply.extent_offset)));
  EXPECT_TRUE(Step(kCaller, Inline(Op::kRelease, "", "", result->reply.extent_offset)));
  EXPECT_FALSE(Step(kCaller, Inline(Op::kRelease, "", "", result->reply.extent_offset)));
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(HomeFunctionTest, SmallPayloadsTravelInLanesAndTakeNothingOfTheHeap) {
  Register(kHost, "f");
  Ready(kHost, 4);
  for (const std::size_t bytes : {std::size_t{1}, fabric::kLanePayloadBytes}) {
    const std::string input(bytes, 'i');
    Call(input, 7);
    const Reply delivery = Delivered(kHost, 4);
    EXPECT_NE(delivery.extent_offset & fabric::kInLane, 0u);
    EXPECT_EQ(Payload(delivery.extent_offset), input);
    Ready(kHost, 4, delivery.value[0], input + "!" + (bytes > 1 ? kResult.substr(0, 1) : ""));
    const Reply result = Delivered(kCaller, 7);
    EXPECT_EQ(Payload(result.extent_offset).substr(0, bytes), input);
    if (bytes > 1) {  // more than a lane takes
      EXPECT_TRUE(Step(kCaller, Inline(Op::kRelease, "", "", result.extent_offset)));
    }
    EXPECT_EQ(LiveExtents(), 0u);
  }
}

TEST_F(HomeFunctionTest, AFunctionsErrorComesWithItsMessage) {
  Register(kHost, "f", {.max_attempts = 1});
  Ready(kHost, 4);
  Call("", 7);
  const Reply delivery = Delivered(kHost, 4);
  EXPECT_EQ(delivery.extent_offset, 0u);  // an empty input needs no extent
  Ready(kHost, 4, delivery.value[0], "it broke", StatusCode::kDataLoss);
  const Reply result = Delivered(kCaller, 7);
  EXPECT_EQ(CodeOf(result), StatusCode::kDataLoss);
  EXPECT_EQ(result.reason, Reason::kFunctionFailed);
  EXPECT_EQ(Payload(result.extent_offset), "it broke");
}

TEST_F(HomeFunctionTest, TheLastErrorComesWithTheHistoryOfTheAttempts) {
  Register(kHost, "f", {.max_attempts = 2});
  for (const std::string& message : {std::string("it broke"), kResult}) {
    Ready(kHost, 4);
    Call("", 7);
    Ready(kHost, 4, Delivered(kHost, 4).value[0], message, StatusCode::kAborted);
    Ready(kHost, 4, Delivered(kHost, 4).value[0], message, StatusCode::kDataLoss);
    const Reply result = Delivered(kCaller, 7);
    EXPECT_EQ(CodeOf(result), StatusCode::kDataLoss);
    EXPECT_EQ(result.reason, Reason::kFunctionFailed);
    EXPECT_EQ(Payload(result.extent_offset),
              message + " (attempt on host: ABORTED; attempt on host: DATA_LOSS)");
    EXPECT_TRUE(Step(kCaller, Inline(Op::kRelease, "", "", result.extent_offset)));
    EXPECT_EQ(LiveExtents(), 0u);
  }
}

TEST_F(HomeFunctionTest, WhoWaitsForLongDoesSoInALaneThatIsThereForNothingElse) {
  Register(kHost, "f");
  const std::uint16_t lane = fabric::kLanes + fabric::kWaitLanes - 1;
  Request start = Inline(Op::kStart, "f", "", kSecond);
  EXPECT_TRUE(Step(kCaller, start, 7));
  const std::uint64_t id = Delivered(kCaller, 7).value[0];
  for (const int bad : {lane + 1, 0xfffe}) {
    EXPECT_FALSE(Step(kCaller, Inline(Op::kWait, "", "", id), static_cast<std::uint16_t>(bad)));
  }
  EXPECT_FALSE(Step(kCaller, Inline(Op::kWait, "k", "", id), lane));
  EXPECT_FALSE(Step(kCaller, Inline(Op::kWait, "", "p", id), lane));
  EXPECT_FALSE(Step(kCaller, Staged(Op::kWait, "", 0, id), lane));
  EXPECT_FALSE(Step(kCaller, Inline(Op::kPoll, "", "", id), lane));
  EXPECT_TRUE(gate_.answers().empty());
  EXPECT_TRUE(Step(kCaller, Inline(Op::kWait, "", "", id), lane));
  Ready(kHost, 4);
  Ready(kHost, 4, Delivered(kHost, 4).value[0], "result");
  EXPECT_EQ(Payload(Delivered(kCaller, lane).extent_offset), "result");
}

TEST_F(HomeFunctionTest, ACodeThatIsNoneBecomesOne) {
  Register(kHost, "f", {.max_attempts = 1});
  Ready(kHost, 4);
  Call("", 7);
  const std::uint64_t id = Delivered(kHost, 4).value[0];
  Ready(kHost, 4, id, "", static_cast<StatusCode>(31));
  EXPECT_LE(static_cast<int>(CodeOf(Delivered(kCaller, 7))),
            static_cast<int>(StatusCode::kUnauthenticated));
}

TEST_F(HomeFunctionTest, AResultOfNothingIsReleased) {
  Register(kHost, "f");
  Ready(kHost, 4, 0, "for nobody");
  Ready(kHost, 4, 12345, "of no invocation");
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(HomeFunctionTest, LentResultsGoWithTheirNode) {
  Register(kHost, "f");
  Ready(kHost, 4);
  Call(kInput, 7);
  Ready(kHost, 4, Delivered(kHost, 4).value[0], kResult);
  EXPECT_EQ(LiveExtents(), 1u);
  home_->ForgetNode(kCaller);
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(HomeFunctionTest, AnUnknownFunctionAndOneWhoseNodesHaveGoneAreNotFound) {
  EXPECT_EQ(Ask(kCaller, Inline(Op::kCall, "f", kInput, kSecond)).reason, Reason::kNoSuchFunction);
  Register(kHost, "f");
  home_->ForgetNode(kHost);
  EXPECT_EQ(Ask(kCaller, Inline(Op::kCall, "f", kInput, kSecond)).reason, Reason::kNoSuchFunction);
  EXPECT_EQ(LiveExtents(), 0u);
}

// Nor does it reach another function that was registered meanwhile.
TEST_F(HomeFunctionTest, AFunctionWhoseLastNodeGoesWhileAnInputIsOnItsWayIsNotFound) {
  Register(kHost, "f");
  const std::string input(50'000, 'i');
  Stage(kCaller, 7, "f", input.substr(0, 1000));
  EXPECT_TRUE(Step(kCaller, Staged(Op::kCall, "f", input.size(), kSecond), 7));
  home_->ForgetNode(kHost);
  Register(kOther, "g");
  Ready(kOther, 4);
  Stage(kCaller, 7, "f", input);
  Poll(3);
  EXPECT_EQ(Delivered(kCaller, 7).reason, Reason::kNoSuchFunction);
  EXPECT_FALSE(gate_.Take(kOther, 4).has_value());
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(HomeFunctionTest, NothingIsDeliveredToANodeThatOwesAnAcknowledgement) {
  Register(kHost, "f");
  Ready(kHost, 4);
  Put(kOther, "key", "old");
  Get(kHost, "key");
  Put(kOther, "key", "new");
  Call(kInput, 7);
  EXPECT_FALSE(gate_.Take(kHost, 4).has_value());
  EXPECT_EQ(gate_.node(kHost).nudges, 1);
  Poll(3);
  EXPECT_FALSE(gate_.Take(kHost, 4).has_value());
  gate_.node(kHost).acknowledged = 77;  // a lie does not help
  Poll();
  EXPECT_FALSE(gate_.Take(kHost, 4).has_value());
  gate_.AcknowledgeAll(kHost);
  Poll();
  EXPECT_EQ(Payload(Delivered(kHost, 4).extent_offset), kInput);
}

TEST_F(HomeFunctionTest, OfADeclaredReadOnlyItsOwnAcknowledgementsCount) {
  Register(kHost, "f", {.max_concurrency = 2});
  Ready(kHost, 4);
  Ready(kHost, 5);
  Put(kOther, "key", "old");
  Get(kHost, "key");
  Put(kOther, "key", "new");
  const fabric::CallHead declares{.flags = fabric::CallHead::kDeclaresReads};
  EXPECT_TRUE(Step(kCaller, Headed(Op::kCall, declares, {"key"}, "", "waits"), 7));
  EXPECT_FALSE(gate_.Take(kHost, 5).has_value());
  EXPECT_TRUE(Step(kCaller, Headed(Op::kCall, declares, {"other key"}, "", "runs"), 8));
  Poll();
  EXPECT_EQ(Payload(Delivered(kHost, 5).extent_offset), "runs");
  EXPECT_FALSE(gate_.Take(kHost, 4).has_value());
  gate_.AcknowledgeAll(kHost);
  Poll();
  EXPECT_EQ(Payload(Delivered(kHost, 4).extent_offset), "waits");
}

TEST_F(HomeFunctionTest, ACallThatDeclaresItsReadsGoesWhereTheyAreCachedAndSaysSo) {
  for (const NodeId node : {kHost, kOther}) {
    Register(node, "f");
    Ready(node, 4);
  }
  Put(kCaller, "key", std::string(150, 'x'));
  Get(kOther, "key");
  const fabric::CallHead head{.flags =
                                  fabric::CallHead::kDeclaresReads | fabric::CallHead::kExplain};
  const Reply started = Ask(kCaller, Headed(Op::kStart, head, {"key"}, "", ""));
  EXPECT_TRUE(gate_.Take(kOther, 4).has_value());
  const Reply why = Ask(kCaller, Inline(Op::kExplain, "", "", started.value[0]));
  const std::string text = Payload(why.extent_offset);
  EXPECT_NE(text.find("caches most of the declared reads"), text.npos) << text;
  EXPECT_TRUE(Step(kCaller, Inline(Op::kRelease, "", "", why.extent_offset)));
  EXPECT_EQ(Ask(kHost, Inline(Op::kExplain, "", "", started.value[0])).reason,
            Reason::kNoSuchInvocation);
}

TEST_F(HomeFunctionTest, AHeadThatMakesNoSenseIsRefused) {
  Register(kHost, "f");
  Ready(kHost, 4);
  const auto refused = [&](std::string_view head) {
    Request request = Inline(Op::kCall, head, "", kSecond);
    request.flags = fabric::kHeaded;
    return !Step(kCaller, request, 7) && Delivered(kCaller, 7).code != 0;
  };
  EXPECT_TRUE(refused("f"));
  EXPECT_TRUE(refused(std::string(23, '\0')));
  for (const std::uint16_t lie : std::initializer_list<std::uint16_t>{1, 33, 65535}) {
    std::string head(sizeof(fabric::CallHead) + 1, 'f');
    const fabric::CallHead reads{.reads = lie};
    std::memcpy(head.data(), &reads, sizeof(reads));
    EXPECT_TRUE(refused(head)) << lie;
    const fabric::CallHead node{.node_bytes = lie};
    std::memcpy(head.data(), &node, sizeof(node));
    EXPECT_TRUE(refused(head)) << lie;
  }
  const fabric::CallHead foreign{.parent = 12345};
  EXPECT_EQ(Ask(kCaller, Headed(Op::kCall, foreign, {}, "", "")).reason, Reason::kCancelled);
  EXPECT_EQ(Ask(kCaller, Headed(Op::kCall, {}, {}, "nobody", "")).reason, Reason::kNotOnThatNode);
  EXPECT_FALSE(gate_.Take(kHost, 4).has_value());
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(HomeFunctionTest, WhatALargeInputsCallSaysIsKeptUntilItIsWhole) {
  Register(kHost, "f");
  Ready(kHost, 4);
  const std::string input(50'000, 'i');
  Request request = Headed(Op::kStart, {.flags = fabric::CallHead::kExplain}, {}, "", "");
  const std::string head(reinterpret_cast<const char*>(request.body), request.key_bytes);
  Stage(kCaller, 7, head, input.substr(0, 1000));
  request.flags |= fabric::kBodyStaged;
  request.payload_bytes = input.size() & fabric::kMaxPayloadBytes;
  EXPECT_TRUE(Step(kCaller, request, 7));
  Stage(kCaller, 7, head, input);
  Poll(3);
  EXPECT_EQ(Payload(Delivered(kHost, 4).extent_offset), input);
  const std::uint64_t id = Delivered(kCaller, 7).value[0];
  EXPECT_EQ(Ask(kCaller, Inline(Op::kExplain, "", "", id)).code, 0);
}

TEST_F(HomeFunctionTest, AWorkersLastResultIsTakenAndItGetsNothingMore) {
  Register(kHost, "f");
  Ready(kHost, 4);
  Call("one", 7);
  Call("two", 8);
  Request last = Inline(Op::kReady, "", kResult, Delivered(kHost, 4).value[0]);
  last.flags = fabric::kLastOfWorker;
  EXPECT_TRUE(Step(kHost, last, 4));
  EXPECT_EQ(Delivered(kHost, 4).reason, Reason::kCancelled);
  EXPECT_EQ(Payload(Delivered(kCaller, 7).extent_offset), kResult);
  EXPECT_FALSE(gate_.Take(kHost, 4).has_value());
}

// Until its put's reply has been processed, a node may hit what the put superseded.
TEST_F(HomeFunctionTest, ANodesOwnPutsKeepItFromWorkUntilItHasAppliedThem) {
  Register(kHost, "f");
  Ready(kHost, 4);
  Put(kHost, "key", "old");
  Put(kHost, "key", "new");
  EXPECT_EQ(home_->oic().Outstanding(kHost), 1u);
  Call(kInput, 7);
  EXPECT_FALSE(gate_.Take(kHost, 4).has_value());
  gate_.AcknowledgeAll(kHost);
  Poll();
  EXPECT_TRUE(gate_.Take(kHost, 4).has_value());
}

TEST_F(HomeFunctionTest, AnInputOutlivesItsDeadlineWhileANodeReadsIt) {
  Register(kHost, "f");
  Ready(kHost, 4);
  Call(kInput, 7);
  const Reply delivery = Delivered(kHost, 4);
  EXPECT_EQ(home_->next_deadline_ns(), now_ns_ + kSecond);
  now_ns_ += kSecond;
  Poll();
  const Reply late = Delivered(kCaller, 7);
  EXPECT_EQ(CodeOf(late), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Payload(late.extent_offset), "attempt on host: past its deadline");
  EXPECT_TRUE(Step(kCaller, Inline(Op::kRelease, "", "", late.extent_offset)));
  EXPECT_EQ(home_->next_deadline_ns(), ~TimeNs{0});
  EXPECT_EQ(LiveExtents(), 1u);
  EXPECT_EQ(Payload(delivery.extent_offset), kInput);
  home_->ForgetNode(kHost);
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(HomeFunctionTest, ANodesDeathMovesItsInvocationsToAnother) {
  Register(kHost, "f");
  Ready(kHost, 4);
  Call(kInput, 7);
  Register(kOther, "f");
  Ready(kOther, 5);
  const std::uint64_t id = Delivered(kHost, 4).value[0];
  home_->ForgetNode(kHost);
  Poll();
  const Reply again = Delivered(kOther, 5);
  EXPECT_EQ(fabric::InvocationOf(again.value[0]), fabric::InvocationOf(id));
  EXPECT_EQ(again.value[1] >> 32, 2u);
  EXPECT_EQ(Payload(again.extent_offset), kInput);
  Ready(kOther, 5, again.value[0], kResult);
  EXPECT_EQ(Payload(Delivered(kCaller, 7).extent_offset), kResult);
}

TEST_F(HomeFunctionTest, AStartedInvocationBelongsToItsNode) {
  Register(kHost, "f");
  Ready(kHost, 4);
  const Reply started = Ask(kCaller, Inline(Op::kStart, "f", kInput, kSecond));
  const std::uint64_t id = started.value[0];
  const auto poll = [&](NodeId node) { return Ask(node, Inline(Op::kPoll, "", "", id)); };
  EXPECT_EQ(poll(kCaller).value[0], 0u);
  EXPECT_EQ(poll(kOther).reason, Reason::kNoSuchInvocation);
  EXPECT_EQ(Ask(kOther, Inline(Op::kWait, "", "", id)).reason, Reason::kNoSuchInvocation);
  EXPECT_TRUE(Step(kOther, Inline(Op::kForget, "", "", id)));  // changes nothing
  Ready(kHost, 4, Delivered(kHost, 4).value[0], kResult);
  EXPECT_EQ(poll(kCaller).value[0], 1u);
  const Reply result = Ask(kCaller, Inline(Op::kWait, "", "", id));
  EXPECT_EQ(Payload(result.extent_offset), kResult);
  EXPECT_EQ(poll(kCaller).reason, Reason::kNoSuchInvocation);
}

TEST_F(HomeFunctionTest, AForgottenResultIsReleased) {
  Register(kHost, "f");
  Ready(kHost, 4);
  const std::uint64_t id = Ask(kCaller, Inline(Op::kStart, "f", kInput, kSecond)).value[0];
  Ready(kHost, 4, Delivered(kHost, 4).value[0], kResult);
  EXPECT_EQ(LiveExtents(), 1u);
  EXPECT_TRUE(Step(kCaller, Inline(Op::kForget, "", "", id)));
  EXPECT_EQ(LiveExtents(), 0u);
}

TEST_F(HomeFunctionTest, WorkersThatStopAreCancelled) {
  Register(kHost, "f");
  Ready(kHost, 4);
  Ready(kHost, 5);
  EXPECT_EQ(Ask(kHost, Inline(Op::kUnready, ""), 6).code, 0);
  EXPECT_EQ(Delivered(kHost, 4).reason, Reason::kCancelled);
  EXPECT_EQ(Delivered(kHost, 5).reason, Reason::kCancelled);
}

TEST_F(HomeFunctionTest, ADeadlineBeyondTheEndOfTimeIsNone) {
  Register(kHost, "f");
  EXPECT_TRUE(Step(kCaller, Inline(Op::kCall, "f", "", ~std::uint64_t{0}), 7));
  now_ns_ += kSecond * 3600;
  Poll();
  EXPECT_TRUE(gate_.answers().empty());
}

TEST_F(HomeFunctionTest, LimitsThatWouldLetNothingRunAreRefused) {
  for (const fabric::FunctionLimits& limits :
       {fabric::FunctionLimits{.max_concurrency = 0}, fabric::FunctionLimits{.max_attempts = 0},
        fabric::FunctionLimits{.deadline_ms = 0}}) {
    EXPECT_EQ(CodeOf(Ask(kHost, Inline(Op::kRegister, "f", "", limits.Pack()))),
              StatusCode::kInvalidArgument);
  }
}

TEST_F(HomeFunctionTest, MoreFunctionsThanANodeMayHaveAreRefused) {
  const std::uint64_t kLimits = fabric::FunctionLimits{}.Pack();
  for (std::size_t i = 0; i < scheduler::ExecutorManager::kMaxFunctionsPerNode; ++i) {
    Register(kHost, "f" + std::to_string(i));
  }
  EXPECT_EQ(CodeOf(Ask(kHost, Inline(Op::kRegister, "one more", "", kLimits))),
            StatusCode::kResourceExhausted);
  EXPECT_EQ(CodeOf(Ask(kHost, Inline(Op::kRegister, "f0", "", kLimits))),
            StatusCode::kAlreadyExists);
  EXPECT_EQ(Ask(kOther, Inline(Op::kRegister, "one more", "", kLimits)).code, 0);
}

}  // namespace
}  // namespace apta::daemon
