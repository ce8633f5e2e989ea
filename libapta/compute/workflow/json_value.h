// JSON values as workflows use them: read strictly, of bounded depth.
//
// Thread-safe: functions without state. Nothing is thrown.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace apta::workflow {

using Json = nlohmann::json;

// Copies, comparisons and texts of values are made recursively: nothing may nest deeper.
inline constexpr std::size_t kMaxDataDepth = 500;
// What a run may hold at once, by SizeBytes.
inline constexpr std::size_t kMaxDataBytes = std::size_t{512} << 20;

// INVALID_ARGUMENT, with line and column: not JSON, a name twice in one object, nested too deep.
absl::StatusOr<Json> ParseJson(std::string_view text, std::size_t max_depth = kMaxDataDepth);

// In one line, always valid UTF-8.
std::string ToText(const Json& value);

// About what the value takes in memory, blocks of the heap with what they need besides; looks at no
// more than `max_bytes` of it.
std::size_t SizeBytes(const Json& value, std::size_t max_bytes);
bool IsNestedDeeper(const Json& value, std::size_t max_depth);

// Exact also between integers of unlike signs. REQUIRES: numbers.
int CompareNumbers(const Json& left, const Json& right);

}  // namespace apta::workflow
