#include "compute/workflow/task_fields.h"

#include "compute/workflow/error.h"
#include "fabric/control.h"
#include "fmt/format.h"

namespace apta::workflow {
namespace {

constexpr std::size_t kMaxNodeBytes = 127;

// Takes `name` or `name`.$ out of `parameters`; what it says is the template's field "value".
template <typename Check>
absl::StatusOr<std::optional<Template>> TakeField(Json* parameters, const std::string& name,
                                                  Check check) {
  const std::string dynamic_name = name + ".$";
  const bool is_dynamic = parameters->contains(dynamic_name);
  if (is_dynamic && parameters->contains(name)) {
    return absl::InvalidArgumentError(
        fmt::format("\"{}\" and \"{}\" exclude each other", name, dynamic_name));
  }
  const auto entry = parameters->find(is_dynamic ? dynamic_name : name);
  if (entry == parameters->end()) return std::optional<Template>();
  if (!is_dynamic) {
    if (const auto checked = check(*entry); !checked.ok()) return checked.status();
  }
  const Json field = {{is_dynamic ? "value.$" : "value", *entry}};
  parameters->erase(entry);
  absl::StatusOr<Template> parsed = Template::Parse(field);
  if (!parsed.ok()) return parsed.status();
  return std::optional<Template>(*std::move(parsed));
}

}  // namespace

absl::StatusOr<TaskFields> SplitTaskFields(const Json& parameters) {
  TaskFields fields;
  Json rest = parameters;
  if (rest.is_object()) {
    auto reads = TakeField(&rest, "apta.reads", ReadsOf);
    if (!reads.ok()) return reads.status();
    auto node = TakeField(&rest, "apta.node", NodeOf);
    if (!node.ok()) return node.status();
    fields.reads = *std::move(reads);
    fields.node = *std::move(node);
    for (auto field = rest.begin(); field != rest.end(); ++field) {
      if (!field.key().starts_with("apta.")) continue;
      return absl::InvalidArgumentError(fmt::format(
          "\"{}\": of the names that begin with apta. there are apta.reads and apta.node",
          field.key()));
    }
  }
  const bool is_for_function = !rest.empty() || (!fields.reads && !fields.node);
  if (is_for_function) {
    absl::StatusOr<Template> parsed = Template::Parse(rest);
    if (!parsed.ok()) return parsed.status();
    fields.parameters = *std::move(parsed);
  }
  for (const auto* field : {&fields.reads, &fields.node, &fields.parameters}) {
    fields.uses_context = fields.uses_context || (*field && (*field)->uses_context());
  }
  return fields;
}

absl::StatusOr<std::vector<std::string>> ReadsOf(const Json& value) {
  std::vector<std::string> keys;
  for (const Json& key : value.is_array() ? value : Json::array({value})) {
    if (!key.is_string()) {
      return absl::InvalidArgumentError(
          fmt::format("\"apta.reads\" must be keys of objects, not {}", key.type_name()));
    }
    const auto& text = key.get_ref<const std::string&>();
    if (const absl::Status valid = fabric::CheckKey(text); !valid.ok()) {
      return absl::InvalidArgumentError(fmt::format("\"apta.reads\": {}", MessageOf(valid)));
    }
    keys.push_back(text);
  }
  return keys;
}

absl::StatusOr<std::string> NodeOf(const Json& value) {
  if (value.is_string() && value.get_ref<const std::string&>().size() <= kMaxNodeBytes) {
    return value.get<std::string>();
  }
  return absl::InvalidArgumentError(
      fmt::format("\"apta.node\" must be a node's name, of {} bytes at most", kMaxNodeBytes));
}

}  // namespace apta::workflow
