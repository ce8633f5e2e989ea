#include "bench/peers/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "bench/peers/measure.h"

namespace apta::peers {
namespace {

absl::Status Named(const System& system, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      fmt::format("{}: {}", system.name(), std::string(status.message())));
}

// One system, and its clients.
struct Contender {
  System* system = nullptr;
  std::vector<std::unique_ptr<Connection>> owned;
  std::vector<Connection*> connections;
};

// What one system did in one cell.
struct Showing {
  Turn turn;
  Rounds gets, puts, all;

  void Add(const std::vector<ClientResult>& results) {
    std::vector<Sample> round_gets, round_puts, round_all;
    double gets_per_s = 0, puts_per_s = 0, mixed_per_s = 0;
    for (const ClientResult& result : results) {
      const auto append = [&](const std::vector<Sample>& from, std::vector<Sample>* to,
                              double* rate) {
        double ops = 0;
        for (const Sample& sample : from) ops += sample.ops;
        *rate += ops / result.timed_ns * 1e9;
        if (to != nullptr) to->insert(to->end(), from.begin(), from.end());
        round_all.insert(round_all.end(), from.begin(), from.end());
      };
      append(result.gets, &round_gets, &gets_per_s);
      append(result.puts, &round_puts, &puts_per_s);
      append(result.mixed, nullptr, &mixed_per_s);
    }
    gets.Add(std::move(round_gets), gets_per_s);
    puts.Add(std::move(round_puts), puts_per_s);
    all.Add(std::move(round_all), gets_per_s + puts_per_s + mixed_per_s);
  }
};

class Runner {
 public:
  Runner(const RunOptions& options, const Systems& systems, const std::atomic<bool>& stop,
         Report* report)
      : options_(options), systems_(systems), stop_(stop), report_(report) {}

  absl::Status RunSize(const SizeClass& size) {
    if (size.value_bytes != 0) {
      const std::vector<std::uint32_t> sizes(size.key_count, size.value_bytes);
      return RunDataset(Dataset(size.label, sizes), options_.popularities);
    }
    // Who is popular decides which sizes are accessed: a dataset for each.
    for (const Popularity popularity : options_.popularities) {
      const std::vector<double> shares = AccessShares(popularity, size.key_count);
      auto sizes = AzureSizes(shares);
      if (!sizes.ok()) return sizes.status();
      const SizeMoments moments = MomentsOf(*sizes, shares);
      Print(
          "\nazure, {}: accesses see a median of {:.0f} B, {:.1f} % below 12 KB, a mean of"
          " {:.1f} kB\n",
          NameOf(popularity), moments.median_bytes, moments.share_below_12kb * 100,
          moments.mean_bytes / 1e3);
      const absl::Status status = RunDataset(Dataset(size.label, *std::move(sizes)), {popularity});
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status RunDataset(const Dataset& dataset, const std::vector<Popularity>& popularities) {
    const std::vector<std::string_view> keys = dataset.keys();
    for (const auto& system : systems_) {
      const absl::Status status = Named(*system, Fill(dataset, system.get()));
      if (!status.ok()) return status;
    }
    for (const int clients : options_.clients) {
      const absl::Status status = RunClients(dataset, popularities, clients);
      if (!status.ok()) return status;
    }
    for (const auto& system : systems_) {
      const absl::Status status = Named(*system, system->Empty(keys));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status Fill(const Dataset& dataset, System* system) {
    absl::Status status = system->Empty(dataset.keys());
    if (!status.ok()) return status;
    auto connection = system->Connect();
    if (!connection.ok()) return connection.status();
    const std::size_t depth = DepthOf(*system, dataset);
    status = Load(dataset, depth, connection->get());
    if (status.ok()) status = system->Loaded();
    if (status.ok()) {
      status = ReadAll(dataset, depth, Reader::Mode::kCompare, connection->get());
    }
    system->Settle();
    return status;
  }

  // Under way together: as many as asked for, while they are about 4 MiB at most.
  std::size_t DepthOf(const System& system, const Dataset& dataset) const {
    constexpr std::size_t kMostBytes = 4 << 20;
    if (!system.is_pipelined()) return 1;
    return std::clamp<std::size_t>(kMostBytes / dataset.mean_bytes(), 2, options_.depth);
  }

  absl::Status RunClients(const Dataset& dataset, const std::vector<Popularity>& popularities,
                          int clients) {
    std::vector<Contender> contenders(systems_.size());
    for (std::size_t i = 0; i < systems_.size(); ++i) {
      contenders[i].system = systems_[i].get();
      const absl::Status status = Named(*systems_[i], Open(dataset, clients, &contenders[i]));
      if (!status.ok()) return status;
    }
    for (const Popularity popularity : popularities) {
      const absl::Status status = RunBlock(dataset, popularity, contenders);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // Each client has read everything once: where there are caches, they are warm.
  absl::Status Open(const Dataset& dataset, int clients, Contender* contender) {
    for (int i = 0; i < clients; ++i) {
      auto connection = contender->system->Connect();
      if (!connection.ok()) return connection.status();
      const absl::Status status = ReadAll(dataset, DepthOf(*contender->system, dataset),
                                          Reader::Mode::kFirstByte, connection->get());
      if (!status.ok()) return status;
      contender->connections.push_back(connection->get());
      contender->owned.push_back(*std::move(connection));
    }
    return absl::OkStatus();
  }

  // All workloads of a size, a popularity and a number of clients: a block of the table.
  absl::Status RunBlock(const Dataset& dataset, Popularity popularity,
                        const std::vector<Contender>& contenders) {
    const std::vector<double> shares = AccessShares(popularity, dataset.size());
    const std::size_t clients = contenders[0].connections.size();
    for (const Workload& workload : kWorkloads) {
      if (std::ranges::find(options_.workloads, workload.name) == options_.workloads.end()) {
        continue;
      }
      std::vector<Sequence> sequences;
      for (std::size_t i = 0; i < clients; ++i) {
        const auto seed = static_cast<std::uint32_t>(100 + i);
        sequences.push_back(MakeSequence(shares, workload.put_share, seed));
        if (dataset.label() != "azure") continue;
        const absl::Status status = CheckAzureAccesses(sequences.back(), dataset.sizes());
        if (!status.ok()) return status;
      }
      const absl::Status status = RunCell(dataset, popularity, workload, sequences, contenders);
      if (!status.ok()) return status;
    }
    std::vector<std::string_view> columns;
    for (const std::string& name : options_.workloads) columns.push_back(name);
    report_->PrintBlock(fmt::format("{}, {} keys, {}, {} client{}", dataset.label(), dataset.size(),
                                    NameOf(popularity), clients, clients > 1 ? "s" : ""),
                        columns);
    return absl::OkStatus();
  }

  absl::Status RunCell(const Dataset& dataset, Popularity popularity, const Workload& workload,
                       const std::vector<Sequence>& sequences,
                       const std::vector<Contender>& contenders) {
    std::vector<Showing> showings(contenders.size());
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      showings[i].turn = Prepare(dataset, workload, *contenders[i].system);
    }
    for (int round = 0; round < options_.rounds; ++round) {
      for (std::size_t i = 0; i < contenders.size(); ++i) {
        if (stop_.load()) return absl::CancelledError("interrupted");
        const absl::Status status =
            Named(*contenders[i].system, RunTurn(round, sequences, contenders[i], &showings[i]));
        if (!status.ok()) return status;
      }
    }
    std::vector<Record> records;
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      Record cell = {.system = contenders[i].system->name(),
                     .workload = std::string(workload.name),
                     .size = dataset.label(),
                     .distribution = std::string(NameOf(popularity)),
                     .clients = static_cast<int>(sequences.size()),
                     .batch_ops = showings[i].turn.batch_ops,
                     .pipelined = showings[i].turn.pipelined};
      Append(showings[i].gets, "get", cell, &records);
      Append(showings[i].puts, "put", cell, &records);
      const bool is_mix = workload.put_share > 0 && workload.put_share < 1;
      if (is_mix) Append(showings[i].all, "all", cell, &records);
    }
    report_->Add(std::move(records));
    return absl::OkStatus();
  }

  static void Append(const Rounds& rounds, std::string op, const Record& record,
                     std::vector<Record>* records) {
    if (rounds.medians_ns.empty()) return;
    records->push_back(MakeRecord(record, std::move(op), rounds));
  }

  Turn Prepare(const Dataset& dataset, const Workload& workload, const System& system) const {
    Turn turn = {.dataset = &dataset,
                 .workload = &workload,
                 .warm_ns = options_.warm_ns,
                 .timed_ns = options_.turn_ns,
                 .pipelined = system.is_pipelined(),
                 .batch_ops = DepthOf(system, dataset)};
    // The mean over operations that are not alike has another median than they have.
    const bool is_mix = workload.put_share > 0 && workload.put_share < 1;
    const bool are_alike = !is_mix && dataset.min_bytes() == dataset.max_bytes();
    if (!turn.pipelined && are_alike) turn.batch_ops = options_.batch;
    return turn;
  }

  absl::Status RunTurn(int round, const std::vector<Sequence>& sequences,
                       const Contender& contender, Showing* showing) {
    Turn& turn = showing->turn;
    turn.generation = ++generation_;
    turn.position = static_cast<std::size_t>(round) * (Sequence::kSteps / 7);
    std::vector<ClientResult> results;
    absl::Status status = TakeTurn(turn, contender.connections, sequences, &results);
    for (std::size_t i = 0; status.ok() && i < results.size(); ++i) {
      // By another client, where there is one.
      Connection* const reader = contender.connections[(i + 1) % results.size()];
      status = VerifyPuts(turn, sequences[i], results[i].end_position, reader);
    }
    contender.system->Settle();
    if (status.ok()) showing->Add(results);
    return status;
  }

  const RunOptions& options_;
  const Systems& systems_;
  const std::atomic<bool>& stop_;
  Report* report_;
  std::uint32_t generation_ = 0;
};

}  // namespace

absl::Status RunAll(const RunOptions& options, const Systems& systems,
                    const std::atomic<bool>& stop, Report* report) {
  Runner runner(options, systems, stop, report);
  for (const SizeClass& size : options.sizes) {
    const absl::Status status = runner.RunSize(size);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace apta::peers
