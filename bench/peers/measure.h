// One system's turn: its clients do what their sequences say for a while, and are timed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "bench/peers/dataset.h"
#include "bench/peers/peer.h"
#include "bench/peers/statistics.h"

namespace apta::peers {

struct Workload {
  std::string_view name;
  double put_share;  // 0 to 1
  Reader::Mode mode;
};
inline constexpr Workload kWorkloads[] = {{"get", 0, Reader::Mode::kFirstByte},
                                          {"read", 0, Reader::Mode::kAllBytes},
                                          {"put", 1, Reader::Mode::kFirstByte},
                                          {"mix", 0.05, Reader::Mode::kFirstByte}};

struct Turn {
  const Dataset* dataset = nullptr;
  const Workload* workload = nullptr;
  std::int64_t warm_ns = 0;   // before it is timed
  std::int64_t timed_ns = 0;  // then
  std::size_t position = 0;   // in the sequences
  std::uint32_t generation = 0;
  bool pipelined = false;     // gets and puts are under way together, and timed together
  std::size_t batch_ops = 1;  // that are timed together
};

struct ClientResult {
  std::vector<Sample> gets, puts;
  std::vector<Sample> mixed;  // pipelined ones with both kinds in them
  double timed_ns = 0;
  std::size_t end_position = 0;
  std::uint64_t sum = 0;
};

// One thread for each connection, or the caller's if there is one; they start together after the
// warm-up. DATA_LOSS: a get returned something of another size.
absl::Status TakeTurn(const Turn& turn, absl::Span<Connection* const> connections,
                      absl::Span<const Sequence> sequences, std::vector<ClientResult>* results);

// Reads what the sequence put last before `end`, and compares it. DATA_LOSS: it is not there.
absl::Status VerifyPuts(const Turn& turn, const Sequence& sequence, std::size_t end,
                        Connection* connection);

// Puts all objects, generation 0.
absl::Status Load(const Dataset& dataset, std::size_t batch_ops, Connection* connection);
// Reads all objects; kCompare: as they were loaded. DATA_LOSS: they are not there.
absl::Status ReadAll(const Dataset& dataset, std::size_t batch_ops, Reader::Mode mode,
                     Connection* connection);

}  // namespace apta::peers
