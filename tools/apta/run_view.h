// What `apta run` shows on standard error of a run that goes on.
//
// On a terminal a table of its states, painted again and again by a thread of its own; else a line
// for each thing that happens, as text or as JSON. Add is called by one thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "apta/workflow.h"

namespace apta::tool {

// What a state has done so far, in all branches.
struct StateRow {
  std::string name;
  std::string type;
  std::int64_t entered = 0;
  std::int64_t left = 0;  // or caught
  std::int64_t retries = 0;
  std::int64_t failed = 0;
  std::string last;  // error, and what came of it
};

// A line per state, the last `max_rows` of them; "" for no states.
std::string RenderRun(const std::vector<StateRow>& states, std::size_t max_rows);
// One line: "   1.250 s  Fan[3]/Resize: retrying in 2s: UNAVAILABLE: …".
std::string DescribeEvent(const StateEvent& event, absl::Time begin);

class RunView {
 public:
  explicit RunView(bool as_json);
  ~RunView();
  RunView(const RunView&) = delete;
  RunView& operator=(const RunView&) = delete;

  void Add(const StateEvent& event);

 private:
  void Draw();
  void Paint();
  void PrintLine(const StateEvent& event);

  const bool as_json_;
  const bool on_terminal_;
  absl::Time begin_ = absl::InfiniteFuture();
  std::mutex mutex_;  // guards the rest
  std::condition_variable ended_;
  bool end_ = false;
  bool changed_ = false;
  std::string run_;
  std::vector<StateRow> states_;
  std::map<std::string, std::size_t, std::less<>> index_;  // of states_
  std::size_t painted_lines_ = 0;
  std::thread drawer_;
};

}  // namespace apta::tool
