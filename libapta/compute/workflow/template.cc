#include "compute/workflow/template.h"

#include <algorithm>

#include "fmt/format.h"

namespace apta::workflow {

absl::StatusOr<Template> Template::Parse(const Json& json) {
  Template result;
  if (!json.is_structured()) {
    result.constant_ = json;
    return result;
  }
  result.kind_ = json.is_object() ? Kind::kObject : Kind::kArray;
  bool is_constant = true;
  for (auto entry = json.begin(); entry != json.end(); ++entry) {
    std::string name = json.is_object() ? entry.key() : "";
    absl::StatusOr<Template> value = Template();
    if (name.ends_with(".$")) {
      name.resize(name.size() - 2);
      if (!entry->is_string()) {
        return absl::InvalidArgumentError(
            fmt::format("\"{}\" must be a path or a call, as a text", entry.key()));
      }
      if (json.contains(name)) {
        return absl::InvalidArgumentError(
            fmt::format("\"{}\" and \"{}\" exclude each other", name, entry.key()));
      }
      absl::StatusOr<Expression> expression =
          Expression::Parse(entry->get_ref<const std::string&>());
      if (!expression.ok()) return expression.status();
      value->kind_ = Kind::kExpression;
      value->expression_ = *std::move(expression);
    } else {
      value = Parse(*entry);
      if (!value.ok()) return value;
    }
    is_constant = is_constant && value->kind_ == Kind::kConstant;
    result.fields_.emplace_back(std::move(name), *std::move(value));
  }
  if (is_constant) {
    result = Template();
    result.constant_ = json;
  }
  return result;
}

absl::StatusOr<Json> Template::Evaluate(Scope* scope) const {
  if (kind_ == Kind::kConstant) {
    if (absl::Status charged = scope->Charge(constant_); !charged.ok()) return charged;
    return constant_;
  }
  if (kind_ == Kind::kExpression) return expression_.Evaluate(scope);
  Json result = kind_ == Kind::kObject ? Json::object() : Json::array();
  for (const auto& [name, field] : fields_) {
    absl::StatusOr<Json> value = field.Evaluate(scope);
    if (!value.ok()) return value;
    if (kind_ == Kind::kObject) {
      result[name] = *std::move(value);
    } else {
      result.push_back(*std::move(value));
    }
  }
  return result;
}

bool Template::uses_context() const {
  return expression_.uses_context() ||
         std::any_of(fields_.begin(), fields_.end(),
                     [](const auto& field) { return field.second.uses_context(); });
}

}  // namespace apta::workflow
