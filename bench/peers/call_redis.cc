// Redis lists as a queue: the caller pushes its input to the function's list and waits for its own,
// the function's process the other way round. Each side sends its two commands in one write.
#include <fmt/format.h>
#include <hiredis/hiredis.h>

#include <utility>

#include "bench/peers/call_peer.h"
#include "bench/peers/process.h"

namespace apta::peers {
namespace {

constexpr std::string_view kCalls = "calls";
constexpr std::string_view kResults = "results";

struct FreeContext {
  void operator()(redisContext* context) const { redisFree(context); }
};
struct FreeReply {
  void operator()(void* reply) const { freeReplyObject(reply); }
};

class Queue {
 public:
  explicit Queue(const std::string& socket) : context_(redisConnectUnix(socket.c_str())) {}
  bool is_open() const { return context_ != nullptr && context_->err == 0; }

  // Both commands are sent by the first wait for a reply.
  absl::Status Push(std::string_view list, std::string_view value) {
    const char* words[] = {"RPUSH", list.data(), value.data()};
    const std::size_t bytes[] = {5, list.size(), value.size()};
    if (redisAppendCommandArgv(context_.get(), 3, words, bytes) != REDIS_OK) return Fault("RPUSH");
    ++unanswered_;
    return absl::OkStatus();
  }
  // Waits for ever.
  absl::Status Pop(std::string_view list, std::string* value) {
    const char* words[] = {"BLPOP", list.data(), "0"};
    const std::size_t bytes[] = {5, list.size(), 1};
    if (redisAppendCommandArgv(context_.get(), 3, words, bytes) != REDIS_OK) return Fault("BLPOP");
    for (; unanswered_ > 0; --unanswered_) {
      const Reply pushed = Next();
      if (pushed == nullptr || pushed->type != REDIS_REPLY_INTEGER) return Fault("RPUSH");
    }
    const Reply popped = Next();
    if (popped == nullptr || popped->type != REDIS_REPLY_ARRAY || popped->elements != 2) {
      return Fault("BLPOP");
    }
    value->assign(popped->element[1]->str, static_cast<std::size_t>(popped->element[1]->len));
    return absl::OkStatus();
  }

 private:
  using Reply = std::unique_ptr<redisReply, FreeReply>;
  Reply Next() {
    void* raw = nullptr;
    if (redisGetReply(context_.get(), &raw) != REDIS_OK) return nullptr;
    return Reply(static_cast<redisReply*>(raw));
  }
  absl::Status Fault(std::string_view what) const {
    return absl::UnavailableError(fmt::format("redis: {}: {}", what, context_->errstr));
  }

  std::unique_ptr<redisContext, FreeContext> context_;
  int unanswered_ = 0;  // pushes
};

class RedisCaller : public Caller {
 public:
  RedisCaller(ServerProcess server, ServerProcess worker, Queue queue)
      : server_(std::move(server)), worker_(std::move(worker)), queue_(std::move(queue)) {}

  absl::Status Call(std::string_view input, std::string* output) override {
    const absl::Status pushed = queue_.Push(kCalls, input);
    return pushed.ok() ? queue_.Pop(kResults, output) : pushed;
  }

 private:
  ServerProcess server_, worker_;
  Queue queue_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Caller>> StartRedisCalls(const CallSetup& setup) {
  const std::string socket = setup.folder + "/calls-redis.sock";
  auto server = ServerProcess::Start(
      {"redis-server", "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700", "--save",
       "", "--appendonly", "no", "--daemonize", "no", "--dir", setup.folder},
      socket, setup.folder + "/calls-redis.log");
  if (!server.ok()) return server.status();
  // As Āpta's host: anywhere.
  auto worker = ServerProcess::Start({setup.self, "--serve", "redis-lists", socket}, socket,
                                     setup.folder + "/worker.log", bench::Cores::kAll);
  if (!worker.ok()) return worker.status();
  Queue queue(socket);
  if (!queue.is_open()) {
    return absl::UnavailableError(fmt::format("redis: cannot connect to {}", socket));
  }
  return std::make_unique<RedisCaller>(*std::move(server), *std::move(worker), std::move(queue));
}

absl::Status ServeRedis(const std::string& socket) {
  Queue queue(socket);
  if (!queue.is_open()) {
    return absl::UnavailableError(fmt::format("redis: cannot connect to {}", socket));
  }
  std::string input;
  absl::Status status = queue.Pop(kCalls, &input);
  while (status.ok()) {
    status = queue.Push(kResults, input);
    if (status.ok()) status = queue.Pop(kCalls, &input);
  }
  return status;
}

}  // namespace apta::peers
