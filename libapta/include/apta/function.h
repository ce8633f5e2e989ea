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
  // Kept back until the function has returned OK; dropped when it returns an error. What cannot
  // be committed then (a bad key, a full pool) is the invocation's error.
  void Put(std::string_view key, BytesView value);
  void Delete(std::string_view key);
  absl::StatusOr<Bytes> Call(std::string_view function, BytesView input);
  absl::StatusOr<Pending> Start(std::string_view function, BytesView input);

 private:
  compute::InvocationState* state_;
};

using Function = std::function<absl::StatusOr<Bytes>(Invocation&)>;

struct FunctionOptions {
  int max_concurrency = 1;  // invocations of it at once on this node
  int max_attempts = 3;     // how often an invocation is started before its last error is returned
  absl::Duration deadline = absl::Seconds(60);
};

// Makes this process a compute server that runs functions, on `threads` threads of its own.
class FunctionHost {
 public:
  static absl::StatusOr<FunctionHost> Create(Client client, int threads = 1);
  FunctionHost(FunctionHost&&) noexcept;
  FunctionHost& operator=(FunctionHost&&) noexcept;
  ~FunctionHost();  // stops

  // Thread-safe; before or during Run. ALREADY_EXISTS: registered on this host before.
  absl::Status Register(std::string_view name, Function function,
                        const FunctionOptions& options = {});
  // Serves until Stop() or until the memory server is gone for good (UNAVAILABLE). One caller.
  absl::Status Run();
  // Thread-safe. Running functions end first; nothing new is begun.
  void Stop();
  // Of the node, as Client::stats(). Thread-safe.
  ClientStats stats() const;

 private:
  explicit FunctionHost(std::unique_ptr<compute::HostState> state);
  std::unique_ptr<compute::HostState> state_;
};

}  // namespace apta
