// Drives runs of workflows in virtual time: functions are lambdas, and nothing waits.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "compute/workflow/execution.h"
#include "compute/workflow/parser.h"
#include "fmt/format.h"

namespace apta::workflow {

inline const absl::Time kStart = absl::FromUnixSeconds(1'700'000'000);

inline Json Read(std::string_view text) {
  const absl::StatusOr<Json> json = ParseJson(text);
  EXPECT_TRUE(json.ok()) << text << ": " << json.status();
  return json.ok() ? *json : Json();
}

// Drives one run: calls a task as soon as it is to be had, lets its time pass, answers it.
class Driver {
 public:
  using Function = std::function<absl::StatusOr<std::string>(const TaskCall&)>;
  struct Timed {
    Function function;
    absl::Duration takes = absl::ZeroDuration();
  };

  explicit Driver(const std::string& definition) {
    absl::StatusOr<Definition> parsed = ParseDefinition(definition);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    if (parsed.ok()) definition_ = *std::move(parsed);
  }

  void On(const std::string& name, Function function, absl::Duration takes = {}) {
    functions_[name] = {std::move(function), takes};
  }
  // Fails with these statuses, in order; OK or behind their end: gives back its input.
  void OnFails(const std::string& name, std::vector<absl::Status> failures) {
    On(name,
       [failures,
        count = std::size_t{0}](const TaskCall& call) mutable -> absl::StatusOr<std::string> {
         const std::size_t now = count++;
         if (now < failures.size() && !failures[now].ok()) return failures[now];
         return call.input;
       });
  }

  void Run(const std::string& input = "{}") {
    Execution run(&definition_, Read(input),
                  {.name = "test",
                   .seed = 1,
                   .max_transitions = max_transitions_,
                   .max_data_bytes = max_data_bytes_},
                  kStart);
    std::multimap<absl::Time, std::pair<TaskId, absl::StatusOr<std::string>>> under_way;
    now_ = kStart;
    while (true) {
      run.Advance(now_);
      for (auto call = run.TakeTask(now_); call; call = run.TakeTask(now_)) {
        calls_.push_back(*call);
        const Timed& timed = functions_.at(*call->function);
        absl::StatusOr<std::string> result = timed.takes > call->timeout
                                                 ? absl::DeadlineExceededError("too slow")
                                                 : timed.function(*call);
        under_way.emplace(now_ + std::min(timed.takes, call->timeout),
                          std::pair(call->id, std::move(result)));
        most_under_way_ = std::max(most_under_way_, under_way.size());
      }
      most_branches_ = std::max(most_branches_, run.branches());
      for (StateEvent& event : run.TakeEvents()) Note(event);
      if (run.has_ended()) break;
      absl::Time next = run.next_deadline();
      if (!under_way.empty()) next = std::min(next, under_way.begin()->first);
      ASSERT_NE(next, absl::InfiniteFuture()) << "nothing will ever happen";
      now_ = std::max(now_, next);
      while (!under_way.empty() && under_way.begin()->first <= now_) {
        auto ended = under_way.extract(under_way.begin());
        run.OnTaskEnded(ended.mapped().first, std::move(ended.mapped().second), now_);
      }
    }
    output_ = run.output();
    error_ = run.error();
    failed_state_ = run.failed_state();
  }
  void LimitTransitions(std::int64_t max) { max_transitions_ = max; }
  void LimitData(std::size_t max_bytes) { max_data_bytes_ = max_bytes; }
  // Of a run that succeeds.
  Json Output(const std::string& input = "{}") {
    Run(input);
    EXPECT_FALSE(error_) << error_->name << ": " << error_->cause;
    return output_;
  }
  // Of one that fails.
  std::string Error(const std::string& input = "{}") {
    Run(input);
    return error_ ? error_->name : "none";
  }

  double seconds() const { return absl::ToDoubleSeconds(now_ - kStart); }
  std::string cause() const { return error_ ? error_->cause : ""; }
  const std::string& failed_state() const { return failed_state_; }
  const std::vector<TaskCall>& calls() const { return calls_; }
  const std::vector<std::string>& log() const { return log_; }
  const std::vector<double>& delays() const { return delays_; }
  std::size_t most_under_way() const { return most_under_way_; }
  std::size_t most_branches() const { return most_branches_; }

 private:
  void Note(const StateEvent& event) {
    constexpr std::string_view kKinds[] = {">", "~", "!", "x", "<"};
    log_.push_back(fmt::format("{}{}{}{}", kKinds[static_cast<std::size_t>(event.kind)],
                               event.branch, event.branch.empty() ? "" : "/", event.state));
    if (event.kind == StateEvent::Kind::kRetrying) {
      delays_.push_back(absl::ToDoubleSeconds(event.delay));
    }
  }

  Definition definition_;
  std::int64_t max_transitions_ = 100'000;
  std::size_t max_data_bytes_ = kMaxDataBytes;
  std::map<std::string, Timed> functions_;
  absl::Time now_;
  Json output_;
  std::optional<RunError> error_;
  std::string failed_state_;
  std::vector<TaskCall> calls_;
  std::vector<std::string> log_;
  std::vector<double> delays_;
  std::size_t most_under_way_ = 0;
  std::size_t most_branches_ = 0;
};

inline std::string Machine(const std::string& states) {
  return fmt::format(R"({{"StartAt":"A","States":{{{}}}}})", states);
}
inline std::string One(const std::string& fields) { return Machine("\"A\":{" + fields + "}"); }
inline std::string OneTask(const std::string& fields = "") {
  return One(R"("Type":"Task","Resource":"f","End":true)" + fields);
}
inline absl::StatusOr<std::string> Echo(const TaskCall& call) { return call.input; }

}  // namespace apta::workflow
