// Calling functions: what stands behind Client::Call, Client::Start and Pending.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "apta/client.h"
#include "compute/node_runtime.h"

namespace apta::compute {

// One message to the Executor Manager, one back with the result.
absl::StatusOr<Bytes> CallFunction(NodeRuntime* runtime, std::string_view function, BytesView input,
                                   const CallOptions& options);

absl::StatusOr<Pending> StartFunction(std::shared_ptr<NodeRuntime> runtime,
                                      std::string_view function, BytesView input,
                                      const CallOptions& options);

class PendingState {
 public:
  static absl::StatusOr<std::unique_ptr<PendingState>> Start(std::shared_ptr<NodeRuntime> runtime,
                                                             std::string_view function,
                                                             BytesView input,
                                                             const CallOptions& options);
  ~PendingState();  // forgets the result unless it was taken
  absl::StatusOr<Bytes> Wait();
  bool done() const;

 private:
  PendingState(std::shared_ptr<NodeRuntime> runtime, Session* session, std::string_view function,
               std::uint64_t id)
      : runtime_(std::move(runtime)), session_(session), function_(function), id_(id) {}

  std::shared_ptr<NodeRuntime> runtime_;
  Session* session_;  // lives as long as the runtime; ids are its own
  std::string function_;
  std::uint64_t id_;  // 0 = taken
};

}  // namespace apta::compute
