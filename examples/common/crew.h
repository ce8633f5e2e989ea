// Three compute servers: processes of this binary, each with all functions of some applications.
#pragma once

#include <sys/types.h>

#include <array>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/application.h"
#include "common/task.h"

namespace examples {

inline constexpr std::array<const char*, 3> kNodes = {"c1", "c2", "c3"};

class Crew {
 public:
  Crew() = default;
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;
  ~Crew();  // ends them

  // Whether TakeReports will be called, for each invocation.
  enum class Reports { kNone, kEach };
  // Returns when all of them have registered their functions. UNAVAILABLE: one of them has ended.
  absl::Status Start(const std::vector<const Application*>& applications, const std::string& socket,
                     const apta::Client& client, Reports reports);
  // UNAVAILABLE: one of them has ended.
  absl::Status Check() const;
  // What was invoked since the last time, in the order of its beginnings.
  absl::StatusOr<std::vector<Report>> TakeReports();

 private:
  absl::Status Spawn(const std::vector<const Application*>& applications, const std::string& socket,
                     const char* node, int report_fd);

  std::vector<pid_t> pids_;
  int reports_fd_ = -1;
};

}  // namespace examples
