#include "common/states.h"

#include <fmt/format.h>

#include <future>
#include <string>
#include <vector>

namespace examples {

using apta::AsBytes;
using apta::AsText;
using nlohmann::json;

namespace {

// "$.a[0].b" names what the JSON pointer "/a/0/b" does.
json At(const json& value, const std::string& path) {
  std::string pointer;
  for (const char c : path.substr(1)) {
    if (c == '.' || c == '[') {
      pointer += '/';
    } else if (c != ']') {
      pointer += c;
    }
  }
  return value.at(json::json_pointer(pointer));
}

// Fields whose names end with ".$" are paths.
json Fill(const json& form, const json& input) {
  if (!form.is_object()) return form;
  json filled = json::object();
  for (const auto& [name, value] : form.items()) {
    if (name.ends_with(".$")) {
      filled[name.substr(0, name.size() - 2)] = At(input, value.get<std::string>());
    } else {
      filled[name] = Fill(value, input);
    }
  }
  return filled;
}

absl::StatusOr<json> RunTask(apta::Client& client, const json& state, json input) {
  apta::CallOptions options;
  options.node = input.value("apta.node", "");
  const json reads = input.value("apta.reads", json::array());
  for (const json& key : reads.is_array() ? reads : json::array({reads})) {
    options.reads.push_back(key);
  }
  input.erase("apta.node");
  input.erase("apta.reads");
  const absl::StatusOr<apta::Bytes> result =
      client.Call(state.at("Resource").get<std::string>(), AsBytes(input.dump()), options);
  if (!result.ok()) return result.status();
  return json::parse(AsText(*result));
}

// Machine and input of each branch.
using Branches = std::vector<std::pair<const json*, json>>;

absl::StatusOr<json> RunAll(apta::Client& client, const Branches& branches) {
  std::vector<std::future<absl::StatusOr<json>>> running;
  for (const auto& [machine, input] : branches) {
    running.push_back(
        std::async(std::launch::async, [&client, &machine = *machine, &input = input] {
          return RunStates(client, machine, input);
        }));
  }
  json results = json::array();
  absl::Status failed;
  for (auto& branch : running) {
    absl::StatusOr<json> result = branch.get();
    if (result.ok()) {
      results.push_back(*std::move(result));
    } else {
      failed.Update(result.status());
    }
  }
  if (!failed.ok()) return failed;
  return results;
}

absl::StatusOr<json> RunState(apta::Client& client, const json& state, const json& input) {
  const std::string type = state.at("Type");
  const json given = state.contains("Parameters") ? Fill(state["Parameters"], input) : input;
  if (type == "Task") return RunTask(client, state, given);
  Branches branches;
  if (type == "Parallel") {
    for (const json& branch : state.at("Branches")) branches.emplace_back(&branch, given);
  } else if (type == "Map") {
    for (const json& item : At(input, state.at("ItemsPath"))) {
      branches.emplace_back(&state.at("Iterator"), item);
    }
  } else {
    return absl::UnimplementedError(fmt::format("a state of type {}", type));
  }
  return RunAll(client, branches);
}

}  // namespace

absl::StatusOr<json> RunStates(apta::Client& client, const json& machine, const json& input) {
  json data = input;
  for (std::string name = machine.at("StartAt"); !name.empty();) {
    const json& state = machine.at("States").at(name);
    if (state.contains("InputPath")) data = At(data, state["InputPath"]);
    absl::StatusOr<json> result = RunState(client, state, data);
    if (!result.ok()) return result.status();
    if (state.contains("ResultSelector")) result = Fill(state["ResultSelector"], *result);
    if (!state.contains("ResultPath")) {
      data = *std::move(result);
    } else {
      data[state["ResultPath"].get<std::string>().substr(2)] = *std::move(result);
    }
    name = state.value("Next", "");
  }
  return data;
}

}  // namespace examples
