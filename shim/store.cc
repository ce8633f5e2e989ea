#include "shim/store.h"

#include <unistd.h>

#include <array>
#include <cstdlib>
#include <utility>

namespace apta::shim {
namespace {

std::string Variable(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

std::string KeyOf(const std::string& segment) { return "shm/" + segment; }

}  // namespace

Place Place::FromEnvironment() {
  std::array<char, 128> host{};
  gethostname(host.data(), host.size() - 1);
  return {.socket = Variable("APTA_SOCKET", "/run/apta/aptad.sock"),
          .pool = Variable("APTA_SHMEM_POOL", "default"),
          .node = Variable("APTA_NODE", host.data())};
}

absl::StatusOr<Client*> Store::Attached() {
  if (client_ == nullptr) {
    const Place place = Place::FromEnvironment();
    ClientOptions options;
    options.socket = place.socket;
    options.pool = place.pool;
    options.node = place.node;
    // What is mapped in place stays; what was only looked at is not worth keeping.
    options.cache_bytes = std::size_t{16} << 20;
    absl::StatusOr<Client> client = Client::Connect(options);
    if (!client.ok()) return client.status();
    client_ = std::make_unique<Client>(*std::move(client));
  }
  return client_.get();
}

absl::StatusOr<std::optional<Object>> Store::Newest(const std::string& segment) {
  const absl::StatusOr<Client*> client = Attached();
  if (!client.ok()) return client.status();
  absl::StatusOr<Object> object = (*client)->Get(KeyOf(segment));
  if (absl::IsNotFound(object.status())) return std::optional<Object>();
  if (!object.ok()) return object.status();
  return std::optional<Object>(*std::move(object));
}

absl::StatusOr<Version> Store::Commit(const std::string& segment, BytesView bytes) {
  const absl::StatusOr<Client*> client = Attached();
  if (!client.ok()) return client.status();
  return (*client)->Put(KeyOf(segment), bytes);
}

absl::StatusOr<bool> Store::Remove(const std::string& segment) {
  const absl::StatusOr<Client*> client = Attached();
  if (!client.ok()) return client.status();
  const absl::StatusOr<Version> removed = (*client)->Delete(KeyOf(segment));
  if (absl::IsNotFound(removed.status())) return false;
  if (!removed.ok()) return removed.status();
  return true;
}

std::optional<ObjectPages> Store::Pages(const Object& object) {
  return client_ != nullptr ? client_->Pages(object) : std::nullopt;
}

}  // namespace apta::shim
