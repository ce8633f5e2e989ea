// What the Executor Manager has to say to people. Thread-safe: functions without state.
#pragma once

#include <string>

#include "scheduler/executor_manager.h"

namespace apta::daemon {

// As Client::Explain's callers read it; the fields are those of apta::Explanation.
std::string ExplanationAsJson(const scheduler::Explanation& explanation);

// "attempt on host-1: its node is gone; …", the last attempts of an invocation that has failed, and
// what it waited for in the end.
std::string HistoryText(const scheduler::Outcome& outcome);

}  // namespace apta::daemon
