#include "common/serve.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "common/crew.h"
#include "common/stage.h"

namespace examples {

namespace {

absl::StatusOr<nlohmann::json> PutInput(apta::Client& client, const Application& application,
                                        const InputOptions& options) {
  absl::StatusOr<Input> input = application.make_input(options);
  if (!input.ok()) return input.status();
  for (const auto& [key, value] : input->objects) {
    const absl::StatusOr<apta::Version> put = client.Put(key, apta::AsBytes(value));
    if (!put.ok()) return put.status();
  }
  return std::move(input->json);
}

}  // namespace

absl::Status Serve(const std::vector<const Application*>& applications, const std::string& socket,
                   const std::string& data, const std::string& variant) {
  // Before any thread is started: whoever has them blocked leaves them to sigwait.
  sigset_t ends;
  sigemptyset(&ends);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&ends, signal);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  const absl::StatusOr<Stage> stage = Stage::Open(socket);
  if (!stage.ok()) return stage.status();
  absl::StatusOr<apta::Client> client = apta::Client::Connect(
      {.socket = stage->socket(), .node = fmt::format("driver/{}", getpid())});
  if (!client.ok()) return client.status();
  Crew crew;
  const absl::Status started =
      crew.Start(applications, stage->socket(), *client, Crew::Reports::kNone);
  if (!started.ok()) return started;
  std::string commands;
  for (const Application* application : applications) {
    const auto& known = application->variants;
    const bool has_variant = std::find(known.begin(), known.end(), variant) != known.end();
    const absl::StatusOr<nlohmann::json> input = PutInput(*client, *application,
                                                          {.data = data,
                                                           .variant = has_variant ? variant : "",
                                                           .run = application->name + "/input",
                                                           .scratch = stage->scratch()});
    if (!input.ok()) return input.status();
    commands +=
        fmt::format("  apta run {}/workflow.json '{}'\n", application->folder, input->dump());
  }
  fmt::print(
      "c1, c2 and c3 serve until this is interrupted. In another shell:\n\n"
      "  export APTA_SOCKET={}\n{}",
      stage->socket(), commands);
  std::fflush(stdout);
  for (int signal = 0; sigwait(&ends, &signal) == 0;) {
    if (signal != SIGCHLD) return absl::OkStatus();
    if (absl::Status alive = crew.Check(); !alive.ok()) return alive;
  }
  return absl::OkStatus();
}

}  // namespace examples
