#include "common/stage.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <utility>

#include "apta/server.h"

namespace examples {

struct Stage::State {
  ~State() {
    server.reset();
    std::error_code error;
    if (!scratch.empty()) std::filesystem::remove_all(scratch, error);
  }
  std::string scratch;
  std::string socket;
  std::optional<apta::MemoryServer> server;
};

Stage::Stage(std::unique_ptr<State> state) : state_(std::move(state)) {}
Stage::Stage(Stage&&) noexcept = default;
Stage& Stage::operator=(Stage&&) noexcept = default;
Stage::~Stage() = default;
const std::string& Stage::socket() const { return state_->socket; }
const std::string& Stage::scratch() const { return state_->scratch; }

absl::StatusOr<Stage> Stage::Open(const std::string& socket, const std::string& policy) {
  auto state = std::make_unique<State>();
  std::string folder = std::filesystem::temp_directory_path() / "apta-example-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return absl::ErrnoToStatus(errno, "a temporary folder");
  state->scratch = folder;
  state->socket = socket;
  if (socket.empty()) {
    apta::ServerOptions options;
    options.socket = state->scratch + "/aptad.sock";
    options.pools[0].bytes = 256 << 20;
    if (!policy.empty()) options.policy = policy;
    absl::StatusOr<apta::MemoryServer> server = apta::MemoryServer::Start(options);
    if (!server.ok()) return server.status();
    state->server.emplace(*std::move(server));
    state->socket = state->server->socket();
  }
  return Stage(std::move(state));
}

}  // namespace examples
