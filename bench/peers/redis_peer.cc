// Redis over a Unix socket with hiredis: nothing written to disk, alone and pipelined; or durable,
// an append-only file that is synced before any reply.
#include <fmt/format.h>
#include <hiredis/hiredis.h>

#include <memory>
#include <utility>

#include "bench/peers/peer.h"
#include "bench/peers/process.h"

namespace apta::peers {
namespace {

struct FreeContext {
  void operator()(redisContext* context) const { redisFree(context); }
};
struct FreeReply {
  void operator()(void* reply) const { freeReplyObject(reply); }
};
using Context = std::unique_ptr<redisContext, FreeContext>;
using Reply = std::unique_ptr<redisReply, FreeReply>;

class RedisConnection : public Connection {
 public:
  explicit RedisConnection(Context context) : context_(std::move(context)) {}

  // All commands are appended, then sent together by the first wait for a reply. With one
  // operation that is what redisCommandArgv does.
  absl::Status Execute(absl::Span<const Op> ops, Reader* reader) override {
    for (const Op& op : ops) {
      const char* words[] = {op.is_put ? "SET" : "GET", op.key.data(),
                             reinterpret_cast<const char*>(op.value.data())};
      const std::size_t bytes[] = {3, op.key.size(), op.value.size()};
      if (redisAppendCommandArgv(context_.get(), op.is_put ? 3 : 2, words, bytes) != REDIS_OK) {
        return Fault("append");
      }
    }
    for (const Op& op : ops) {
      void* raw = nullptr;
      if (redisGetReply(context_.get(), &raw) != REDIS_OK) return Fault("reply");
      const Reply reply(static_cast<redisReply*>(raw));
      if (reply->type == REDIS_REPLY_ERROR) {
        return absl::UnavailableError(fmt::format("redis: {}", reply->str));
      }
      if (op.is_put) continue;
      if (reply->type != REDIS_REPLY_STRING) return absl::NotFoundError("redis: no such key");
      reader->Take(op, {reinterpret_cast<const std::byte*>(reply->str),
                        static_cast<std::size_t>(reply->len)});
    }
    return absl::OkStatus();
  }

  absl::Status Command(const char* text) {
    const Reply reply(static_cast<redisReply*>(redisCommand(context_.get(), text)));
    if (reply == nullptr || reply->type == REDIS_REPLY_ERROR) return Fault(text);
    return absl::OkStatus();
  }

 private:
  absl::Status Fault(std::string_view what) const {
    return absl::UnavailableError(fmt::format("redis: {}: {}", what, context_->errstr));
  }

  Context context_;
};

class RedisSystem : public System {
 public:
  RedisSystem(std::string name, bool is_pipelined, std::string socket,
              std::shared_ptr<ServerProcess> server)
      : System(std::move(name), is_pipelined),
        socket_(std::move(socket)),
        server_(std::move(server)) {}

  absl::StatusOr<std::unique_ptr<Connection>> Connect() override {
    auto connection = Open();
    if (!connection.ok()) return connection.status();
    return *std::move(connection);
  }

  absl::Status Empty(absl::Span<const std::string_view> /*keys*/) override {
    auto connection = Open();
    if (!connection.ok()) return connection.status();
    return (*connection)->Command("FLUSHALL SYNC");
  }

 private:
  absl::StatusOr<std::unique_ptr<RedisConnection>> Open() {
    Context context(redisConnectUnix(socket_.c_str()));
    if (context == nullptr || context->err != 0) {
      return absl::UnavailableError(fmt::format("redis: cannot connect to {}", socket_));
    }
    // Otherwise hiredis frees and grows its buffer again around every reply beyond 16 KiB.
    context->reader->maxbuf = 0;
    return std::make_unique<RedisConnection>(std::move(context));
  }

  std::string socket_;
  std::shared_ptr<ServerProcess> server_;
};

}  // namespace

absl::Status StartRedis(const Setup& setup, Systems* systems) {
  const std::pair<std::string, bool> variants[] = {{"redis", false}, {"redis-pipelined", true}};
  std::shared_ptr<ServerProcess> shared;
  const std::string socket = setup.folder + "/redis.sock";
  for (const auto& [name, is_pipelined] : variants) {
    if (!setup.Wants(name) || (setup.is_durable && is_pipelined)) continue;
    if (shared == nullptr) {
      std::vector<std::string> words = {
          "redis-server", "--port",      "0", "--unixsocket", socket, "--unixsocketperm",
          "700",          "--save",      "",  "--daemonize",  "no",   "--dir",
          setup.folder,   "--appendonly"};
      if (setup.is_durable) {
        // Never written anew in the background, in its favour: the run is shorter than the disk.
        for (const char* word :
             {"yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"}) {
          words.push_back(word);
        }
      } else {
        words.push_back("no");
      }
      auto server = ServerProcess::Start(std::move(words), socket, setup.folder + "/redis.log");
      if (!server.ok()) return server.status();
      shared = std::make_shared<ServerProcess>(*std::move(server));
    }
    systems->push_back(std::make_unique<RedisSystem>(name, is_pipelined, socket, shared));
  }
  return absl::OkStatus();
}

}  // namespace apta::peers
