#include "compute/workflow/fields.h"

#include <algorithm>

#include "compute/workflow/error.h"
#include "fmt/format.h"

namespace apta::workflow {
namespace {

constexpr std::int64_t kMaxInteger = 99'999'999;  // three years of seconds

// Of the States Language, and not of this interpreter.
constexpr std::string_view kUnsupported[] = {"HeartbeatSeconds",
                                             "HeartbeatSecondsPath",
                                             "Credentials",
                                             "ItemReader",
                                             "ItemBatcher",
                                             "ResultWriter",
                                             "ToleratedFailureCount",
                                             "ToleratedFailureCountPath",
                                             "ToleratedFailurePercentage",
                                             "ToleratedFailurePercentagePath",
                                             "Label",
                                             "Assign",
                                             "Arguments",
                                             "Output",
                                             "Items"};

}  // namespace

void Faults::Add(std::string_view where, std::string_view field, std::string_view what) {
  if (any()) return;
  const bool both = !where.empty() && !field.empty();
  first_ = absl::InvalidArgumentError(
      fmt::format("{}{}{}: {}", where, both ? ", " : "",
                  field.empty() ? "" : fmt::format("field \"{}\"", field), what));
}

Fields::Fields(const Json& object, std::string where, Faults* faults)
    : object_(&object), where_(std::move(where)), faults_(faults) {
  static const Json kEmpty = Json::object();
  if (object.is_object()) return;
  faults_->Add(where_, "", "must be an object");
  object_ = &kEmpty;
}

void Fields::Fault(std::string_view field, std::string_view what) const {
  faults_->Add(where_, field, what);
}

const Json* Fields::Find(const std::string& field) {
  known_.insert(field);
  const auto entry = object_->find(field);
  return entry != object_->end() ? &*entry : nullptr;
}

const Json* Fields::Need(const std::string& field) {
  const Json* value = Find(field);
  if (value == nullptr) Fault(field, "is missing");
  return value;
}

std::optional<std::string> Fields::Text(const std::string& field) {
  const Json* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  Fault(field, fmt::format("must be a text, not {}", value->type_name()));
  return std::nullopt;
}

std::string Fields::NeedText(const std::string& field) {
  if (Need(field) == nullptr) return "";
  return Text(field).value_or("");
}

bool Fields::Flag(const std::string& field) {
  const Json* value = Find(field);
  if (value == nullptr) return false;
  if (!value->is_boolean()) Fault(field, "must be true or false");
  return *value == true;
}

std::optional<std::int64_t> Fields::Integer(const std::string& field, std::int64_t min) {
  const Json* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (value->is_number_integer() && CompareNumbers(*value, min) >= 0 &&
      CompareNumbers(*value, kMaxInteger) <= 0) {
    return value->get<std::int64_t>();
  }
  Fault(field, fmt::format("must be an integer from {} to {}, not {}", min, kMaxInteger,
                           value->is_structured() ? value->type_name() : ToText(*value)));
  return std::nullopt;
}

std::optional<double> Fields::Number(const std::string& field, double min) {
  const Json* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (value->is_number() && value->get<double>() >= min) return value->get<double>();
  Fault(field, fmt::format("must be a number of {} or more, not {}", min,
                           value->is_structured() ? value->type_name() : ToText(*value)));
  return std::nullopt;
}

NumberField Fields::IntegerOrPath(const std::string& field, std::int64_t min) {
  NumberField number{Integer(field, min), DefinitePath(field + "Path")};
  if (number.value && number.path) Fault(field, fmt::format("excludes {}Path", field));
  return number;
}

std::optional<JsonPath> Fields::AnyPath(const std::string& field) {
  const std::optional<std::string> text = Text(field);
  if (!text) return std::nullopt;
  absl::StatusOr<JsonPath> path = JsonPath::Parse(*text);
  if (!path.ok()) {
    Fault(field, MessageOf(path.status()));
    return std::nullopt;
  }
  uses_context_ = uses_context_ || path->in_context();
  return *std::move(path);
}

std::optional<JsonPath> Fields::DefinitePath(const std::string& field) {
  std::optional<JsonPath> path = AnyPath(field);
  if (!path || path->is_definite()) return path;
  Fault(field, fmt::format("the path '{}' may mean more than one value", path->text()));
  return std::nullopt;
}

DataPath Fields::Data(const std::string& field) {
  const Json* value = Find(field);
  if (value != nullptr && value->is_null()) return std::nullopt;
  return AnyPath(field).value_or(JsonPath());
}

DataPath Fields::Result(const std::string& field) {
  const DataPath path = Data(field);
  if (!path || path->is_reference()) return path;
  Fault(field, fmt::format("'{}' is no place: it must be made of $, .name, ['name'] and [0]",
                           path->text()));
  return std::nullopt;
}

std::optional<Template> Fields::Payload(const std::string& field) {
  const Json* value = Find(field);
  if (value == nullptr) return std::nullopt;
  absl::StatusOr<Template> payload = Template::Parse(*value);
  if (!payload.ok()) {
    Fault(field, MessageOf(payload.status()));
    return std::nullopt;
  }
  uses_context_ = uses_context_ || payload->uses_context();
  return *std::move(payload);
}

std::optional<Expression> Fields::PathOrCall(const std::string& field) {
  const std::optional<std::string> text = Text(field);
  if (!text) return std::nullopt;
  absl::StatusOr<Expression> expression = Expression::Parse(*text);
  if (!expression.ok()) {
    Fault(field, MessageOf(expression.status()));
    return std::nullopt;
  }
  uses_context_ = uses_context_ || expression->uses_context();
  return *std::move(expression);
}

std::vector<std::string> Fields::ErrorNames(bool is_last) {
  constexpr std::string_view kField = "ErrorEquals";
  std::vector<std::string> names;
  const Json* value = Need(std::string(kField));
  if (value == nullptr) return names;
  if (!value->is_array() || value->empty()) {
    Fault(kField, "must be an array of error names");
    return names;
  }
  for (const Json& name : *value) {
    if (!name.is_string()) {
      Fault(kField, "must be an array of error names");
      return names;
    }
    names.push_back(name.get<std::string>());
  }
  const bool has_all = std::find(names.begin(), names.end(), "States.ALL") != names.end();
  if (has_all && names.size() > 1) Fault(kField, "States.ALL must stand alone");
  if (has_all && !is_last) Fault(kField, "States.ALL must be the last's");
  return names;
}

void Fields::Finish(std::string_view owner) {
  for (auto entry = object_->begin(); entry != object_->end(); ++entry) {
    const std::string& field = entry.key();
    if (known_.contains(field)) continue;
    const bool is_unsupported = std::find(std::begin(kUnsupported), std::end(kUnsupported),
                                          field) != std::end(kUnsupported);
    Fault(field, is_unsupported ? "is of the States Language, but not supported here"
                                : fmt::format("{} has no such field", owner));
  }
}

}  // namespace apta::workflow
