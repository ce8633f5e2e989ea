// A FunctionHost that runs on a thread of the test, how to wait for it, and texts as functions have
// them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "apta/apta.h"

namespace apta::test {

inline Bytes ToBytes(std::string_view text) {
  const BytesView view = AsBytes(text);
  return Bytes(view.begin(), view.end());
}
inline std::string ToText(const absl::StatusOr<Bytes>& bytes) {
  return bytes.ok() ? std::string(AsText(*bytes)) : bytes.status().ToString();
}

class RunningHost {
 public:
  RunningHost(Client client, int threads) : RunningHost(std::move(client), {.threads = threads}) {}
  RunningHost(Client client, const HostOptions& options)
      : host_(*FunctionHost::Create(std::move(client), options)) {}
  ~RunningHost() {
    host_.Stop();
    if (thread_.joinable()) thread_.join();
  }
  RunningHost(const RunningHost&) = delete;
  RunningHost& operator=(const RunningHost&) = delete;

  void Register(const std::string& name, Function function, const FunctionOptions& options = {}) {
    const absl::Status registered = host_.Register(name, std::move(function), options);
    EXPECT_TRUE(registered.ok()) << registered;
  }
  void Run() {
    thread_ = std::thread([this] { end_ = host_.Run(); });
  }
  absl::Status Join() {
    thread_.join();
    return end_;
  }
  FunctionHost& operator*() { return host_; }

 private:
  FunctionHost host_;
  absl::Status end_;
  std::thread thread_;
};

// How many attached nodes have `function`.
inline std::ptrdiff_t NodesWith(const Client& client, const std::string& function) {
  const auto nodes = client.Nodes();
  if (!nodes.ok()) return 0;
  return std::count_if(nodes->begin(), nodes->end(), [&](const NodeInfo& node) {
    return std::count(node.functions.begin(), node.functions.end(), function) > 0;
  });
}

}  // namespace apta::test
