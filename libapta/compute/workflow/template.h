// Payload templates (Parameters, ItemSelector, ResultSelector): JSON in which a field "name.$" is
// an expression, whose value becomes the field "name".
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "compute/workflow/expression.h"

namespace apta::workflow {

class Template {
 public:
  // INVALID_ARGUMENT: names the field.
  static absl::StatusOr<Template> Parse(const Json& json);
  absl::StatusOr<Json> Evaluate(Scope* scope) const;
  bool uses_context() const;

 private:
  enum class Kind { kConstant, kExpression, kObject, kArray };

  Kind kind_ = Kind::kConstant;
  Json constant_;
  Expression expression_;
  std::vector<std::pair<std::string, Template>> fields_;  // without names in an array
};

}  // namespace apta::workflow
