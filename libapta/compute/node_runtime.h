// What stands behind a Client: the node's current session, and the agent thread that keeps it.
//
// The agent sleeps on the session's socket and on dropped pins. It acknowledges invalidations while
// some come, and when the memory server asks, takes extents off the hold table, notices the end of
// the memory server, and attaches again. When the last handle of the Client is gone it stays for as
// long as Objects are pinned, because the memory server keeps their extents only for attached
// nodes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <semaphore>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apta/client.h"
#include "compute/session.h"
#include "fabric/doorbell.h"

namespace apta::compute {

class NodeRuntime : public std::enable_shared_from_this<NodeRuntime> {
 public:
  // Returns a handle: when the last copy is dropped, the node leaves. Errors as Client::Connect.
  static absl::StatusOr<std::shared_ptr<NodeRuntime>> Connect(const ClientOptions& options);
  NodeRuntime(const NodeRuntime&) = delete;
  NodeRuntime& operator=(const NodeRuntime&) = delete;
  ~NodeRuntime();

  // The session to use, valid as long as a handle is held, or nullptr: then WhyNot says why. Costs
  // two loads.
  Session* session() const {
    if (is_forked()) return nullptr;
    return current_.load(std::memory_order_acquire);  // partner: the agent's release
  }
  absl::Status WhyNot() const;
  // This process is a child of the one that connected.
  // Relaxed: a forked child has one thread, which has seen the increment.
  bool is_forked() const { return s_forks.load(std::memory_order_relaxed) != forks_at_connect_; }

  // Waits for a session that is not `old`, at most `timeout_ns`. Nullptr: none came.
  Session* AwaitSession(const Session* old, fabric::TimeNs timeout_ns);

  // A call of a workflow's task: at most kWorkflowCalls of them take lanes at once, whatever runs
  // there are, so that gets and puts find some free.
  static constexpr int kWorkflowCalls = 24;
  class WorkflowCall {
   public:
    explicit WorkflowCall(NodeRuntime* runtime) : runtime_(runtime) {
      runtime_->workflow_calls_.acquire();
    }
    ~WorkflowCall() { runtime_->workflow_calls_.release(); }
    WorkflowCall(const WorkflowCall&) = delete;
    WorkflowCall& operator=(const WorkflowCall&) = delete;

   private:
    NodeRuntime* runtime_;
  };

  const ClientOptions& options() const { return options_; }
  const std::string& socket() const { return socket_; }
  ClientStats stats() const;

 private:
  explicit NodeRuntime(const ClientOptions& options, std::string socket);
  struct Handle;

  void Close();
  void RunAgent();
  bool Watch(Session* session);
  void Reconnect();
  bool MayLeave();

  static std::atomic<std::uint64_t> s_forks;  // of this process and its ancestors

  const ClientOptions options_;
  const std::string socket_;
  const std::uint64_t forks_at_connect_;
  fabric::Doorbell wake_agent_;
  std::atomic<Session*> current_{nullptr};
  std::atomic<std::uint64_t> reconnects_{0};
  std::counting_semaphore<kWorkflowCalls> workflow_calls_{kWorkflowCalls};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<Session>> sessions_;  // all, the current one last
  bool closing_ = false;
  bool agent_lingers_ = false;  // closing, but something is pinned
  bool agent_left_ = false;
};

}  // namespace apta::compute
