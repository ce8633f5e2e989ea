// gRPC on a Unix socket: the stub and the server that protoc makes, both of the blocking kind.
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "bench/peers/call_peer.h"
#include "bench/peers/process.h"
#include "functions.grpc.pb.h"

namespace apta::peers {
namespace {

using apta_peers_rpc::Functions;
using apta_peers_rpc::Text;

class EchoService final : public Functions::Service {
  grpc::Status Call(grpc::ServerContext* /*context*/, const Text* input, Text* output) override {
    output->set_bytes(input->bytes());
    return grpc::Status::OK;
  }
};

class GrpcCaller : public Caller {
 public:
  GrpcCaller(ServerProcess server, std::shared_ptr<grpc::Channel> channel)
      : server_(std::move(server)), stub_(Functions::NewStub(std::move(channel))) {}

  absl::Status Call(std::string_view input, std::string* output) override {
    grpc::ClientContext context;
    Text sent, got;
    sent.set_bytes(input.data(), input.size());
    const grpc::Status status = stub_->Call(&context, sent, &got);
    if (!status.ok()) return absl::UnavailableError(status.error_message());
    output->assign(got.bytes());
    return absl::OkStatus();
  }

 private:
  ServerProcess server_;
  std::unique_ptr<Functions::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Caller>> StartGrpcCalls(const CallSetup& setup) {
  const std::string socket = setup.folder + "/grpc.sock";
  auto server = ServerProcess::Start({setup.self, "--serve", "grpc", socket}, socket,
                                     setup.folder + "/grpc.log");
  if (!server.ok()) return server.status();
  auto channel = grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials());
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
    return absl::UnavailableError(fmt::format("grpc: cannot connect to {}", socket));
  }
  return std::make_unique<GrpcCaller>(*std::move(server), std::move(channel));
}

absl::Status ServeGrpc(const std::string& socket) {
  EchoService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return absl::UnavailableError(fmt::format("cannot serve {}", socket));
  server->Wait();
  return absl::OkStatus();
}

}  // namespace apta::peers
