#include "compute/pending_state.h"

#include <algorithm>
#include <array>

#include "fabric/call_head.h"
#include "fabric/control.h"
#include "fabric/hash.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace apta::compute {

using fabric::CallHead;
using fabric::Op;
using fabric::Reply;

namespace {

// The caller's share of waiting beyond the deadline that the Executor Manager keeps.
constexpr fabric::TimeNs kGraceNs = 5'000'000'000;

// Marks a status that a function with the same code cannot have returned.
constexpr char kRefused[] = "apta/refused";

fabric::TimeNs ToNs(absl::Duration duration) {
  return static_cast<fabric::TimeNs>(std::max<std::int64_t>(0, absl::ToInt64Nanoseconds(duration)));
}

absl::Status CheckCall(std::string_view function, const CallOptions& options) {
  if (!fabric::IsValidKey(function)) {
    const absl::Status why = fabric::CheckKey(function);
    return absl::InvalidArgumentError(fmt::format("function: {}", std::string(why.message())));
  }
  if (options.deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        fmt::format("function {}: deadline {} is over before it begins", function,
                    absl::FormatDuration(options.deadline)));
  }
  if (options.node.size() > CallHead::kMaxNodeBytes) {
    return absl::InvalidArgumentError(fmt::format("function {}: node: a name has at most {} bytes",
                                                  function, CallHead::kMaxNodeBytes));
  }
  for (const std::string& key : options.reads) {
    if (absl::Status valid = fabric::CheckKey(key); !valid.ok()) {
      return absl::InvalidArgumentError(
          fmt::format("function {}: reads: {}", function, std::string(valid.message())));
    }
  }
  return absl::OkStatus();
}

// A kCall or kStart. What most calls say needs no head.
struct CallQuestion {
  CallQuestion(Op op, std::string_view function, BytesView input, const CallOptions& options,
               std::uint64_t parent) {
    question = {.op = op, .key = function, .payload = input, .argument = ToNs(options.deadline)};
    if (parent == 0 && options.reads.empty() && options.node.empty() && options.workflow == 0 &&
        !options.explain && !options.errors_are_final) {
      return;
    }
    CallHead fixed{.parent = parent, .workflow = options.workflow};
    if (options.explain) fixed.flags |= CallHead::kExplain;
    if (options.errors_are_final) fixed.flags |= CallHead::kErrorsAreFinal;
    std::array<std::uint64_t, CallHead::kMaxReads> read;
    std::size_t reads = 0;
    if (!options.reads.empty() && options.reads.size() <= read.size()) {
      fixed.flags |= CallHead::kDeclaresReads;
      for (const std::string& key : options.reads) read[reads++] = fabric::KeyHash(key);
    }
    question.flags = fabric::kHeaded;
    question.key = fabric::MakeCallHead(fixed, absl::MakeConstSpan(read.data(), reads),
                                        options.node, function, head.data());
  }
  CallQuestion(const CallQuestion&) = delete;

  Session::Question question;
  std::array<char, fabric::kMaxHeadBytes> head;
};

// The result that a reply has lent, copied; or what went wrong.
absl::StatusOr<Bytes> TakeResult(Session* session, const Reply& reply,
                                 const std::byte* lane_payload, std::string_view function) {
  const BytesView payload = session->PayloadOf(reply, lane_payload);
  absl::StatusOr<Bytes> result = Bytes();
  if (reply.code == 0) {
    result = Bytes(payload.begin(), payload.end());
  } else if (reply.reason == fabric::Reason::kFunctionFailed) {
    result = absl::Status(
        static_cast<absl::StatusCode>(reply.code),
        absl::string_view(reinterpret_cast<const char*>(payload.data()), payload.size()));
  } else {
    absl::Status status = fabric::MakeStatus(reply, fmt::format("function {}", function));
    const std::string_view history = AsText(payload);
    if (!history.empty()) {
      status = absl::Status(status.code(),
                            fmt::format("{} ({})", std::string(status.message()), history));
    }
    if (reply.reason == fabric::Reason::kQueueFull ||
        reply.reason == fabric::Reason::kCallerQueueFull) {
      status.SetPayload(kRefused, absl::Cord());
    }
    result = std::move(status);
  }
  const bool is_lent = reply.extent_offset != 0 && (reply.extent_offset & fabric::kInLane) == 0;
  if (is_lent) session->Tell(0, Op::kRelease, reply.extent_offset);
  return result;
}

using LanePayload = std::array<std::byte, fabric::kLanePayloadBytes>;

// A function that waits: one more of its host, if there may be.
class Waiting {
 public:
  explicit Waiting(WaitLimit* limit) : limit_(limit) {
    if (limit_ != nullptr) others_ = limit_->waiting.fetch_add(1);
  }
  ~Waiting() {
    if (limit_ != nullptr) limit_->waiting.fetch_sub(1);
  }
  Waiting(const Waiting&) = delete;

  absl::Status Check(std::string_view function) const {
    if (limit_ == nullptr || others_ < limit_->most.load()) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        fmt::format("function {}: {} functions of this host wait for calls of their own already, "
                    "and no more may (HostOptions::max_waiting, or the threads that the system "
                    "gives it); raise that, shorten the chain, or spread it over more hosts",
                    function, others_));
  }
  // A client waits in its lane; of functions, those that leave the host enough others.
  bool IsInLane() const { return limit_ == nullptr || others_ < limit_->in_lanes; }

 private:
  WaitLimit* limit_;
  int others_ = 0;
};

}  // namespace

bool WasRefused(const absl::Status& status) { return status.GetPayload(kRefused).has_value(); }

absl::StatusOr<Bytes> Caller::Call(std::string_view function, BytesView input,
                                   const CallOptions& options) const {
  Session* session = this->session();
  if (session == nullptr) return runtime_->WhyNot();
  if (absl::Status valid = CheckCall(function, options); !valid.ok()) return valid;
  const Waiting waiting(limit_.get());
  if (absl::Status may = waiting.Check(function); !may.ok()) return may;
  if (!waiting.IsInLane()) {
    const absl::StatusOr<std::unique_ptr<PendingState>> pending = Begin(function, input, options);
    return pending.ok() ? (*pending)->Await(/*in_lane=*/false) : pending.status();
  }
  CallQuestion call(Op::kCall, function, input, options, parent_);
  call.question.timeout_ns = call.question.argument + kGraceNs;
  LanePayload lane_payload;
  call.question.lane_payload = lane_payload.data();
  const Session::Reading reading(session);
  const absl::StatusOr<Reply> reply = session->Ask(0, call.question);
  if (!reply.ok()) return reply.status();
  return TakeResult(session, *reply, lane_payload.data(), function);
}

absl::StatusOr<Pending> Caller::Start(std::string_view function, BytesView input,
                                      const CallOptions& options) const {
  absl::StatusOr<std::unique_ptr<PendingState>> pending = Begin(function, input, options);
  if (!pending.ok()) return pending.status();
  return Pending(*std::move(pending));
}

absl::StatusOr<std::unique_ptr<PendingState>> Caller::Begin(std::string_view function,
                                                            BytesView input,
                                                            const CallOptions& options) const {
  Session* session = this->session();
  if (session == nullptr) return runtime_->WhyNot();
  if (absl::Status valid = CheckCall(function, options); !valid.ok()) return valid;
  CallQuestion call(Op::kStart, function, input, options, parent_);
  call.question.timeout_ns = ToNs(runtime_->options().timeout);
  const absl::StatusOr<Reply> reply = session->Ask(0, call.question);
  if (!reply.ok()) return reply.status();
  if (reply->code != 0) return fabric::MakeStatus(*reply, fmt::format("function {}", function));
  return std::make_unique<PendingState>(runtime_, session, limit_, function, reply->value[0]);
}

PendingState::~PendingState() {
  if (!is_taken_ && runtime_->session() == session_) session_->Tell(0, Op::kForget, id_);
}

absl::StatusOr<Bytes> PendingState::Wait() {
  if (is_taken_) return absl::FailedPreconditionError("the result was taken already");
  const Waiting waiting(limit_.get());
  if (absl::Status may = waiting.Check(function_); !may.ok()) return may;
  return Await(waiting.IsInLane());
}

absl::StatusOr<Bytes> PendingState::Await(bool in_lane) {
  const Session::Reading reading(session_);
  // The Executor Manager answers at the invocation's deadline at the latest.
  LanePayload lane_payload;
  const Session::Question wait{.op = Op::kWait,
                               .payload = {},
                               .argument = id_,
                               .timeout_ns = Session::kNoTimeout,
                               .lane_payload = lane_payload.data()};
  const absl::StatusOr<Reply> reply = in_lane ? session_->Ask(0, wait) : session_->AskForLong(wait);
  is_taken_ = true;
  if (!reply.ok()) return reply.status();
  return TakeResult(session_, *reply, lane_payload.data(), function_);
}

bool PendingState::done() const {
  if (is_taken_) return true;
  const absl::StatusOr<Reply> reply =
      session_->Ask(0, {.op = Op::kPoll,
                        .payload = {},
                        .argument = id_,
                        .timeout_ns = ToNs(runtime_->options().timeout)});
  return !reply.ok() || reply->code != 0 || reply->value[0] != 0;
}

namespace {

Explanation ReadExplanation(const nlohmann::json& from) {
  Explanation to;
  to.policy = from.value("policy", "");
  to.chosen = from.value("chosen", "");
  to.because = from.value("because", "");
  to.attempt = from.value("attempt", std::uint64_t{0});
  to.queued = absl::Nanoseconds(from.value("queued_ns", std::int64_t{0}));
  for (const nlohmann::json& each : from.value("candidates", nlohmann::json::array())) {
    to.candidates.push_back({.node = each.value("node", ""),
                             .eligible = each.value("eligible", false),
                             .verdict = each.value("verdict", ""),
                             .local_bytes = each.value("local_bytes", std::uint64_t{0}),
                             .predecessors = each.value("predecessors", std::uint64_t{0}),
                             .active = each.value("active", std::uint64_t{0}),
                             .threads = each.value("threads", std::uint64_t{0}),
                             .running = each.value("running", std::uint64_t{0}),
                             .max_concurrency = each.value("max_concurrency", std::uint64_t{0})});
  }
  return to;
}

}  // namespace

absl::StatusOr<Explanation> PendingState::Explain() const {
  const Session::Reading reading(session_);
  const absl::StatusOr<Reply> reply =
      session_->Ask(0, {.op = Op::kExplain,
                        .payload = {},
                        .argument = id_,
                        .timeout_ns = ToNs(runtime_->options().timeout)});
  if (!reply.ok()) return reply.status();
  if (reply->code != 0) return fabric::MakeStatus(*reply, fmt::format("function {}", function_));
  const nlohmann::json text =
      nlohmann::json::parse(AsText(session_->PayloadAt(reply->extent_offset)), nullptr, false);
  session_->Tell(0, Op::kRelease, reply->extent_offset);
  if (!text.is_object()) return absl::InternalError("the explanation cannot be read");
  return ReadExplanation(text);
}

}  // namespace apta::compute
