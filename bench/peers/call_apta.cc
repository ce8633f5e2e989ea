// Āpta: caller, memory server and function host are three processes.
#include <fmt/format.h>

#include <chrono>
#include <thread>
#include <utility>

#include "apta/apta.h"
#include "bench/peers/call_peer.h"
#include "bench/peers/process.h"

namespace apta::peers {
namespace {

constexpr char kFunction[] = "noop";

class AptaCaller : public Caller {
 public:
  AptaCaller(ServerProcess server, ServerProcess host, Client client)
      : server_(std::move(server)), host_(std::move(host)), client_(std::move(client)) {}

  absl::Status Call(std::string_view input, std::string* output) override {
    const absl::StatusOr<Bytes> result = client_.Call(kFunction, AsBytes(input));
    if (result.ok()) output->assign(AsText(*result));
    return result.status();
  }

 private:
  ServerProcess server_, host_;
  Client client_;
};

absl::StatusOr<Bytes> Echo(Invocation& call) {
  return Bytes(call.input().begin(), call.input().end());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Caller>> StartAptaCalls(const CallSetup& setup) {
  const std::string socket = setup.folder + "/aptad.sock";
  auto server =
      ServerProcess::Start({setup.aptad, "--socket", socket, "--pool", "name=default,bytes=64MiB"},
                           socket, setup.folder + "/aptad.log");
  if (!server.ok()) return server.status();
  // Anywhere: the kernel decides whom it shares a core with.
  auto host = ServerProcess::Start({setup.self, "--serve", "apta", socket}, socket,
                                   setup.folder + "/host.log", bench::Cores::kAll);
  if (!host.ok()) return host.status();
  absl::StatusOr<Client> client = Client::Connect({.socket = socket, .node = "caller"});
  if (!client.ok()) return client.status();
  auto caller =
      std::make_unique<AptaCaller>(*std::move(server), *std::move(host), *std::move(client));
  std::string output;
  absl::Status called = absl::OkStatus();
  for (int i = 0; i < 5000 && !(called = caller->Call("ready?", &output)).ok(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // until the host has registered
  }
  if (!called.ok()) return called;
  return caller;
}

absl::Status ServeApta(const std::string& socket) {
  absl::StatusOr<Client> client = Client::Connect({.socket = socket, .node = "host"});
  if (!client.ok()) return client.status();
  absl::StatusOr<FunctionHost> host = FunctionHost::Create(*std::move(client), /*threads=*/1);
  if (!host.ok()) return host.status();
  const absl::Status registered = host->Register(kFunction, Echo, {});
  return registered.ok() ? host->Run() : registered;
}

}  // namespace apta::peers
