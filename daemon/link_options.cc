// How an emulated link is written (protocol: "Emulated link").
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <optional>
#include <set>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apta/server.h"

namespace apta {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};
constexpr Unit kTimeUnits[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
constexpr Unit kBandwidthUnits[] = {{"Mbps", 1e-3}, {"Gbps", 1}, {"Tbps", 1e3}};

// A plain number >= 0 with one of `units` behind it, in the unit of factor 1; 0 needs no unit.
template <std::size_t kCount>
std::optional<double> ParseQuantity(std::string_view text, const Unit (&units)[kCount]) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(number) || std::signbit(number)) return std::nullopt;
  const std::string_view unit_name(rest, static_cast<std::size_t>(end - rest));
  if (unit_name.empty() && number == 0) return 0;
  for (const Unit& unit : units) {
    if (unit.name == unit_name) return number * unit.factor;
  }
  return std::nullopt;
}

absl::Status SetDelay(std::string_view part, std::string_view value, std::uint64_t* delay_ns) {
  const auto parsed_ns = ParseQuantity(value, kTimeUnits);
  if (!parsed_ns.has_value() || *parsed_ns >= 9e18) {
    return absl::InvalidArgumentError(
        fmt::format("link: '{}' is no time; write ns, us, ms or s, such as 500ns", part));
  }
  *delay_ns = static_cast<std::uint64_t>(std::llround(*parsed_ns));
  return absl::OkStatus();
}

absl::Status SetPart(std::string_view part, LinkOptions* link) {
  const std::size_t equals = part.find('=');
  const std::string_view key = part.substr(0, equals);
  if (equals != std::string_view::npos) {
    const std::string_view value = part.substr(equals + 1);
    if (key == "latency") return SetDelay(part, value, &link->latency_ns);
    if (key == "jitter") return SetDelay(part, value, &link->jitter_ns);
    if (key == "call") return SetDelay(part, value, &link->call_ns);
    if (key == "bandwidth") {
      const auto bandwidth_gbps = ParseQuantity(value, kBandwidthUnits);
      // Unlimited is a plain 0.
      if (!bandwidth_gbps.has_value() || (*bandwidth_gbps == 0 && value != "0")) {
        return absl::InvalidArgumentError(fmt::format(
            "link: '{}' is no bandwidth; write Mbps, Gbps or Tbps, such as 80Gbps", part));
      }
      link->bandwidth_gbps = *bandwidth_gbps;
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      fmt::format("link: '{}' is none of none, cxl, rdma, rdma-fast, latency=…, bandwidth=…, "
                  "jitter=…, call=…",
                  part));
}

}  // namespace

absl::StatusOr<LinkOptions> LinkOptions::Parse(std::string_view text) {
  if (text == "none") return LinkOptions{};
  if (text == "cxl") return LinkOptions{.latency_ns = 500, .bandwidth_gbps = 80};
  if (text == "rdma-fast") {
    return LinkOptions{.latency_ns = 500, .bandwidth_gbps = 80, .call_ns = 14'000};
  }
  if (text == "rdma") {  // the call's cost is that of coherence: every pool served caches
    return LinkOptions{.latency_ns = 1'500, .bandwidth_gbps = 8, .call_ns = 14'000};
  }
  LinkOptions link;
  std::set<std::string_view> seen;
  std::string_view rest = text;
  while (true) {
    const std::size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    if (const absl::Status status = SetPart(part, &link); !status.ok()) return status;
    if (!seen.insert(part.substr(0, part.find('='))).second) {
      return absl::InvalidArgumentError(fmt::format("link: '{}' comes twice", part));
    }
    if (comma == std::string_view::npos) return link;
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace apta
