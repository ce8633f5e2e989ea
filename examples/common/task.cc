#include "common/task.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>

namespace examples {

using apta::AsBytes;
using apta::AsText;
using nlohmann::json;

namespace {

std::int64_t NowNs() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// One call: lines of several threads do not mix (a pipe keeps up to PIPE_BUF bytes together).
absl::Status WriteLine(int fd, const Report& report) {
  const std::string line = json(report).dump() + "\n";
  if (write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    return absl::ErrnoToStatus(errno, "reporting to the runner");
  }
  return absl::OkStatus();
}

}  // namespace

Task::Task(apta::Invocation* invocation, const apta::FunctionHost* host, apta::Client* observer,
           std::string_view function, std::string_view node)
    : invocation_(*invocation), host_(*host), observer_(*observer) {
  report_.function = function;
  report_.node = node;
  report_.begin_ns = NowNs();
}

absl::StatusOr<apta::Object> Task::Get(const std::string& key) {
  const std::uint64_t hits = host_.stats().hits;
  const std::int64_t begin_ns = NowNs();
  absl::StatusOr<apta::Object> object = invocation_.Get(key);
  const std::int64_t end_ns = NowNs();
  report_.get_ns += end_ns - begin_ns;
  if (!object.ok()) return object;
  report_.accesses.push_back({"get", key, object->size(), begin_ns, end_ns});
  // The node has one worker thread, so nobody else gets meanwhile.
  ++(host_.stats().hits > hits ? report_.hits : report_.misses);
  got_[key] = object->version();
  return object;
}

void Task::Put(const std::string& key, std::string_view value) {
  const std::int64_t look_ns = NowNs();  // is no part of what the function does
  ++(IsSharedElsewhere(key) ? report_.invalidating_puts : report_.puts);
  const std::int64_t begin_ns = NowNs();
  invocation_.Put(key, AsBytes(value));
  const std::int64_t end_ns = NowNs();
  report_.put_ns += end_ns - begin_ns;
  report_.accesses.push_back({"put", key, value.size(), look_ns, end_ns});
}

bool Task::IsSharedElsewhere(const std::string& key) const {
  const absl::StatusOr<apta::ObjectInfo> current = observer_.Stat(key);
  if (!current.ok()) return false;  // a new object
  const auto own = got_.find(key);
  const bool is_own = own != got_.end() && own->second == current->version;
  return current->sharers > (is_own ? 1u : 0u);
}

Report Task::Finish() {
  report_.end_ns = NowNs();
  return report_;
}

absl::Status RunNode(const std::vector<const Application*>& applications, const std::string& socket,
                     const std::string& node, int report_fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  absl::StatusOr<apta::Client> client = apta::Client::Connect({.socket = socket, .node = node});
  if (!client.ok()) return client.status();
  absl::StatusOr<apta::Client> observer =
      apta::Client::Connect({.socket = socket, .node = node + "/observer"});
  if (!observer.ok()) return observer.status();
  absl::StatusOr<apta::FunctionHost> host = apta::FunctionHost::Create(*std::move(client));
  if (!host.ok()) return host.status();
  const auto run = [&](const Step& step, apta::Invocation& call) -> absl::StatusOr<apta::Bytes> {
    Task task(&call, &*host, &*observer, step.function, node);
    absl::StatusOr<json> result;
    try {
      result = step.body(task, json::parse(AsText(call.input())));
    } catch (const json::exception& error) {
      return absl::InvalidArgumentError(fmt::format("{}: {}", step.function, error.what()));
    }
    if (!result.ok()) return result.status();
    if (report_fd >= 0) {
      if (absl::Status told = WriteLine(report_fd, task.Finish()); !told.ok()) return told;
    }
    const std::string text = result->dump(-1, ' ', false, json::error_handler_t::replace);
    const apta::BytesView bytes = AsBytes(text);
    return apta::Bytes(bytes.begin(), bytes.end());
  };
  for (const Application* application : applications) {
    for (const Step& step : application->steps) {
      const absl::Status added = host->Register(
          step.function, [&run, &step](apta::Invocation& call) { return run(step, call); });
      if (!added.ok()) return added;
    }
  }
  return host->Run();
}

}  // namespace examples
