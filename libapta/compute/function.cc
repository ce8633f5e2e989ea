// Functions on the compute side: the host's worker threads, and what a running function sees.

#include "apta/function.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <list>
#include <mutex>
#include <optional>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "compute/crew.h"
#include "compute/node_runtime.h"
#include "compute/pending_state.h"
#include "fabric/call_head.h"
#include "fabric/control.h"
#include "fmt/format.h"

namespace apta {
namespace compute {

using fabric::Op;
using fabric::Reply;

namespace {

// A memory server that has not come back by then is gone for good.
constexpr fabric::TimeNs kGoneForGoodNs = 10'000'000'000;

// Each with what was given and what may be; "" = nothing.
std::string WhatIsWrong(const Function& function, const FunctionOptions& options) {
  std::vector<std::string> wrong;
  if (function == nullptr) wrong.push_back("there is nothing to call");
  if (options.max_concurrency < 1 || options.max_concurrency > 65535) {
    wrong.push_back(fmt::format("max_concurrency {} is not 1 to 65535", options.max_concurrency));
  }
  if (options.max_attempts < 1 || options.max_attempts > 255) {
    wrong.push_back(fmt::format("max_attempts {} is not 1 to 255", options.max_attempts));
  }
  if (options.deadline < absl::Milliseconds(1)) {
    wrong.push_back(
        fmt::format("deadline {} is less than 1ms", absl::FormatDuration(options.deadline)));
  }
  return fmt::format("{}", fmt::join(wrong, ", and "));
}

}  // namespace

struct RegisteredFunction {
  std::string name;
  Function function;
  FunctionOptions options;
};

// One attempt of one invocation, on one worker thread.
class InvocationState {
 public:
  std::shared_ptr<NodeRuntime> runtime;
  Session* session;
  const RegisteredFunction* function;
  std::uint64_t id;  // of the attempt
  int attempt;
  BytesView input;
  absl::Time deadline;
  WriteSet writes;  // kept back until the function has returned OK

  std::shared_ptr<WaitLimit> wait_limit;

  Caller AsCaller() const { return Caller(runtime, session, id, wait_limit); }
  absl::StatusOr<CallOptions> LeftForCalls(const CallOptions& asked) const {
    CallOptions options = asked;
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      return absl::CancelledError(
          fmt::format("function {}: attempt {} is past its deadline, counts no more, and may call "
                      "nothing; let it end, or raise the function's deadline",
                      function->name, attempt));
    }
    options.deadline = std::min(asked.deadline, left);
    return options;
  }
};

class HostState : public std::enable_shared_from_this<HostState> {
 public:
  HostState(std::shared_ptr<NodeRuntime> runtime, const HostOptions& options)
      : runtime_(std::move(runtime)),
        threads_(options.threads),
        wait_limit_(new WaitLimit{.most = options.max_waiting,
                                  .in_lanes = Crew::WaitInLanes(options.threads)}) {}

  absl::Status Register(std::string_view name, Function function, const FunctionOptions& options);
  absl::Status Run();
  void Stop();
  const NodeRuntime& runtime() const { return *runtime_; }

 private:
  absl::Status RegisterAll(Session* session);
  absl::Status RegisterAt(Session* session, const RegisteredFunction& function);
  using Crews = std::list<std::shared_ptr<Crew>>;
  absl::Status Serve(Crews* crews);
  absl::Status ServeOn(Session* session, Crews* crews);
  void AwaitFewLeftBehind();
  void Work(Session* session, Crew* crew, Crew::Worker* worker);
  struct Result {
    absl::StatusOr<Bytes> value = Bytes();
    bool is_delivered = false;  // it has been committed, with what the function has written
  };
  Result RunOne(Session* session, Crew::Worker* worker, const Reply& delivery, BytesView input);

  std::shared_ptr<NodeRuntime> runtime_;
  const int threads_;
  const std::shared_ptr<WaitLimit> wait_limit_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::list<RegisteredFunction> functions_;       // never moved: workers point at them
  std::vector<const RegisteredFunction*> order_;  // of registration at the memory server
  Session* running_on_ = nullptr;
  std::shared_ptr<Crew> crew_;  // of running_on_
  std::uint32_t running_ = 0;   // functions, of whatever session
  std::condition_variable has_fewer_;
};

absl::Status HostState::Register(std::string_view name, Function function,
                                 const FunctionOptions& options) {
  if (absl::Status valid = fabric::CheckKey(name); !valid.ok()) {
    return absl::InvalidArgumentError(fmt::format("function: {}", std::string(valid.message())));
  }
  if (const std::string wrong = WhatIsWrong(function, options); !wrong.empty()) {
    return absl::InvalidArgumentError(fmt::format("function {}: {}", name, wrong));
  }
  std::lock_guard<std::mutex> lock(mutex_);
  for (const RegisteredFunction& other : functions_) {
    if (other.name != name) continue;
    return absl::AlreadyExistsError(fmt::format(
        "function {}: registered on this host before, with max_concurrency {}, max_attempts {} and "
        "deadline {}; a host has one function of a name",
        name, other.options.max_concurrency, other.options.max_attempts,
        absl::FormatDuration(other.options.deadline)));
  }
  functions_.push_back({std::string(name), std::move(function), options});
  order_.push_back(&functions_.back());
  return running_on_ != nullptr ? RegisterAt(running_on_, functions_.back()) : absl::OkStatus();
}

absl::Status HostState::RegisterAt(Session* session, const RegisteredFunction& function) {
  const fabric::FunctionLimits limits = {
      .max_concurrency = static_cast<std::uint16_t>(function.options.max_concurrency),
      .max_attempts = static_cast<std::uint8_t>(function.options.max_attempts),
      .threads = static_cast<std::uint8_t>(threads_),
      .deadline_ms = static_cast<std::uint32_t>(std::min<std::int64_t>(
          absl::ToInt64Milliseconds(function.options.deadline), UINT32_MAX))};
  const absl::StatusOr<Reply> reply = session->Ask(
      0, {.op = Op::kRegister,
          .key = function.name,
          .payload = {},
          .argument = limits.Pack(),
          .timeout_ns =
              static_cast<fabric::TimeNs>(absl::ToInt64Nanoseconds(runtime_->options().timeout))});
  if (!reply.ok()) return reply.status();
  if (reply->reason == fabric::Reason::kAlreadyRegistered) return absl::OkStatus();  // Run again
  return fabric::MakeStatus(*reply, fmt::format("function {}", function.name));
}

absl::Status HostState::RegisterAll(Session* session) {
  std::lock_guard<std::mutex> lock(mutex_);
  running_on_ = session;
  for (const RegisteredFunction* function : order_) {
    if (absl::Status registered = RegisterAt(session, *function); !registered.ok()) {
      return registered;
    }
  }
  return absl::OkStatus();
}

absl::Status HostState::Run() {
  Crews crews;  // one for each session; those that have ended go
  absl::Status end = Serve(&crews);
  for (const std::shared_ptr<Crew>& crew : crews) {
    const absl::Status ended = crew->End();
    if (end.ok()) end = ended;
  }
  return end;
}

absl::Status HostState::Serve(Crews* crews) {
  Session* session = runtime_->session();
  while (!stopping_.load()) {
    if (session == nullptr) {
      if (absl::IsFailedPrecondition(runtime_->WhyNot())) return runtime_->WhyNot();  // forked
      session = runtime_->AwaitSession(nullptr, kGoneForGoodNs);
      if (session == nullptr) return runtime_->WhyNot();
      continue;
    }
    AwaitFewLeftBehind();
    const absl::Status registered = RegisterAll(session);
    if (registered.ok()) {
      if (absl::Status served = ServeOn(session, crews); !served.ok()) return served;
    } else if (!absl::IsUnavailable(registered)) {
      return registered;
    }
    if (stopping_.load()) break;
    session = runtime_->AwaitSession(session, kGoneForGoodNs);
    if (session == nullptr) return runtime_->WhyNot();
  }
  return absl::OkStatus();
}

// What still runs for sessions that are over counts for nothing, as an attempt past its deadline:
// no more of either may go on beside a session's `threads`.
void HostState::AwaitFewLeftBehind() {
  std::unique_lock<std::mutex> lock(mutex_);
  has_fewer_.wait(lock,
                  [this] { return running_ <= fabric::kMaxStuckThreads || stopping_.load(); });
}

// Until the session is over or the host stops. Functions may outlive it; workers may outlive Run,
// and keep the host.
absl::Status HostState::ServeOn(Session* session, Crews* crews) {
  const auto crew = std::make_shared<Crew>(
      threads_, wait_limit_, [self = shared_from_this(), session](Crew* its, Crew::Worker* worker) {
        self->Work(session, its, worker);
      });
  {
    std::lock_guard<std::mutex> lock(mutex_);
    crew_ = crew;
  }
  if (stopping_.load()) crew->Dismiss();
  const absl::Status served = crew->Serve();
  for (auto old = crews->begin(); old != crews->end();) {
    const bool has_ended = (*old)->HasEnded();
    if (has_ended) (*old)->End().IgnoreError();  // joins
    old = has_ended ? crews->erase(old) : std::next(old);
  }
  crews->push_back(crew);
  std::lock_guard<std::mutex> lock(mutex_);
  crew_.reset();
  running_on_ = nullptr;
  return served;
}

void HostState::Stop() {
  if (stopping_.exchange(true)) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (crew_ != nullptr) crew_->Dismiss();
    has_fewer_.notify_all();
  }
  Session* session = runtime_->session();
  if (session == nullptr) return;
  // Workers that wait for an invocation are answered with CANCELLED, and so is any that asks later.
  [[maybe_unused]] const absl::StatusOr<Reply> reply =
      session->Ask(0, {.op = Op::kUnready, .payload = {}, .timeout_ns = 1'000'000'000});
}

// Asks for work until there is enough without it, the host stops, or the session is over.
void HostState::Work(Session* session, Crew* crew, Crew::Worker* worker) {
  const Session::Reading reading(session);  // functions read their inputs in place
  std::uint64_t finished = 0;               // the attempt whose result goes with the next question
  Result result;
  std::array<std::byte, fabric::kLanePayloadBytes> lane_payload;
  while (!stopping_.load() || finished != 0) {
    const absl::Status& status = result.value.status();
    const std::string message = std::string(status.message());
    const bool is_last = !crew->BeginAsking();
    if (is_last && finished == 0) return;
    const int code = static_cast<int>(status.code());
    const absl::StatusOr<Reply> reply =
        session->Ask(0, {.op = Op::kReady,
                         .flags = static_cast<std::uint8_t>(code << fabric::kStatusShift |
                                                            (is_last ? fabric::kLastOfWorker : 0)),
                         .payload = status.ok() ? BytesView(*result.value) : AsBytes(message),
                         .argument = finished,
                         .timeout_ns = Session::kNoTimeout,
                         .lane_payload = lane_payload.data()});
    const bool is_told_to_go = reply.ok() && reply->reason == fabric::Reason::kCancelled;
    if (is_told_to_go && is_last) return;
    if (reply.ok() && reply->code != 0 && !is_told_to_go && finished != 0) {
      // There was no room for the result: say at least that.
      if (!is_last) crew->StopAsking();
      result = {fabric::MakeStatus(*reply, "the function's result")};
      continue;
    }
    if (!reply.ok() || reply->code != 0) break;
    crew->EndAsking();
    result = RunOne(session, worker, *reply, session->PayloadOf(*reply, lane_payload.data()));
    finished = result.is_delivered ? 0 : reply->value[0];
  }
  crew->Dismiss();
}

HostState::Result HostState::RunOne(Session* session, Crew::Worker* worker, const Reply& delivery,
                                    BytesView input) {
  const auto index = static_cast<std::size_t>(delivery.value[1] & 0xffff'ffff);
  InvocationState state;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (index >= order_.size()) return {absl::InternalError("no such function on this node")};
    state.function = order_[index];
    ++running_;
  }
  const absl::Cleanup ends = [this] {
    std::lock_guard<std::mutex> lock(mutex_);
    --running_;
    has_fewer_.notify_all();
  };
  state.runtime = runtime_;
  state.session = session;
  state.id = delivery.value[0];
  state.attempt = static_cast<int>(delivery.value[1] >> 32);
  state.input = input;
  state.wait_limit = wait_limit_;
  state.deadline = absl::Now() + absl::Nanoseconds(delivery.value[2]);
  const Crew::Worker::Attempt attempt(worker, &state.function->name, state.deadline);
  Invocation invocation(&state);
  absl::StatusOr<Bytes> result = Bytes();
  try {
    result = state.function->function(invocation);
  } catch (const std::exception& thrown) {  // of the user's code; ours throws nothing
    result = absl::InternalError(
        fmt::format("function {} threw: {}", state.function->name, thrown.what()));
  } catch (...) {
    result = absl::InternalError(fmt::format("function {} threw", state.function->name));
  }
  if (!result.ok() || (state.writes.writes().empty() && state.writes.status().ok())) {
    return {std::move(result)};
  }
  // They commit with the result: if this attempt is the one that counts.
  const absl::Status done = session->FinishWith(state.writes, state.id, *result);
  return done.ok() ? Result{.is_delivered = true} : Result{done};
}

}  // namespace compute

// ---------------------------------------------------------------------------------------------

absl::StatusOr<FunctionHost> FunctionHost::Create(Client client, int threads) {
  return Create(std::move(client), HostOptions{.threads = threads});
}

absl::StatusOr<FunctionHost> FunctionHost::Create(Client client, const HostOptions& options) {
  if (options.threads < 1 || options.threads > compute::Crew::kMaxThreads) {
    return absl::InvalidArgumentError(fmt::format("threads {}: a function host has 1 to {}",
                                                  options.threads, compute::Crew::kMaxThreads));
  }
  if (options.max_waiting < 0 || options.max_waiting > fabric::kWaitLanes) {
    return absl::InvalidArgumentError(fmt::format("max_waiting {}: a function host has 0 to {}",
                                                  options.max_waiting, fabric::kWaitLanes));
  }
  if (client.runtime_ == nullptr) return absl::InvalidArgumentError("the client was moved from");
  return FunctionHost(std::make_shared<compute::HostState>(std::move(client.runtime_), options));
}

FunctionHost::FunctionHost(std::shared_ptr<compute::HostState> state) : state_(std::move(state)) {}
FunctionHost::FunctionHost(FunctionHost&&) noexcept = default;
FunctionHost& FunctionHost::operator=(FunctionHost&& other) noexcept {
  if (state_ != nullptr && state_ != other.state_) state_->Stop();
  state_ = std::move(other.state_);
  return *this;
}
FunctionHost::~FunctionHost() {
  if (state_ != nullptr) state_->Stop();
}
absl::Status FunctionHost::Register(std::string_view name, Function function,
                                    const FunctionOptions& options) {
  return state_->Register(name, std::move(function), options);
}
absl::Status FunctionHost::Run() { return state_->Run(); }
void FunctionHost::Stop() { state_->Stop(); }
ClientStats FunctionHost::stats() const { return state_->runtime().stats(); }

BytesView Invocation::input() const { return state_->input; }
std::string_view Invocation::function() const { return state_->function->name; }
std::uint64_t Invocation::id() const { return fabric::InvocationOf(state_->id); }
int Invocation::attempt() const { return state_->attempt; }

absl::StatusOr<Object> Invocation::Get(std::string_view key) {
  if (absl::Status valid = fabric::CheckKey(key); !valid.ok()) return valid;
  return state_->session->Get(key);
}
void Invocation::Put(std::string_view key, BytesView value) {
  state_->writes.Put(key, value, fabric::kAnyVersion);
}
void Invocation::Delete(std::string_view key) { state_->writes.Delete(key, fabric::kAnyVersion); }
absl::StatusOr<Bytes> Invocation::Call(std::string_view function, BytesView input,
                                       const CallOptions& options) {
  const absl::StatusOr<CallOptions> left = state_->LeftForCalls(options);
  return left.ok() ? state_->AsCaller().Call(function, input, *left) : left.status();
}
absl::StatusOr<Pending> Invocation::Start(std::string_view function, BytesView input,
                                          const CallOptions& options) {
  const absl::StatusOr<CallOptions> left = state_->LeftForCalls(options);
  return left.ok() ? state_->AsCaller().Start(function, input, *left) : left.status();
}

}  // namespace apta
