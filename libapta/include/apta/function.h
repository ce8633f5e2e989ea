// Functions: a process that links libapta and registers functions is a compute server.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "apta/client.h"
#include "apta/object.h"

namespace apta {

namespace compute {
class HostState;
class InvocationState;
}  // namespace compute

// What a running function sees. Valid until the function returns; used by its thread alone.
class Invocation {
 public:
  explicit Invocation(compute::InvocationState* state) : state_(state) {}
  Invocation(const Invocation&) = delete;
  Invocation& operator=(const Invocation&) = delete;

  BytesView input() const;  // in place
  std::string_view function() const;
  std::uint64_t id() const;  // the same for all attempts of one invocation
  int attempt() const;       // 1, 2, …

  absl::StatusOr<Object> Get(std::string_view key);
  // Kept back until the function has returned OK; dropped when it returns an error. All of an
  // invocation's puts and deletes commit together with its result, as a Transaction, and once,
  // however often it had to be run again: those of the attempt that its caller hears of. What
  // cannot be committed then (a bad key, a full pool) is the invocation's error. A delete of what
  // does not exist changes nothing.
  void Put(std::string_view key, BytesView value);
  void Delete(std::string_view key);
  // As Client's; the deadline is at most what is left of this attempt's own. While it waits, this
  // function takes no thread of its host and does not count against max_concurrency.
  // RESOURCE_EXHAUSTED also: HostOptions::max_waiting functions of this host wait already.
  // CANCELLED: this attempt counts no more, or is past its deadline. UNAVAILABLE: the session in
  // which it began is over.
  absl::StatusOr<Bytes> Call(std::string_view function, BytesView input,
                             const CallOptions& options = {});
  absl::StatusOr<Pending> Start(std::string_view function, BytesView input,
                                const CallOptions& options = {});

 private:
  compute::InvocationState* state_;
};

using Function = std::function<absl::StatusOr<Bytes>(Invocation&)>;

// Of a function on this node; other nodes may register it with others. Deadline and attempts are
// those of the node that makes the attempt.
struct FunctionOptions {
  int max_concurrency = 1;  // invocations of it that run at once on this node, 1 to 65535
  // How often an invocation is started, 1 to 255, when an attempt fails: the function returns an
  // error or throws, what it wrote cannot be committed, its node dies, or it is past its deadline.
  // Another node is tried first. The caller gets the last error, with the history of the attempts.
  int max_attempts = 3;
  absl::Duration deadline = absl::Seconds(60);  // of one attempt
};

struct HostOptions {
  int threads = 1;  // how many functions run at once, 1 to 32
  // How many functions of this host may wait for calls of their own, 0 to 2048: the depth of a
  // chain that has no other host. Each that waits keeps its stack, on a thread of its own (some
  // tens of KiB), but no place among `threads`.
  int max_waiting = 1024;
};

// Makes this process a compute server that runs functions, on threads of its own.
class FunctionHost {
 public:
  static absl::StatusOr<FunctionHost> Create(Client client, int threads = 1);
  static absl::StatusOr<FunctionHost> Create(Client client, const HostOptions& options);
  FunctionHost(FunctionHost&&) noexcept;
  FunctionHost& operator=(FunctionHost&&) noexcept;
  ~FunctionHost();  // stops

  // Thread-safe; before or during Run. ALREADY_EXISTS: registered on this host before.
  absl::Status Register(std::string_view name, Function function,
                        const FunctionOptions& options = {});
  // Serves until Stop() or until the memory server is gone for good (UNAVAILABLE). One caller.
  // RESOURCE_EXHAUSTED: the system lets it start no thread. After a restart of the memory server,
  // or when this node was fenced, it serves again as soon as it has attached, also while functions
  // from before still run: their results count no more. Four of them at most, beside `threads`;
  // while there are more, it offers nothing.
  absl::Status Run();
  // Thread-safe. Run returns when the running functions have ended; nothing new is begun. It does
  // not wait for one past its deadline: it returns DEADLINE_EXCEEDED with the function's name, and
  // that thread, the function, and the node's attachment stay until it ends or the process does.
  void Stop();
  // Of the node, as Client::stats(). Thread-safe.
  ClientStats stats() const;

 private:
  explicit FunctionHost(std::shared_ptr<compute::HostState> state);
  std::shared_ptr<compute::HostState> state_;  // threads that are left behind share it
};

}  // namespace apta
