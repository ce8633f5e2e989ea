#include "tools/apta/json_text.h"

#include <fmt/format.h>

#include <string_view>

namespace apta::tool {
namespace {

using nlohmann::json;

bool IsUtf8(const std::string& text) {
  const std::string quoted = json(text).dump(-1, ' ', false, json::error_handler_t::ignore);
  return json::parse(quoted).get_ref<const std::string&>() == text;
}

std::string TimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", time, absl::UTCTimeZone());
}

}  // namespace

json ToJson(const ObjectInfo& object) {
  json result = {{"key", object.key},
                 {"version", object.version},
                 {"size", object.size},
                 {"sharers", object.sharers}};
  if (!IsUtf8(object.key)) {
    std::string hex;
    for (const char c : object.key) hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
    result["key_hex"] = hex;
  }
  return result;
}

json ToJson(const NodeInfo& node) {
  return {{"id", node.id},
          {"name", node.name},
          {"pid", node.pid},
          {"pool", node.pool},
          {"outstanding", node.outstanding},
          {"functions", node.functions},
          {"running", node.running},
          {"waiting", node.waiting},
          {"stuck", node.stuck},
          {"threads", node.threads},
          {"held_bytes", node.held_bytes},
          {"fenced", node.fenced}};
}

json ToJson(const Explanation& explanation) {
  json candidates = json::array();
  for (const Explanation::Candidate& each : explanation.candidates) {
    candidates.push_back({{"node", each.node},
                          {"eligible", each.eligible},
                          {"verdict", each.verdict},
                          {"local_bytes", each.local_bytes},
                          {"predecessors", each.predecessors},
                          {"active", each.active},
                          {"threads", each.threads},
                          {"running", each.running},
                          {"max_concurrency", each.max_concurrency}});
  }
  return {{"policy", explanation.policy},
          {"chosen", explanation.chosen},
          {"because", explanation.because},
          {"attempt", explanation.attempt},
          {"queued_ns", absl::ToInt64Nanoseconds(explanation.queued)},
          {"candidates", std::move(candidates)}};
}

json ToJson(const PoolInfo& pool) {
  return {{"name", pool.name},
          {"backing", pool.backing},
          {"coherence", pool.coherence},
          {"access", pool.access},
          {"durability", pool.durability},
          {"numa", pool.numa},
          {"bytes", pool.bytes},
          {"bytes_used", pool.bytes_used},
          {"bytes_held", pool.bytes_held},
          {"bytes_free", pool.bytes_free},
          {"objects", pool.objects},
          {"bytes_populated", pool.bytes_populated},
          {"page_bytes", pool.page_bytes},
          {"last_version", pool.last_version},
          {"objects_damaged", pool.objects_damaged},
          {"scrubs", pool.scrubs},
          {"bytes_scrubbed", pool.bytes_scrubbed},
          {"log_writes", pool.log_writes},
          {"log_records", pool.log_records},
          {"log_bytes", pool.log_bytes},
          {"log_write_ns", pool.log_write_ns},
          {"log_checkpoints", pool.log_checkpoints},
          {"log_bytes_since_checkpoint", pool.log_bytes_since_checkpoint}};
}

json ToJson(const RunInfo& run) {
  return json::parse(RunAsJson(run), nullptr, /*allow_exceptions=*/false);
}

json ToJson(const StateEvent& event) {
  constexpr std::string_view kKinds[] = {"entered", "retrying", "caught", "failed", "left"};
  json result = {{"run", event.run},        {"event", kKinds[static_cast<std::size_t>(event.kind)]},
                 {"state", event.state},    {"type", event.type},
                 {"branch", event.branch},  {"at", TimeText(event.at)},
                 {"attempt", event.attempt}};
  if (event.kind == StateEvent::Kind::kRetrying) {
    result["delay_seconds"] = absl::ToDoubleSeconds(event.delay);
  }
  if (!event.error.empty()) result.update({{"error", event.error}, {"cause", event.cause}});
  return result;
}

json ToJson(const std::vector<Finding>& findings) {
  json list = json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"level", LevelName(finding.level)},
                    {"what", finding.what},
                    {"why", finding.why},
                    {"command", finding.command}});
  }
  return list;
}

std::string Dump(const json& value) {
  return value.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string DumpLine(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace apta::tool
