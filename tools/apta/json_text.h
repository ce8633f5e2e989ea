// JSON forms of what `apta` shows; field names are those of the public API.
//
// Thread-safe: functions without state.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apta/client.h"
#include "apta/workflow.h"
#include "tools/apta/doctor.h"

namespace apta::tool {

// A key need not be UTF-8, JSON must be: "key" then has replacement characters, and "key_hex" says
// what the bytes are.
nlohmann::json ToJson(const ObjectInfo& object);
nlohmann::json ToJson(const NodeInfo& node);
nlohmann::json ToJson(const PoolInfo& pool);
nlohmann::json ToJson(const Explanation& explanation);
nlohmann::json ToJson(const RunInfo& run);
nlohmann::json ToJson(const StateEvent& event);
nlohmann::json ToJson(const std::vector<Finding>& findings);

// Indented, with a newline at the end; always valid UTF-8.
std::string Dump(const nlohmann::json& json);
// In one line, without a newline at its end.
std::string DumpLine(const nlohmann::json& json);

}  // namespace apta::tool
