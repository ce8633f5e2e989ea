#include "compute/pending_state.h"

#include <algorithm>

#include "fabric/control.h"
#include "fmt/format.h"

namespace apta::compute {

using fabric::Op;
using fabric::Reply;

namespace {

// The caller's share of waiting beyond the deadline that the Executor Manager keeps.
constexpr fabric::TimeNs kGraceNs = 5'000'000'000;

fabric::TimeNs ToNs(absl::Duration duration) {
  return static_cast<fabric::TimeNs>(std::max<std::int64_t>(0, absl::ToInt64Nanoseconds(duration)));
}

absl::Status CheckCall(std::string_view function, const CallOptions& options) {
  if (absl::Status valid = fabric::CheckKey(function); !valid.ok()) {
    return absl::InvalidArgumentError(fmt::format("function: {}", std::string(valid.message())));
  }
  if (options.deadline <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        fmt::format("function {}: deadline {} is over before it begins", function,
                    absl::FormatDuration(options.deadline)));
  }
  return absl::OkStatus();
}

// The result that a reply has lent, copied; or what went wrong.
absl::StatusOr<Bytes> TakeResult(Session* session, const Reply& reply, std::string_view function) {
  const BytesView payload = session->PayloadAt(reply.extent_offset);
  absl::StatusOr<Bytes> result = Bytes();
  if (reply.code == 0) {
    result = Bytes(payload.begin(), payload.end());
  } else if (reply.reason == fabric::Reason::kFunctionFailed) {
    result = absl::Status(
        static_cast<absl::StatusCode>(reply.code),
        absl::string_view(reinterpret_cast<const char*>(payload.data()), payload.size()));
  } else {
    result = fabric::MakeStatus(reply, fmt::format("function {}", function));
  }
  if (reply.extent_offset != 0) session->Tell(0, Op::kRelease, reply.extent_offset);
  return result;
}

}  // namespace

absl::StatusOr<Bytes> CallFunction(NodeRuntime* runtime, std::string_view function, BytesView input,
                                   const CallOptions& options) {
  Session* session = runtime->session();
  if (session == nullptr) return runtime->WhyNot();
  if (absl::Status valid = CheckCall(function, options); !valid.ok()) return valid;
  const fabric::TimeNs deadline_ns = ToNs(options.deadline);
  const Session::Reading reading(session);
  const absl::StatusOr<Reply> reply = session->Ask(0, {.op = Op::kCall,
                                                       .key = function,
                                                       .payload = input,
                                                       .argument = deadline_ns,
                                                       .timeout_ns = deadline_ns + kGraceNs});
  if (!reply.ok()) return reply.status();
  return TakeResult(session, *reply, function);
}

absl::StatusOr<std::unique_ptr<PendingState>> PendingState::Start(
    std::shared_ptr<NodeRuntime> runtime, std::string_view function, BytesView input,
    const CallOptions& options) {
  Session* session = runtime->session();
  if (session == nullptr) return runtime->WhyNot();
  if (absl::Status valid = CheckCall(function, options); !valid.ok()) return valid;
  const absl::StatusOr<Reply> reply =
      session->Ask(0, {.op = Op::kStart,
                       .key = function,
                       .payload = input,
                       .argument = ToNs(options.deadline),
                       .timeout_ns = ToNs(runtime->options().timeout)});
  if (!reply.ok()) return reply.status();
  if (reply->code != 0) return fabric::MakeStatus(*reply, fmt::format("function {}", function));
  return std::unique_ptr<PendingState>(
      new PendingState(std::move(runtime), session, function, reply->value[0]));
}

absl::StatusOr<Pending> StartFunction(std::shared_ptr<NodeRuntime> runtime,
                                      std::string_view function, BytesView input,
                                      const CallOptions& options) {
  absl::StatusOr<std::unique_ptr<PendingState>> state =
      PendingState::Start(std::move(runtime), function, input, options);
  if (!state.ok()) return state.status();
  return Pending(*std::move(state));
}

PendingState::~PendingState() {
  if (id_ != 0 && runtime_->session() == session_) session_->Tell(0, Op::kForget, id_);
}

absl::StatusOr<Bytes> PendingState::Wait() {
  const Session::Reading reading(session_);
  // The Executor Manager answers at the invocation's deadline at the latest.
  const absl::StatusOr<Reply> reply = session_->Ask(
      0, {.op = Op::kWait, .payload = {}, .argument = id_, .timeout_ns = Session::kNoTimeout});
  if (!reply.ok()) return reply.status();
  id_ = 0;
  return TakeResult(session_, *reply, function_);
}

bool PendingState::done() const {
  const absl::StatusOr<Reply> reply =
      session_->Ask(0, {.op = Op::kPoll,
                        .payload = {},
                        .argument = id_,
                        .timeout_ns = ToNs(runtime_->options().timeout)});
  return !reply.ok() || reply->code != 0 || reply->value[0] != 0;
}

}  // namespace apta::compute
