// Calling functions: what stands behind Client::Call, Client::Start, Pending, and the same of an
// Invocation.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "apta/client.h"
#include "compute/node_runtime.h"

namespace apta::compute {

// How many functions of one host wait for invocations of their own, and how many may: `in_lanes` of
// them in ordinary lanes.
struct WaitLimit {
  std::atomic<int> most;
  const int in_lanes;
  std::atomic<int> waiting{0};
};

class PendingState;

// Who calls: a client, or an attempt that runs on a function host.
class Caller {
 public:
  explicit Caller(std::shared_ptr<NodeRuntime> runtime) : runtime_(std::move(runtime)) {}
  // An attempt calls on the session that delivered it: on a later one its number may be another's.
  Caller(std::shared_ptr<NodeRuntime> runtime, Session* session, std::uint64_t parent,
         std::shared_ptr<WaitLimit> limit)
      : runtime_(std::move(runtime)),
        session_(session),
        parent_(parent),
        limit_(std::move(limit)) {}

  // One message to the Executor Manager, one back with the result.
  absl::StatusOr<Bytes> Call(std::string_view function, BytesView input,
                             const CallOptions& options) const;
  absl::StatusOr<Pending> Start(std::string_view function, BytesView input,
                                const CallOptions& options) const;

 private:
  // As NodeRuntime::session.
  Session* session() const {
    return session_ == nullptr || runtime_->is_forked() ? runtime_->session() : session_;
  }
  absl::StatusOr<std::unique_ptr<PendingState>> Begin(std::string_view function, BytesView input,
                                                      const CallOptions& options) const;

  std::shared_ptr<NodeRuntime> runtime_;
  Session* session_ = nullptr;        // nullptr: a client, which calls on the current one
  std::uint64_t parent_ = 0;          // the attempt; 0 = a client
  std::shared_ptr<WaitLimit> limit_;  // nullptr: a client
};

// Whether a call did not even begin, because too many invocations wait already.
bool WasRefused(const absl::Status& status);

class PendingState {
 public:
  PendingState(std::shared_ptr<NodeRuntime> runtime, Session* session,
               std::shared_ptr<WaitLimit> limit, std::string_view function, std::uint64_t id)
      : runtime_(std::move(runtime)),
        session_(session),
        limit_(std::move(limit)),
        function_(function),
        id_(id) {}
  ~PendingState();  // forgets the result unless it was taken
  absl::StatusOr<Bytes> Wait();
  // As Wait, of which the host's limit knows; in an ordinary lane, or in one for waiting.
  absl::StatusOr<Bytes> Await(bool in_lane);
  bool done() const;
  absl::StatusOr<Explanation> Explain() const;

 private:
  std::shared_ptr<NodeRuntime> runtime_;
  Session* session_;  // lives as long as the runtime; ids are its own
  std::shared_ptr<WaitLimit> limit_;
  std::string function_;
  std::uint64_t id_;
  bool is_taken_ = false;
};

}  // namespace apta::compute
