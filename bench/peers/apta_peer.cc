// Āpta: one aptad with two pools, strict and uncached; each client is a node of its own.
#include <fmt/format.h>

#include <memory>
#include <utility>

#include "apta/client.h"
#include "bench/peers/peer.h"
#include "bench/peers/process.h"
#include "bench/population.h"

namespace apta::peers {
namespace {

class AptaConnection : public Connection {
 public:
  explicit AptaConnection(Client client) : client_(std::move(client)) {}

  absl::Status Execute(absl::Span<const Op> ops, Reader* reader) override {
    for (const Op& op : ops) {
      if (op.is_put) {
        const absl::StatusOr<Version> version = client_.Put(op.key, op.value);
        if (!version.ok()) return version.status();
      } else {
        const absl::StatusOr<Object> object = client_.Get(op.key);
        if (!object.ok()) return object.status();
        reader->Take(op, object->bytes());
      }
    }
    return absl::OkStatus();
  }

 private:
  Client client_;
};

class AptaSystem : public System {
 public:
  AptaSystem(std::string name, std::string pool, std::string socket,
             std::shared_ptr<ServerProcess> server)
      : System(std::move(name), false),
        pool_(std::move(pool)),
        socket_(std::move(socket)),
        server_(std::move(server)) {}

  absl::StatusOr<std::unique_ptr<Connection>> Connect() override {
    absl::StatusOr<Client> client = Attach();
    if (!client.ok()) return client.status();
    return std::make_unique<AptaConnection>(*std::move(client));
  }

  absl::Status Empty(absl::Span<const std::string_view> keys) override {
    absl::StatusOr<Client> client = Attach();
    if (!client.ok()) return client.status();
    for (const std::string_view key : keys) {
      const absl::Status status = client->Delete(key).status();
      if (!status.ok() && !absl::IsNotFound(status)) return status;
    }
    return absl::OkStatus();
  }

  // What is measured beside the population of a pool meets other memory than what follows it.
  absl::Status AwaitPopulation() {
    const absl::StatusOr<Client> client = Attach();
    return client.ok() ? bench::AwaitPopulation(*client) : client.status();
  }

 private:
  absl::StatusOr<Client> Attach() {
    return Client::Connect(
        {.socket = socket_, .pool = pool_, .node = fmt::format("peers-{}-{}", pool_, ++nodes_)});
  }

  std::string pool_;
  std::string socket_;
  std::shared_ptr<ServerProcess> server_;
  int nodes_ = 0;
};

}  // namespace

absl::Status StartApta(const Setup& setup, Systems* systems) {
  const std::string socket = setup.folder + "/aptad.sock";
  std::vector<std::string> words = {setup.aptad, "--socket", socket};
  const std::pair<std::string, std::string> modes[] = {{"apta", "strict"},
                                                       {"apta-uncached", "uncached"}};
  for (const auto& [name, mode] : modes) {
    if (!setup.Wants(name)) continue;
    // In the folder, which is removed: a pool's file stays when its server ends.
    const std::string backing = setup.pool_backing == "file"
                                    ? fmt::format("file:{}/pool-{}", setup.folder, mode)
                                    : setup.pool_backing;
    words.push_back("--pool");
    words.push_back(fmt::format("name={0},coherence={0},bytes={1},backing={2}", mode,
                                setup.pool_bytes, backing));
  }
  if (words.size() == 3) return absl::OkStatus();
  auto server = ServerProcess::Start(std::move(words), socket, setup.folder + "/aptad.log");
  if (!server.ok()) return server.status();
  const auto shared = std::make_shared<ServerProcess>(*std::move(server));
  for (const auto& [name, mode] : modes) {
    if (!setup.Wants(name)) continue;
    auto system = std::make_unique<AptaSystem>(name, mode, socket, shared);
    const absl::Status populated = system->AwaitPopulation();
    if (!populated.ok()) return populated;
    systems->push_back(std::move(system));
  }
  return absl::OkStatus();
}

}  // namespace apta::peers
