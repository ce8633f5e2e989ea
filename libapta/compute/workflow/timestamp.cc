#include "compute/workflow/timestamp.h"

#include <algorithm>

namespace apta::workflow {

std::optional<absl::Time> ParseTimestamp(std::string_view text) {
  // Abseil also takes words ("infinite-past"), spaces around, and small letters.
  constexpr std::string_view kShape = "dddd-dd-ddTdd:dd:dd";
  if (text.size() <= kShape.size()) return std::nullopt;
  for (std::size_t i = 0; i < kShape.size(); ++i) {
    const bool is_digit = text[i] >= '0' && text[i] <= '9';
    if (kShape[i] == 'd' ? !is_digit : text[i] != kShape[i]) return std::nullopt;
  }
  constexpr std::string_view kRest = "0123456789.:+-Z";
  if (text.find_first_not_of(kRest, kShape.size()) != text.npos) return std::nullopt;
  absl::Time time;
  if (!absl::ParseTime(absl::RFC3339_full, absl::string_view(text.data(), text.size()), &time,
                       nullptr)) {
    return std::nullopt;
  }
  return time;
}

std::string FormatTimestamp(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", time, absl::UTCTimeZone());
}

}  // namespace apta::workflow
