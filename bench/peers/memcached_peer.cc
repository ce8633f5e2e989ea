// memcached over a Unix socket with libmemcached; alone, and with multi-gets and unanswered sets.
#include <fmt/format.h>
#include <libmemcached/memcached.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "bench/peers/peer.h"
#include "bench/peers/process.h"

namespace apta::peers {
namespace {

struct FreeHandle {
  void operator()(memcached_st* handle) const { memcached_free(handle); }
};
using Handle = std::unique_ptr<memcached_st, FreeHandle>;

class MemcachedConnection : public Connection {
 public:
  MemcachedConnection(Handle handle, bool is_buffering)
      : handle_(std::move(handle)), is_buffering_(is_buffering) {
    memcached_result_create(handle_.get(), &result_);
  }
  ~MemcachedConnection() override { memcached_result_free(&result_); }

  // Runs of gets are one multi-get; of a run of puts the last alone is answered.
  absl::Status Execute(absl::Span<const Op> ops, Reader* reader) override {
    std::size_t begin = 0;
    while (begin < ops.size()) {
      std::size_t end = begin + 1;
      while (end < ops.size() && ops[end].is_put == ops[begin].is_put) ++end;
      const auto run = ops.subspan(begin, end - begin);
      const absl::Status status = run[0].is_put ? Put(run) : Get(run, reader);
      if (!status.ok()) return status;
      begin = end;
    }
    return absl::OkStatus();
  }

  absl::Status FlushAll() { return StatusOf(memcached_flush(handle_.get(), 0), "flush_all"); }

 private:
  absl::Status StatusOf(memcached_return_t code, std::string_view what) const {
    if (code == MEMCACHED_SUCCESS) return absl::OkStatus();
    return absl::UnavailableError(
        fmt::format("memcached: {}: {}", what, memcached_strerror(handle_.get(), code)));
  }

  // memcached_fetch_result with a result that is used again: memcached_get would allocate one
  // for each value.
  absl::Status Get(absl::Span<const Op> ops, Reader* reader) {
    keys_.clear();
    key_bytes_.clear();
    for (const Op& op : ops) {
      keys_.push_back(op.key.data());
      key_bytes_.push_back(op.key.size());
    }
    memcached_return_t code =
        memcached_mget(handle_.get(), keys_.data(), key_bytes_.data(), keys_.size());
    if (code != MEMCACHED_SUCCESS) return StatusOf(code, "mget");
    // The server answers in the order of the keys.
    std::size_t fetched = 0;
    while (memcached_fetch_result(handle_.get(), &result_, &code) != nullptr) {
      if (fetched == ops.size()) return absl::InternalError("memcached: an answer too many");
      reader->Take(ops[fetched++],
                   {reinterpret_cast<const std::byte*>(memcached_result_value(&result_)),
                    memcached_result_length(&result_)});
    }
    if (fetched != ops.size()) return absl::NotFoundError("memcached: no such key");
    return absl::OkStatus();
  }

  absl::Status Put(absl::Span<const Op> ops) {
    if (!is_buffering_) {
      for (const Op& op : ops) {
        const memcached_return_t code = Store(memcached_set, op);
        if (code != MEMCACHED_SUCCESS) return StatusOf(code, "set");
      }
      return absl::OkStatus();
    }
    Quiet(true);
    for (const Op& op : ops.first(ops.size() - 1)) {
      const memcached_return_t code = Store(memcached_set, op);
      if (code != MEMCACHED_SUCCESS && code != MEMCACHED_BUFFERED) return StatusOf(code, "set");
    }
    Quiet(false);
    // Buffering holds every set back; a replace is sent at once, behind them, and answered. One
    // connection's commands are done in order: its answer says that all have been.
    memcached_return_t code = Store(memcached_replace, ops.back());
    if (code == MEMCACHED_NOTSTORED) code = Store(memcached_add, ops.back());  // the first time
    return StatusOf(code, "replace");
  }

  template <typename Verb>
  memcached_return_t Store(Verb verb, const Op& op) {
    return verb(handle_.get(), op.key.data(), op.key.size(),
                reinterpret_cast<const char*>(op.value.data()), op.value.size(), 0, 0);
  }

  void Quiet(bool quiet) {
    memcached_behavior_set(handle_.get(), MEMCACHED_BEHAVIOR_NOREPLY, quiet ? 1 : 0);
  }

  Handle handle_;
  bool is_buffering_;
  memcached_result_st result_;
  std::vector<const char*> keys_;
  std::vector<std::size_t> key_bytes_;
};

class MemcachedSystem : public System {
 public:
  MemcachedSystem(std::string name, bool is_pipelined, std::string socket,
                  std::shared_ptr<ServerProcess> server)
      : System(std::move(name), is_pipelined),
        socket_(std::move(socket)),
        server_(std::move(server)) {}

  absl::StatusOr<std::unique_ptr<Connection>> Connect() override { return Open(); }

  absl::Status Empty(absl::Span<const std::string_view> /*keys*/) override {
    return Open()->FlushAll();
  }

 private:
  std::unique_ptr<MemcachedConnection> Open() {
    Handle handle(memcached_create(nullptr));
    memcached_server_add_unix_socket(handle.get(), socket_.c_str());
    // A put alone has to be answered before the next: only what is pipelined is held back.
    memcached_behavior_set(handle.get(), MEMCACHED_BEHAVIOR_BUFFER_REQUESTS,
                           is_pipelined() ? 1 : 0);
    return std::make_unique<MemcachedConnection>(std::move(handle), is_pipelined());
  }

  std::string socket_;
  std::shared_ptr<ServerProcess> server_;
};

}  // namespace

absl::Status StartMemcached(const Setup& setup, Systems* systems) {
  const std::pair<std::string, bool> variants[] = {{"memcached", false},
                                                   {"memcached-pipelined", true}};
  std::shared_ptr<ServerProcess> shared;
  const std::string socket = setup.folder + "/memcached.sock";
  for (const auto& [name, is_pipelined] : variants) {
    if (!setup.Wants(name)) continue;
    if (shared == nullptr) {
      // Twice the room: pages stay with the size class that took them first.
      const std::uint64_t item_mib = (setup.max_value_bytes >> 20) + 1;
      std::vector<std::string> words = {"memcached",
                                        "-s",
                                        socket,
                                        "-m",
                                        std::to_string(setup.capacity_bytes * 2 >> 20),
                                        "-I",
                                        fmt::format("{}m", item_mib),
                                        "-t",
                                        "2"};
      if (geteuid() == 0) words.insert(words.end(), {"-u", "root"});  // it refuses otherwise
      auto server = ServerProcess::Start(std::move(words), socket, setup.folder + "/memcached.log");
      if (!server.ok()) return server.status();
      shared = std::make_shared<ServerProcess>(*std::move(server));
    }
    systems->push_back(std::make_unique<MemcachedSystem>(name, is_pipelined, socket, shared));
  }
  return absl::OkStatus();
}

}  // namespace apta::peers
