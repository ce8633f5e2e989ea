// The data of a run: JSON values that never change, which branches share, and which count against
// the run's budget for as long as anybody holds them.
//
// Not thread-safe. A budget outlives what is held on it.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/workflow/json_value.h"

namespace apta::workflow {

struct Scope;

class DataBudget {
 public:
  // What was taken; given back at its end.
  class Charge {
   public:
    Charge() = default;
    Charge(Charge&& other) noexcept
        : budget_(std::exchange(other.budget_, nullptr)), bytes_(other.bytes_) {}
    Charge& operator=(Charge&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Charge() {
      if (budget_ != nullptr) budget_->used_bytes_ -= bytes_;
    }

   private:
    friend class DataBudget;
    Charge(DataBudget* budget, std::size_t bytes) : budget_(budget), bytes_(bytes) {}
    DataBudget* budget_ = nullptr;
    std::size_t bytes_ = 0;
  };

  explicit DataBudget(std::size_t max_bytes) : max_bytes_(max_bytes) {}
  DataBudget(const DataBudget&) = delete;
  DataBudget& operator=(const DataBudget&) = delete;

  std::size_t left_bytes() const { return max_bytes_ - used_bytes_; }
  // RESOURCE_EXHAUSTED: it does not fit.
  absl::StatusOr<Charge> Take(std::size_t bytes);

 private:
  const std::size_t max_bytes_;
  std::size_t used_bytes_ = 0;
};

// One value, or a part of one. Copies share it.
class Data {
 public:
  Data() = default;  // null, and false
  // RESOURCE_EXHAUSTED: it does not fit, or is nested too deep.
  static absl::StatusOr<Data> Hold(Json value, DataBudget* budget);

  explicit operator bool() const { return value_ != nullptr; }
  const Json& operator*() const;
  // Keeps the whole. REQUIRES: `part` is in it.
  Data Part(const Json& part) const;
  // The value itself if nobody else holds it, else a copy, charged to `scope`.
  absl::StatusOr<Json> Release(Scope* scope) &&;

 private:
  std::shared_ptr<Json> value_;
};

// RESOURCE_EXHAUSTED: says the sizes.
absl::Status DataLimitExceeded(std::size_t left_bytes);

}  // namespace apta::workflow
