// The first workflow: reviews are read, scored, summarised and stored by functions on three compute
// servers (processes) that exchange objects through an embedded memory server.

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <thread>

#include "apta/apta.h"
#include "functions.h"

extern char** environ;

namespace {

using apta::AsBytes;
using apta::AsText;
using nlohmann::json;
using sentiment::ObjectKey;

constexpr std::array<const char*, 3> kNodes = {"reader", "scorer", "publisher"};
constexpr std::array<const char*, 4> kFunctions = {"readcsv", "sentimentAnalysis", "publishSNS",
                                                   "writeDB"};

struct Options {
  std::string input = APTA_EXAMPLE_DIR "/reviews.csv";
  std::string lexicon = APTA_EXAMPLE_DIR "/lexicon.txt";
  std::string socket;  // "" = embed a memory server
  std::string output;  // folder
  std::string worker;  // this process is a compute server of that name
  int repeat = 1;
};

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(fmt::format("{}: {}", path, strerror(errno)));
  }
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) return absl::DataLossError(fmt::format("{}: cannot be read", path));
  return text;
}

// A compute server: serves its functions until the memory server is gone.
absl::Status RunWorker(const Options& options) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  absl::StatusOr<apta::Client> client =
      apta::Client::Connect({.socket = options.socket, .node = options.worker});
  if (!client.ok()) return client.status();
  absl::StatusOr<apta::FunctionHost> host =
      apta::FunctionHost::Create(*std::move(client), /*threads=*/2);
  if (!host.ok()) return host.status();
  const absl::Status registered = sentiment::RegisterFunctions(options.worker, &*host);
  return registered.ok() ? host->Run() : registered;
}

// Three processes that run this binary with --worker; killed when we are done.
class Workers {
 public:
  absl::Status Start(const std::string& socket) {
    for (const char* node : kNodes) {
      std::vector<std::string> words = {"sentiment", "--worker", node, "--socket", socket};
      std::vector<char*> arguments;
      for (std::string& word : words) arguments.push_back(word.data());
      arguments.push_back(nullptr);
      pid_t pid;
      const int error =
          posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ);
      if (error != 0) return absl::ErrnoToStatus(error, "starting a compute server");
      pids_.push_back(pid);
    }
    return absl::OkStatus();
  }
  ~Workers() {
    for (const pid_t pid : pids_) kill(pid, SIGKILL);
    for (const pid_t pid : pids_) waitpid(pid, nullptr, 0);
  }
  // UNAVAILABLE when one of them has ended.
  absl::Status Check() const {
    for (std::size_t i = 0; i < pids_.size(); ++i) {
      siginfo_t ended{};
      waitid(P_PID, static_cast<id_t>(pids_[i]), &ended, WEXITED | WNOHANG | WNOWAIT);
      if (ended.si_pid != 0) {
        return absl::UnavailableError(fmt::format("compute server {} has ended", kNodes[i]));
      }
    }
    return absl::OkStatus();
  }

 private:
  std::vector<pid_t> pids_;
};

// Until each function is registered by some node.
absl::Status AwaitFunctions(const apta::Client& client, const Workers& workers) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < deadline) {
    if (absl::Status alive = workers.Check(); !alive.ok()) return alive;
    const absl::StatusOr<std::vector<apta::NodeInfo>> nodes = client.Nodes();
    if (!nodes.ok()) return nodes.status();
    std::size_t there = 0;
    for (const apta::NodeInfo& node : *nodes) {
      for (const char* function : kFunctions) {
        there += static_cast<std::size_t>(
            std::count(node.functions.begin(), node.functions.end(), function));
      }
    }
    if (there >= kFunctions.size()) return absl::OkStatus();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return absl::DeadlineExceededError("the compute servers did not register their functions");
}

// The workflow itself. Returns the functions' reports.
absl::StatusOr<std::vector<json>> RunOnce(apta::Client* client, const std::string& run) {
  std::vector<json> reports;
  const auto keep = [&](const absl::StatusOr<apta::Bytes>& result) {
    if (result.ok()) reports.push_back(json::parse(AsText(*result), nullptr, false));
    return result.status();
  };
  if (absl::Status s = keep(client->Call("readcsv", AsBytes(run))); !s.ok()) return s;
  if (absl::Status s = keep(client->Call("sentimentAnalysis", AsBytes(run))); !s.ok()) return s;
  absl::StatusOr<apta::Pending> publish = client->Start("publishSNS", AsBytes(run));
  absl::StatusOr<apta::Pending> write = client->Start("writeDB", AsBytes(run));
  if (!publish.ok()) return publish.status();
  if (!write.ok()) return write.status();
  if (absl::Status s = keep(publish->Wait()); !s.ok()) return s;
  if (absl::Status s = keep(write->Wait()); !s.ok()) return s;
  return reports;
}

void PrintSummary(const std::vector<json>& reports, const std::vector<apta::ObjectInfo>& objects,
                  const std::string& run, double total_ms, int repeat) {
  fmt::print("\nwhat ran where{}\n", repeat > 1 ? " (last run)" : "");
  fmt::print("  {:18} {:10} {:>8} {:>8} {:>6} {:>7}  {}\n", "function", "node", "pid", "ms", "hits",
             "misses", "objects");
  for (const json& report : reports) {
    std::string moved;
    for (const json& read : report["read"])
      moved += fmt::format("{} ", read["object"].get<std::string>());
    moved += "→";
    for (const json& written : report["written"]) {
      moved += fmt::format(" {}", written["object"].get<std::string>());
    }
    fmt::print("  {:18} {:10} {:>8} {:>8.2f} {:>6} {:>7}  {}\n",
               report["function"].get<std::string>(), report["node"].get<std::string>(),
               report["pid"].get<int>(), report["ms"].get<double>(), report["hits"].get<int>(),
               report["misses"].get<int>(), moved);
  }
  fmt::print("\nobjects of run {} (read in place, never copied by their readers)\n", run);
  fmt::print("  {:40} {:>12} {:>9} {:>8}\n", "key", "bytes", "version", "sharers");
  for (const apta::ObjectInfo& object : objects) {
    fmt::print("  {:40} {:>12} {:>9} {:>8}\n", object.key, object.size, object.version,
               object.sharers);
  }
  fmt::print("\n{} run{} of 4 functions on 3 compute servers: {:.2f} ms", repeat,
             repeat > 1 ? "s" : "", total_ms);
  fmt::print("{}\n", repeat > 1 ? fmt::format(", {:.2f} ms each", total_ms / repeat) : "");
}

absl::Status WriteFile(const std::string& folder, const char* name, std::string_view text) {
  std::ofstream file(folder + "/" + name, std::ios::binary);
  file << text;
  file.close();
  return file ? absl::OkStatus()
              : absl::UnknownError(fmt::format("{}/{}: cannot be written", folder, name));
}

absl::Status Drive(const Options& options, const std::string& socket) {
  const absl::StatusOr<std::string> csv = ReadFile(options.input);
  if (!csv.ok()) return csv.status();
  const absl::StatusOr<std::string> lexicon = ReadFile(options.lexicon);
  if (!lexicon.ok()) return lexicon.status();
  absl::StatusOr<apta::Client> client =
      apta::Client::Connect({.socket = socket, .node = fmt::format("driver/{}", getpid())});
  if (!client.ok()) return client.status();
  Workers workers;
  if (absl::Status started = workers.Start(socket); !started.ok()) return started;
  if (absl::Status there = AwaitFunctions(*client, workers); !there.ok()) return there;

  std::vector<json> reports;
  std::string run;
  const auto began = std::chrono::steady_clock::now();
  for (int i = 1; i <= options.repeat; ++i) {
    run = fmt::format("{}-{}", getpid(), i);
    const auto csv_version = client->Put(ObjectKey(run, sentiment::kCsv), AsBytes(*csv));
    if (!csv_version.ok()) return csv_version.status();
    const auto lexicon_version =
        client->Put(ObjectKey(run, sentiment::kLexicon), AsBytes(*lexicon));
    if (!lexicon_version.ok()) return lexicon_version.status();
    absl::StatusOr<std::vector<json>> ran = RunOnce(&*client, run);
    if (!ran.ok()) return ran.status();
    reports = *std::move(ran);
    for (const char* name : {sentiment::kCsv, sentiment::kLexicon, sentiment::kReviews,
                             sentiment::kScores, sentiment::kNotification, sentiment::kResults}) {
      if (i == options.repeat) break;  // the last run's objects are shown
      [[maybe_unused]] const auto deleted = client->Delete(ObjectKey(run, name));
    }
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;

  const absl::StatusOr<apta::Object> notification =
      client->Get(ObjectKey(run, sentiment::kNotification));
  if (!notification.ok()) return notification.status();
  const absl::StatusOr<apta::Object> results = client->Get(ObjectKey(run, sentiment::kResults));
  if (!results.ok()) return results.status();
  fmt::print("{}", AsText(notification->bytes()));
  const absl::StatusOr<std::vector<apta::ObjectInfo>> objects =
      client->List(ObjectKey(run, ""), 100);
  if (!objects.ok()) return objects.status();
  PrintSummary(reports, *objects, run, took.count(), options.repeat);
  if (options.output.empty()) return absl::OkStatus();
  std::error_code error;
  std::filesystem::create_directories(options.output, error);
  if (absl::Status s = WriteFile(options.output, "summary.txt", AsText(notification->bytes()));
      !s.ok()) {
    return s;
  }
  return WriteFile(options.output, "results.csv", AsText(results->bytes()));
}

absl::Status Run(const Options& options) {
  if (!options.worker.empty()) return RunWorker(options);
  if (!options.socket.empty()) return Drive(options, options.socket);
  // A memory server of our own, at a socket that nobody else knows.
  std::string folder = std::filesystem::temp_directory_path() / "apta-sentiment-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return absl::ErrnoToStatus(errno, folder);
  apta::ServerOptions server_options;
  server_options.socket = folder + "/aptad.sock";
  server_options.pools[0].bytes = 256 << 20;
  absl::Status done;
  {
    const absl::StatusOr<apta::MemoryServer> server = apta::MemoryServer::Start(server_options);
    done = server.ok() ? Drive(options, server->socket()) : server.status();
  }
  std::error_code error;
  std::filesystem::remove_all(folder, error);
  return done;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("The sentiment workflow: functions in three processes exchange real objects.");
  app.add_option("--input", options.input, "reviews as CSV")->capture_default_str();
  app.add_option("--lexicon", options.lexicon, "word<TAB>valence lines")->capture_default_str();
  app.add_option("--output", options.output, "folder for summary.txt and results.csv");
  app.add_option("--repeat", options.repeat, "how many runs")->check(CLI::Range(1, 1'000'000));
  app.add_option("--socket", options.socket, "a running memory server; otherwise one is embedded");
  app.add_option("--worker", options.worker)->group("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::Status done = Run(options);
  if (done.ok()) return 0;
  fmt::print(stderr, "sentiment: {}\n", done.ToString(absl::StatusToStringMode::kWithNoExtraData));
  return 1;
}
