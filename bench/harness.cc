#include "harness.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "measure.h"
#include "population.h"
#include "temporary_folder.h"

extern char** environ;

namespace apta::bench {

// --- processes

void Die(const absl::Status& status) {
  fmt::print(stderr, "{}\n", status.ToString());
  std::exit(1);
}

Process::Process(std::string_view role, const std::vector<std::string>& words, Cores cores) {
  std::vector<std::string> all = {"bench", "--role", std::string(role), std::to_string(getpid())};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<char*> arguments;
  for (std::string& word : all) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  // The child inherits where it may run.
  cpu_set_t before;
  sched_getaffinity(0, sizeof(before), &before);
  UseCores(cores);
  const int error =
      posix_spawn(&pid_, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ);
  sched_setaffinity(0, sizeof(before), &before);
  if (error != 0) Die(absl::ErrnoToStatus(error, "posix_spawn"));
}

Process::~Process() { End(SIGKILL); }

void Process::End(int signal_number) {
  if (pid_ <= 0) return;
  kill(pid_, signal_number);
  waitpid(std::exchange(pid_, -1), nullptr, 0);
}

void Process::Signal(int signal_number, int wait_until) {
  kill(pid_, signal_number);
  waitpid(pid_, nullptr, wait_until);
}

bool Process::has_ended() const {
  siginfo_t ended{};
  const auto id = static_cast<id_t>(pid_);
  return waitid(P_PID, id, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == pid_;
}

SharedBytes::SharedBytes(std::uint64_t bytes) : SharedBytes(memfd_create("bench", 0), bytes) {}

SharedBytes::SharedBytes(int fd, std::uint64_t bytes) : fd_(fd), bytes_(bytes) {
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) Die(absl::InternalError("no shared memory"));
  data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (data_ == MAP_FAILED) Die(absl::InternalError("no shared memory"));
}

SharedBytes::~SharedBytes() {
  munmap(data_, bytes_);
  close(fd_);
}

// --- the memory server

namespace {

std::optional<TemporaryFolder> g_folder;  // from MakeRunFolder to DropRunFolder

nlohmann::json ToJson(const PoolOptions& pool) {
  return {{"name", pool.name},
          {"bytes", pool.bytes},
          {"backing", pool.backing},
          {"coherence", pool.coherence},
          {"access", pool.access},
          {"durability", pool.durability},
          {"log", pool.log},
          {"recovery_ms", pool.recovery_target_ms},
          {"directory_entries", pool.directory_entries},
          {"ack_ms", pool.ack_deadline_ms}};
}

PoolOptions FromJson(const nlohmann::json& json) {
  PoolOptions pool;
  json.at("name").get_to(pool.name);
  json.at("bytes").get_to(pool.bytes);
  json.at("backing").get_to(pool.backing);
  json.at("coherence").get_to(pool.coherence);
  json.at("access").get_to(pool.access);
  json.at("durability").get_to(pool.durability);
  json.at("log").get_to(pool.log);
  json.at("recovery_ms").get_to(pool.recovery_target_ms);
  json.at("directory_entries").get_to(pool.directory_entries);
  json.at("ack_ms").get_to(pool.ack_deadline_ms);
  return pool;
}

}  // namespace

const std::string& RunFolder() { return g_folder->path(); }

absl::Status MakeRunFolder() {
  std::error_code error;
  const std::string parent = std::filesystem::temp_directory_path(error);
  if (error) return absl::NotFoundError(fmt::format("TMPDIR: {}", error.message()));
  absl::StatusOr<TemporaryFolder> made = TemporaryFolder::Create(parent, "apta-bench");
  if (!made.ok()) return made.status();
  g_folder.emplace(*std::move(made));
  return absl::OkStatus();
}

void DropRunFolder() { g_folder.reset(); }

int RunServer(const std::vector<std::string>& words) {
  ServerOptions options{.socket = words[0], .shards = std::stoi(words[1])};
  const absl::StatusOr<LinkOptions> link = LinkOptions::Parse(words[2]);
  if (!link.ok()) Die(link.status());
  options.link = *link;
  options.pools.clear();
  for (const auto& pool : nlohmann::json::parse(words[4])) options.pools.push_back(FromJson(pool));
  const absl::StatusOr<MemoryServer> server = MemoryServer::Start(options);
  if (!server.ok()) Die(server.status());
  const int ready_fd = std::stoi(words[3]);
  (void)!write(ready_fd, "x", 1);
  close(ready_fd);
  pause();
  return 0;
}

Server::Server(const std::vector<PoolOptions>& pools, int shards, const std::string& link) {
  static int servers = 0;
  socket_ = fmt::format("{}/aptad-{}.sock", RunFolder(), ++servers);
  nlohmann::json all = nlohmann::json::array();
  for (const PoolOptions& pool : pools) all.push_back(ToJson(pool));
  int ready[2];
  if (pipe(ready) != 0) Die(absl::ErrnoToStatus(errno, "pipe"));
  fcntl(ready[0], F_SETFD, FD_CLOEXEC);
  const std::vector<std::string> words = {socket_, std::to_string(shards), link,
                                          std::to_string(ready[1]), all.dump()};
  // Several shards share what cores there are.
  process_ = std::make_unique<Process>("server", words, shards == 1 ? Cores::kHomes : Cores::kAll);
  close(ready[1]);
  char byte;
  const bool serves = read(ready[0], &byte, 1) == 1;
  close(ready[0]);
  if (!serves) Die(absl::UnavailableError("the memory server did not start"));
  const absl::Status populated = AwaitPopulation(Connect(socket_, "bench", pools[0].name));
  if (!populated.ok()) Die(populated);
}

Server::~Server() { process_->End(SIGTERM); }

std::uint64_t MappedBytes(pid_t pid, std::string_view field, std::string_view path) {
  std::ifstream smaps(fmt::format("/proc/{}/smaps", pid));
  const std::string wanted = fmt::format("{}:", field);
  std::uint64_t kilobytes = 0;
  bool is_ours = false;
  for (std::string line; std::getline(smaps, line);) {
    // "7f…-7f… rw-s …" begins a mapping, "Rss:   12 kB" says something of it.
    const bool begins = line.find(':') > line.find(' ');
    if (begins) is_ours = line.find(path) != std::string::npos;
    if (!begins && is_ours && line.starts_with(wanted)) {
      kilobytes += std::stoull(line.substr(wanted.size()));
    }
  }
  return kilobytes << 10;
}

Client Connect(ClientOptions options) {
  absl::StatusOr<Client> client = Client::Connect(options);
  if (!client.ok()) Die(client.status());
  return *std::move(client);
}

bool GetUntilHit(Client* client, std::string_view key) {
  for (const auto began = Clock::now(); NsSince(began) < 10e9;) {
    const std::uint64_t hits = client->stats().hits;
    if (!client->Get(key).ok()) return false;
    if (client->stats().hits > hits) return true;
  }
  return false;
}

PoolInfo PoolOf(const Client& client, std::string_view pool) {
  const absl::StatusOr<std::vector<PoolInfo>> pools = client.Pools();
  if (!pools.ok()) Die(pools.status());
  for (const PoolInfo& info : *pools) {
    if (info.name == pool) return info;
  }
  Die(absl::NotFoundError(fmt::format("pool {}", pool)));
}

std::string Key(std::string_view kind, std::uint64_t number) {
  return fmt::format("{:-<16}{:->16}", kind, number);
}

}  // namespace apta::bench
