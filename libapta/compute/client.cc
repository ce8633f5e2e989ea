#include "apta/client.h"

#include <sys/socket.h>

#include <algorithm>

#include "compute/draft_state.h"
#include "compute/node_runtime.h"
#include "compute/pending_state.h"
#include "fabric/control.h"
#include "fabric/copy.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace apta {
namespace {

// From this size on one copy and two messages are sooner done than one message and two copies.
constexpr std::size_t kInPlaceBytes = 32 << 10;

}  // namespace

using compute::Precondition;
using compute::Session;

Client::Client(std::shared_ptr<compute::NodeRuntime> runtime) : runtime_(std::move(runtime)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

absl::StatusOr<Client> Client::Connect(const ClientOptions& options) {
  absl::StatusOr<std::shared_ptr<compute::NodeRuntime>> runtime =
      compute::NodeRuntime::Connect(options);
  if (!runtime.ok()) return runtime.status();
  return Client(*std::move(runtime));
}

absl::StatusOr<Object> Client::Get(std::string_view key) {
  Session* session = runtime_->session();
  if (session == nullptr) return runtime_->WhyNot();
  if (!fabric::IsValidKey(key)) return fabric::CheckKey(key);
  return session->Get(key);
}

absl::StatusOr<Version> Client::Put(std::string_view key, BytesView value,
                                    const PutOptions& options) {
  Session* session = runtime_->session();
  if (session == nullptr) return runtime_->WhyNot();
  if (!fabric::IsValidKey(key)) return fabric::CheckKey(key);
  if (value.size() < kInPlaceBytes || !session->writes_in_place() || options.if_version) {
    return session->Put(key, value, Precondition(options));
  }
  const absl::StatusOr<std::unique_ptr<compute::DraftState>> draft =
      compute::DraftState::Make(runtime_, session, key, value.size());
  if (!draft.ok()) return draft.status();
  const absl::Span<std::byte> bytes = (*draft)->bytes();
  // The extent's header lies where others may write.
  if (bytes.size() != value.size()) return session->Put(key, value, Precondition(options));
  fabric::CopyToExtent(bytes.data(), value.data(), value.size(), value.size());
  return (*draft)->Commit();
}

absl::StatusOr<Version> Client::Delete(std::string_view key, const PutOptions& options) {
  Session* session = runtime_->session();
  if (session == nullptr) return runtime_->WhyNot();
  if (!fabric::IsValidKey(key)) return fabric::CheckKey(key);
  return session->Delete(key, Precondition(options));
}

absl::StatusOr<ObjectInfo> Client::Stat(std::string_view key) {
  Session* session = runtime_->session();
  if (session == nullptr) return runtime_->WhyNot();
  if (!fabric::IsValidKey(key)) return fabric::CheckKey(key);
  return session->Stat(key);
}

absl::StatusOr<std::vector<ObjectInfo>> Client::List(std::string_view prefix, std::size_t limit,
                                                     std::string_view after) {
  Session* session = runtime_->session();
  if (session == nullptr) return runtime_->WhyNot();
  return session->List(prefix, limit, after);
}

ClientStats Client::stats() const { return runtime_->stats(); }
const std::string& Client::node() const { return runtime_->options().node; }

// ---------------------------------------------------------------------------------------------

absl::StatusOr<Draft> Client::Create(std::string_view key, std::size_t size) {
  Session* session = runtime_->session();
  if (session == nullptr) return runtime_->WhyNot();
  if (!fabric::IsValidKey(key)) return fabric::CheckKey(key);
  absl::StatusOr<std::unique_ptr<compute::DraftState>> state =
      compute::DraftState::Make(runtime_, session, key, size);
  if (!state.ok()) return state.status();
  return Draft(*std::move(state));
}

Draft::Draft(std::unique_ptr<compute::DraftState> state) : state_(std::move(state)) {}
Draft::Draft(Draft&&) noexcept = default;
Draft& Draft::operator=(Draft&&) noexcept = default;
Draft::~Draft() = default;
absl::Span<std::byte> Draft::bytes() {
  return state_ != nullptr ? state_->bytes() : absl::Span<std::byte>();
}
absl::StatusOr<Version> Draft::Commit() {
  if (state_ == nullptr) return absl::FailedPreconditionError("the draft was committed already");
  const std::unique_ptr<compute::DraftState> state = std::move(state_);
  return state->Commit();
}

// ---------------------------------------------------------------------------------------------

absl::StatusOr<Bytes> Client::Call(std::string_view function, BytesView input,
                                   const CallOptions& options) {
  return compute::Caller(runtime_).Call(function, input, options);
}

absl::StatusOr<Pending> Client::Start(std::string_view function, BytesView input,
                                      const CallOptions& options) {
  return compute::Caller(runtime_).Start(function, input, options);
}

Pending::Pending(std::unique_ptr<compute::PendingState> state) : state_(std::move(state)) {}
Pending::Pending(Pending&&) noexcept = default;
Pending& Pending::operator=(Pending&&) noexcept = default;
Pending::~Pending() = default;
absl::StatusOr<Bytes> Pending::Wait() {
  if (state_ == nullptr) return absl::FailedPreconditionError("the Pending was moved from");
  return state_->Wait();
}
bool Pending::done() const { return state_ == nullptr || state_->done(); }
absl::StatusOr<Explanation> Pending::Explain() const {
  if (state_ == nullptr) return absl::FailedPreconditionError("the Pending was moved from");
  return state_->Explain();
}

// ---------------------------------------------------------------------------------------------
// The memory server's state, over the socket.

namespace {

absl::StatusOr<nlohmann::json> AskState(const compute::NodeRuntime& runtime) {
  absl::StatusOr<fabric::UniqueFd> socket = fabric::ConnectSocket(runtime.socket());
  if (!socket.ok()) return socket.status();
  const timeval timeout = absl::ToTimeval(runtime.options().timeout);
  setsockopt(socket->get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  fabric::Hello hello{};
  hello.magic = fabric::kControlMagic;
  hello.version = fabric::kControlVersion;
  hello.kind = fabric::Hello::kAskState;
  if (absl::Status s = fabric::SendPacket(socket->get(), &hello, sizeof(hello)); !s.ok()) return s;
  std::string text;
  while (true) {
    std::vector<char> packet(64 << 10);
    const absl::StatusOr<std::size_t> bytes =
        fabric::ReceivePacket(socket->get(), packet.data(), packet.size(), nullptr, 0);
    if (!bytes.ok()) return bytes.status();
    if (*bytes == 0) break;
    text.append(packet.data(), *bytes);
  }
  nlohmann::json state = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!state.is_object() || !state["nodes"].is_array() || !state["pools"].is_array()) {
    return absl::InternalError("the memory server's answer about its state cannot be read");
  }
  return state;
}

template <typename T>
T Field(const nlohmann::json& object, const char* name) {
  const auto entry = object.find(name);
  if (entry == object.end()) return T{};
  if constexpr (std::is_integral_v<T>) {
    return entry->is_number_integer() ? entry->get<T>() : T{};
  } else {
    return entry->is_string() ? entry->template get<std::string>() : T{};
  }
}

}  // namespace

std::optional<ObjectPages> Client::Pages(const Object& object) const {
  const Session* session = runtime_->session();
  if (session == nullptr) return std::nullopt;
  return session->Pages(object);
}

absl::StatusOr<std::vector<NodeInfo>> Client::Nodes() const {
  if (runtime_->is_forked()) return runtime_->WhyNot();
  const absl::StatusOr<nlohmann::json> state = AskState(*runtime_);
  if (!state.ok()) return state.status();
  std::vector<NodeInfo> nodes;
  for (const nlohmann::json& entry : (*state)["nodes"]) {
    NodeInfo node;
    node.id = Field<std::uint32_t>(entry, "id");
    node.name = Field<std::string>(entry, "name");
    node.pid = Field<std::int64_t>(entry, "pid");
    node.pool = Field<std::string>(entry, "pool");
    node.outstanding = Field<std::uint64_t>(entry, "outstanding");
    node.running = Field<std::uint64_t>(entry, "running");
    node.waiting = Field<std::uint64_t>(entry, "waiting");
    node.stuck = Field<std::uint64_t>(entry, "stuck");
    node.threads = Field<std::uint64_t>(entry, "threads");
    node.held_bytes = Field<std::uint64_t>(entry, "held_bytes");
    node.fenced = entry.value("fenced", false);
    if (const auto functions = entry.find("functions"); functions != entry.end()) {
      for (const nlohmann::json& function : *functions) {
        if (function.is_string()) node.functions.push_back(function.get<std::string>());
      }
    }
    nodes.push_back(std::move(node));
  }
  return nodes;
}

absl::StatusOr<std::vector<PoolInfo>> Client::Pools() const {
  if (runtime_->is_forked()) return runtime_->WhyNot();
  const absl::StatusOr<nlohmann::json> state = AskState(*runtime_);
  if (!state.ok()) return state.status();
  std::vector<PoolInfo> pools;
  for (const nlohmann::json& entry : (*state)["pools"]) {
    PoolInfo pool;
    pool.name = Field<std::string>(entry, "name");
    pool.backing = Field<std::string>(entry, "backing");
    pool.coherence = Field<std::string>(entry, "coherence");
    pool.access = Field<std::string>(entry, "access");
    pool.durability = Field<std::string>(entry, "durability");
    if (const auto numa = entry.find("numa_nodes"); numa != entry.end() && numa->is_array()) {
      pool.numa = fmt::format("{}", fmt::join(numa->get<std::vector<int>>(), ","));
    }
    pool.bytes = Field<std::uint64_t>(entry, "bytes");
    pool.bytes_used = Field<std::uint64_t>(entry, "bytes_used");
    pool.bytes_held = Field<std::uint64_t>(entry, "bytes_held");
    pool.bytes_free = Field<std::uint64_t>(entry, "bytes_free");
    pool.objects = Field<std::uint64_t>(entry, "objects");
    pool.bytes_populated = Field<std::uint64_t>(entry, "bytes_populated");
    pool.page_bytes = Field<std::uint64_t>(entry, "page_bytes");
    pool.last_version = Field<std::uint64_t>(entry, "last_version");
    pool.objects_damaged = Field<std::uint64_t>(entry, "objects_damaged");
    pool.scrubs = Field<std::uint64_t>(entry, "scrubs");
    pool.bytes_scrubbed = Field<std::uint64_t>(entry, "bytes_scrubbed");
    pool.log_writes = Field<std::uint64_t>(entry, "log_writes");
    pool.log_records = Field<std::uint64_t>(entry, "log_records");
    pool.log_bytes = Field<std::uint64_t>(entry, "log_bytes");
    pool.log_write_ns = Field<std::uint64_t>(entry, "log_write_ns");
    pool.log_checkpoints = Field<std::uint64_t>(entry, "log_checkpoints");
    pool.log_bytes_since_checkpoint = Field<std::uint64_t>(entry, "log_bytes_since_checkpoint");
    pools.push_back(std::move(pool));
  }
  return pools;
}

}  // namespace apta
