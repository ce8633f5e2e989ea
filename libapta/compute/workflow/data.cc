#include "compute/workflow/data.h"

#include "compute/workflow/expression.h"
#include "fmt/format.h"

namespace apta::workflow {

absl::Status DataLimitExceeded(std::size_t left_bytes) {
  return absl::ResourceExhaustedError(
      fmt::format("the run would hold too much data at once: more than the {} bytes that are left "
                  "to it were to be added",
                  left_bytes));
}

absl::StatusOr<DataBudget::Charge> DataBudget::Take(std::size_t bytes) {
  if (bytes > left_bytes()) return DataLimitExceeded(left_bytes());
  used_bytes_ += bytes;
  return Charge(this, bytes);
}

absl::StatusOr<Data> Data::Hold(Json value, DataBudget* budget) {
  if (IsNestedDeeper(value, kMaxDataDepth)) {
    return absl::ResourceExhaustedError(
        fmt::format("the state's data are nested deeper than {} levels", kMaxDataDepth));
  }
  absl::StatusOr<DataBudget::Charge> charge =
      budget->Take(SizeBytes(value, budget->left_bytes() + 1));
  if (!charge.ok()) return charge.status();
  struct Held {
    DataBudget::Charge charge;
    Json value;
  };
  const auto held = std::make_shared<Held>(Held{*std::move(charge), std::move(value)});
  Data data;
  data.value_ = {held, &held->value};
  return data;
}

const Json& Data::operator*() const {
  static const Json kNull;
  return value_ != nullptr ? *value_ : kNull;
}

Data Data::Part(const Json& part) const {
  Data data;
  // It points into *value_, which is not const: nobody but a single owner ever changes it.
  data.value_ = {value_, const_cast<Json*>(&part)};
  return data;
}

absl::StatusOr<Json> Data::Release(Scope* scope) && {
  const std::shared_ptr<Json> value = std::move(value_);
  if (value == nullptr) return Json();
  if (value.use_count() == 1) return std::move(*value);
  if (absl::Status charged = scope->Charge(*value); !charged.ok()) return charged;
  return *value;
}

}  // namespace apta::workflow
