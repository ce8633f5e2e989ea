// Timestamps of the States Language: RFC 3339 with a capital T, and a capital Z where there is no
// offset, such as 2024-02-29T12:00:00.5Z.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace apta::workflow {

std::optional<absl::Time> ParseTimestamp(std::string_view text);
// To the microsecond, in UTC.
std::string FormatTimestamp(absl::Time time);

}  // namespace apta::workflow
