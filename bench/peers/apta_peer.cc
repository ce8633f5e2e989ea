// Āpta: one aptad with a pool for each way to use it; each client is a node of its own. Durable:
// one pool with a log; the clients are threads of one node, as they share one LMDB or RocksDB.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "apta/client.h"
#include "bench/peers/peer.h"
#include "bench/peers/process.h"
#include "bench/population.h"

namespace apta::peers {
namespace {

class AptaConnection : public Connection {
 public:
  AptaConnection(std::shared_ptr<Client> client, bool writes_in_place)
      : client_(std::move(client)), writes_in_place_(writes_in_place) {}

  absl::Status Execute(absl::Span<const Op> ops, Reader* reader) override {
    for (const Op& op : ops) {
      if (op.is_put) {
        const absl::StatusOr<Version> version = Put(op);
        if (!version.ok()) return version.status();
      } else {
        const absl::StatusOr<Object> object = client_->Get(op.key);
        if (!object.ok()) return object.status();
        reader->Take(op, object->bytes());
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<Version> Put(const Op& op) {
    if (!writes_in_place_) return client_->Put(op.key, op.value);
    absl::StatusOr<Draft> draft = client_->Create(op.key, op.value.size());
    if (!draft.ok()) return draft.status();
    // std::ranges::copy goes byte by byte in GCC 12: 330 us for 1 MiB.
    std::memcpy(draft->bytes().data(), op.value.data(), op.value.size());
    return draft->Commit();
  }

  const std::shared_ptr<Client> client_;
  const bool writes_in_place_;
};

// A way to use Āpta.
struct Mode {
  std::string_view name;  // of the system
  std::string_view pool;
  std::string_view coherence;
  std::string_view access;
  bool is_trusted() const { return access == "trusted"; }
};
constexpr Mode kModes[] = {{"apta", "strict", "strict", "isolated"},
                           {"apta-uncached", "uncached", "uncached", "isolated"},
                           {"apta-trusted", "trusted", "strict", "trusted"}};

// After so much of a log a checkpoint is made: the default recovery_target's.
constexpr std::uint64_t kCheckpointBytes = std::uint64_t{256} << 20;

class AptaSystem : public System {
 public:
  AptaSystem(const Mode& mode, std::string socket, std::shared_ptr<ServerProcess> server,
             bool is_one_node)
      : System(std::string(mode.name), false),
        mode_(mode),
        is_one_node_(is_one_node),
        socket_(std::move(socket)),
        server_(std::move(server)) {}

  absl::StatusOr<std::unique_ptr<Connection>> Connect() override {
    std::shared_ptr<Client> client = shared_.lock();
    if (client == nullptr || !is_one_node_) {
      absl::StatusOr<Client> attached = Attach();
      if (!attached.ok()) return attached.status();
      client = std::make_shared<Client>(*std::move(attached));
      shared_ = client;
    }
    return std::make_unique<AptaConnection>(std::move(client), mode_.is_trusted());
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

  void Settle() override {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (HasCheckpointUnderWay() && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // it tells nobody when it is done
    }
  }

  // What is measured beside the population of a pool meets other memory than what follows it.
  absl::Status AwaitPopulation() {
    const absl::StatusOr<Client> client = Attach();
    return client.ok() ? bench::AwaitPopulation(*client) : client.status();
  }

 private:
  // One begins when it is due.
  bool HasCheckpointUnderWay() const {
    const std::shared_ptr<Client> client = shared_.lock();
    if (client == nullptr) return false;
    const auto pools = client->Pools();
    return pools.ok() && std::ranges::any_of(*pools, [](const PoolInfo& pool) {
             return pool.log_bytes_since_checkpoint >= kCheckpointBytes;
           });
  }

  absl::StatusOr<Client> Attach() {
    return Client::Connect({.socket = socket_,
                            .pool = std::string(mode_.pool),
                            .node = fmt::format("peers-{}-{}", mode_.pool, ++nodes_)});
  }

  const Mode& mode_;
  const bool is_one_node_;
  std::weak_ptr<Client> shared_;
  std::string socket_;
  std::shared_ptr<ServerProcess> server_;
  int nodes_ = 0;
};

}  // namespace

absl::Status StartApta(const Setup& setup, Systems* systems) {
  const std::string socket = setup.folder + "/aptad.sock";
  std::vector<std::string> words = {setup.aptad, "--socket", socket};
  const absl::Span<const Mode> modes(kModes, setup.is_durable ? 1 : std::size(kModes));
  for (const Mode& mode : modes) {
    if (!setup.Wants(mode.name)) continue;
    // In the folder, which is removed: a pool's file stays when its server ends. A trusted pool
    // needs memory that nobody can truncate.
    const bool is_file = setup.pool_backing == "file" && !mode.is_trusted();
    const std::string backing = is_file ? fmt::format("file:{}/pool-{}", setup.folder, mode.pool)
                                : setup.pool_backing == "file" ? "memfd"
                                                               : setup.pool_backing;
    words.push_back("--pool");
    words.push_back(fmt::format("name={},coherence={},access={},bytes={},backing={}", mode.pool,
                                mode.coherence, mode.access, setup.pool_bytes, backing));
    if (setup.is_durable) {
      words.back() += fmt::format(",durability=log,log={}/apta-log", setup.folder);
    }
  }
  if (words.size() == 3) return absl::OkStatus();
  auto server = ServerProcess::Start(std::move(words), socket, setup.folder + "/aptad.log");
  if (!server.ok()) return server.status();
  const auto shared = std::make_shared<ServerProcess>(*std::move(server));
  for (const Mode& mode : modes) {
    if (!setup.Wants(mode.name)) continue;
    auto system = std::make_unique<AptaSystem>(mode, socket, shared, setup.is_durable);
    const absl::Status populated = system->AwaitPopulation();
    if (!populated.ok()) return populated;
    systems->push_back(std::move(system));
  }
  return absl::OkStatus();
}

}  // namespace apta::peers
