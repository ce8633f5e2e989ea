// Calls of a function that does nothing, in another process, by whatever carries them.
//
// One file per peer: how it is started and called, and what the function's process does (the same
// program once more, --serve NAME SOCKET). Started and ended by the main thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace apta::peers {

// One caller, one call at a time. What it has started ends with it.
class Caller {
 public:
  virtual ~Caller() = default;
  // `output` is what the function returned: its input.
  virtual absl::Status Call(std::string_view input, std::string* output) = 0;
};

struct CallSetup {
  std::string folder;  // for sockets; removed with all in it
  std::string aptad;   // the memory server's program
  std::string self;    // this program
};

using StartCaller = absl::StatusOr<std::unique_ptr<Caller>> (*)(const CallSetup& setup);
using ServeFunction = absl::Status (*)(const std::string& socket);  // until it is killed

absl::StatusOr<std::unique_ptr<Caller>> StartAptaCalls(const CallSetup& setup);
absl::StatusOr<std::unique_ptr<Caller>> StartUnixCalls(const CallSetup& setup);
absl::StatusOr<std::unique_ptr<Caller>> StartGrpcCalls(const CallSetup& setup);
absl::StatusOr<std::unique_ptr<Caller>> StartRedisCalls(const CallSetup& setup);
absl::Status ServeApta(const std::string& socket);
absl::Status ServeUnix(const std::string& socket);
absl::Status ServeGrpc(const std::string& socket);
absl::Status ServeRedis(const std::string& socket);

struct CallPeer {
  std::string_view name;
  StartCaller start;
  ServeFunction serve;
};
inline constexpr CallPeer kCallPeers[] = {{"apta", StartAptaCalls, ServeApta},
                                          {"unix-socket", StartUnixCalls, ServeUnix},
                                          {"grpc", StartGrpcCalls, ServeGrpc},
                                          {"redis-lists", StartRedisCalls, ServeRedis}};

}  // namespace apta::peers
