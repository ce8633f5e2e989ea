// A running function as the applications see it: objects by key, timed and counted.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "apta/apta.h"
#include "common/application.h"

namespace examples {

// A get or a put of an invocation, for --record.
struct Access {
  std::string what;  // get | put
  std::string key;
  std::uint64_t bytes = 0;
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Access, what, key, bytes, begin_ns, end_ns)

// What one invocation did. Times of one machine's steady clock: comparable between processes.
struct Report {
  std::string function;
  std::string node;
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;
  std::int64_t get_ns = 0;
  std::int64_t put_ns = 0;
  int hits = 0;
  int misses = 0;
  int puts = 0;               // without invalidation
  int invalidating_puts = 0;  // other nodes shared the version that was replaced
  std::vector<Access> accesses;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Report, function, node, begin_ns, end_ns, get_ns, put_ns, hits,
                                   misses, puts, invalidating_puts, accesses)

class Task {
 public:
  // `observer` is another client of the same memory server: it looks at sharers and shares nothing.
  Task(apta::Invocation* invocation, const apta::FunctionHost* host, apta::Client* observer,
       std::string_view function, std::string_view node);

  absl::StatusOr<apta::Object> Get(const std::string& key);
  void Put(const std::string& key, std::string_view value);
  Report Finish();

 private:
  bool IsSharedElsewhere(const std::string& key) const;

  apta::Invocation& invocation_;
  const apta::FunctionHost& host_;
  apta::Client& observer_;
  Report report_;
  std::map<std::string, apta::Version> got_;
};

// This process is compute server `node` of the applications until the memory server is gone. Writes
// a line of JSON (Report) to `report_fd`, unless it is -1, for each invocation, before its result
// is out.
absl::Status RunNode(const std::vector<const Application*>& applications, const std::string& socket,
                     const std::string& node, int report_fd);

}  // namespace examples
