#include "bench/peers/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <barrier>
#include <thread>

namespace apta::peers {
namespace {

// Copies of the keys in use, in the nearest cache: a caller has just made its key.
using KeyTexts = std::vector<std::array<char, Dataset::kKeyBytes>>;

// The operations of the next sample.
void NextBatch(const Turn& turn, const Sequence& sequence, std::size_t* position, KeyTexts* keys,
               std::vector<Op>* ops) {
  keys->resize(turn.batch_ops);
  ops->clear();
  for (auto& key : *keys) {
    const Sequence::Step& step = sequence.at((*position)++);
    Op op = step.is_put != 0 ? turn.dataset->Put(step.key, turn.generation)
                             : turn.dataset->Get(step.key, turn.generation);
    std::ranges::copy(op.key, key.begin());
    op.key = {key.data(), key.size()};
    ops->push_back(op);
  }
}

class TimedClient {
 public:
  TimedClient(const Turn& turn, const Sequence& sequence, Connection* connection)
      : turn_(turn),
        sequence_(sequence),
        connection_(connection),
        position_(turn.position),
        reader_(turn.workload->mode) {}

  absl::Status WarmUp() {
    const std::int64_t end = NowNs() + turn_.warm_ns;
    do {
      NextBatch(turn_, sequence_, &position_, &keys_, &ops_);
      const absl::Status status = connection_->Execute(ops_, &reader_);
      if (!status.ok()) return status;
    } while (NowNs() < end);
    return absl::OkStatus();
  }

  absl::Status Run(ClientResult* result) {
    const double put_share = turn_.workload->put_share;
    const bool is_mixed = turn_.pipelined && put_share > 0 && put_share < 1;
    const double clock_ns = TheClock().cost_ns;
    const std::int64_t end = NowNs() + turn_.timed_ns;
    std::int64_t ended = 0;
    while (ended < end) {
      NextBatch(turn_, sequence_, &position_, &keys_, &ops_);
      const std::int64_t began = NowNs();
      const absl::Status status = connection_->Execute(ops_, &reader_);
      ended = NowNs();
      if (!status.ok()) return status;
      const double ns = std::max(static_cast<double>(ended - began) - clock_ns, 0.1);
      result->timed_ns += ns;
      std::vector<Sample>& samples = is_mixed         ? result->mixed
                                     : ops_[0].is_put ? result->puts
                                                      : result->gets;
      samples.push_back({static_cast<float>(ns / static_cast<double>(ops_.size())),
                         static_cast<std::uint32_t>(ops_.size())});
    }
    result->end_position = position_;
    result->sum = reader_.sum();
    return Faults();
  }

 private:
  absl::Status Faults() const {
    if (reader_.faults() == 0) return absl::OkStatus();
    return absl::DataLossError(
        fmt::format("{} of {} gets returned another size", reader_.faults(), reader_.taken()));
  }

  const Turn& turn_;
  const Sequence& sequence_;
  Connection* connection_;
  std::size_t position_;
  Reader reader_;
  KeyTexts keys_;
  std::vector<Op> ops_;
};

absl::Status ReadBack(absl::Span<const Op> ops, std::size_t batch_ops, Reader::Mode mode,
                      Connection* connection) {
  Reader reader(mode);
  for (std::size_t at = 0; at < ops.size(); at += batch_ops) {
    const absl::Status status = connection->Execute(ops.subspan(at, batch_ops), &reader);
    if (!status.ok()) return status;
  }
  if (reader.faults() == 0 && reader.taken() == ops.size()) return absl::OkStatus();
  return absl::DataLossError(fmt::format("of {} objects {} were read and {} were not as put",
                                         ops.size(), reader.taken(), reader.faults()));
}

}  // namespace

absl::Status TakeTurn(const Turn& turn, absl::Span<Connection* const> connections,
                      absl::Span<const Sequence> sequences, std::vector<ClientResult>* results) {
  results->assign(connections.size(), {});
  std::vector<absl::Status> statuses(connections.size());
  std::barrier together(static_cast<std::ptrdiff_t>(connections.size()));
  const auto run = [&](std::size_t i) {
    TimedClient client(turn, sequences[i], connections[i]);
    const absl::Status warmed = client.WarmUp();
    together.arrive_and_wait();
    statuses[i] = warmed.ok() ? client.Run(&(*results)[i]) : warmed;
  };
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < connections.size(); ++i) threads.emplace_back(run, i);
  run(0);
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status VerifyPuts(const Turn& turn, const Sequence& sequence, std::size_t end,
                        Connection* connection) {
  constexpr std::size_t kMostOps = 64, kMostBytes = 8 << 20;
  std::vector<Op> ops;
  std::size_t bytes = 0;
  for (std::size_t at = end; at > turn.position && ops.size() < kMostOps && bytes < kMostBytes;) {
    const Sequence::Step& step = sequence.at(--at);
    if (step.is_put == 0) continue;
    ops.push_back(turn.dataset->Get(step.key, turn.generation));
    bytes += ops.back().value.size();
  }
  return ReadBack(ops, turn.batch_ops, Reader::Mode::kCompare, connection);
}

absl::Status Load(const Dataset& dataset, std::size_t batch_ops, Connection* connection) {
  Reader reader(Reader::Mode::kFirstByte);
  std::vector<Op> ops;
  for (std::uint32_t key = 0; key < dataset.size();) {
    ops.clear();
    while (key < dataset.size() && ops.size() < batch_ops) ops.push_back(dataset.Put(key++, 0));
    const absl::Status status = connection->Execute(ops, &reader);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ReadAll(const Dataset& dataset, std::size_t batch_ops, Reader::Mode mode,
                     Connection* connection) {
  std::vector<Op> ops;
  for (std::uint32_t key = 0; key < dataset.size(); ++key) ops.push_back(dataset.Get(key, 0));
  return ReadBack(ops, batch_ops, mode, connection);
}

}  // namespace apta::peers
