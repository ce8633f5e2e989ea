#include "compute/workflow/validation.h"

#include <algorithm>

#include "fmt/format.h"

namespace apta::workflow {
namespace {

// The states that `from` leads to, itself among them, along `edges`.
std::vector<bool> Reachable(const std::vector<std::vector<StateIndex>>& edges,
                            std::vector<StateIndex> from) {
  std::vector<bool> reached(edges.size(), false);
  for (const StateIndex state : from) reached[state] = true;
  while (!from.empty()) {
    const StateIndex state = from.back();
    from.pop_back();
    for (const StateIndex next : edges[state]) {
      if (reached[next]) continue;
      reached[next] = true;
      from.push_back(next);
    }
  }
  return reached;
}

// A run may end here: it is meant to, a function may fail, or no choice match.
bool IsExit(const State& state) {
  if (const auto* choice = std::get_if<Choice>(&state.what)) return !choice->otherwise;
  return !state.next || state.may_fail();
}

bool IsTerminal(const State& state) {
  return !state.next && !std::holds_alternative<Choice>(state.what);
}

// The way from `state` until it comes by a state again.
std::string Circle(const StateMachine& machine, StateIndex state) {
  std::string text;
  std::vector<bool> seen(machine.states.size(), false);
  for (int shown = 0; shown < 8; ++shown) {
    text += fmt::format("{}\"{}\"", text.empty() ? "" : " → ", machine.states[state].name);
    if (seen[state]) return text;
    seen[state] = true;
    state = machine.states[state].successors().front();
  }
  return text + " → …";
}

}  // namespace

absl::Status CheckGraph(const StateMachine& machine) {
  const std::vector<State>& states = machine.states;
  std::vector<std::vector<StateIndex>> forward(states.size());
  std::vector<std::vector<StateIndex>> backward(states.size());
  std::vector<StateIndex> exits;
  for (StateIndex state = 0; state < states.size(); ++state) {
    forward[state] = states[state].successors();
    for (const StateIndex next : forward[state]) backward[next].push_back(state);
    if (IsExit(states[state])) exits.push_back(state);
  }
  const std::vector<bool> reached = Reachable(forward, {machine.start});
  const std::vector<bool> can_end = Reachable(backward, exits);
  for (StateIndex state = 0; state < states.size(); ++state) {
    if (!reached[state]) {
      return absl::InvalidArgumentError(
          fmt::format("state \"{}\": unreachable: no way leads here from \"{}\", where the run "
                      "starts",
                      states[state].name, states[machine.start].name));
    }
    if (!can_end[state]) {
      return absl::InvalidArgumentError(fmt::format(
          "state \"{}\", field \"{}\": from here a run can never end: {}", states[state].name,
          states[state].next ? "Next" : "Choices", Circle(machine, state)));
    }
  }
  if (std::none_of(states.begin(), states.end(), IsTerminal)) {
    return absl::InvalidArgumentError(
        fmt::format("state \"{}\": no state behind it ends the run: one needs \"End\": true, or "
                    "the type Succeed or Fail",
                    states[machine.start].name));
  }
  return absl::OkStatus();
}

}  // namespace apta::workflow
