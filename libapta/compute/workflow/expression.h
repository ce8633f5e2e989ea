// Expressions: what a ".$" field of a payload template says, a path or a call of an intrinsic
// function, such as States.Format('{} of {}', $.done, States.ArrayLength($.all)).
//
// Errors of Evaluate: NOT_FOUND a path means nothing; INVALID_ARGUMENT an intrinsic function cannot
// do it; RESOURCE_EXHAUSTED the value becomes too large.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/workflow/json_path.h"
#include "compute/workflow/json_value.h"

namespace apta::workflow {

// Random numbers of a run: the same for the same seed (SplitMix64).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t Next() {
    std::uint64_t mixed = state_ += 0x9e37'79b9'7f4a'7c15;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58'476d'1ce4'e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d0'49bb'1331'11eb;
    return mixed ^ (mixed >> 31);
  }
  // 0 up to, but not, 1.
  double NextShare() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }

 private:
  std::uint64_t state_;
};

// What an evaluation sees.
struct Scope {
  const Json* input;    // $
  const Json* context;  // $$
  Random* random;
  std::size_t left_bytes = kMaxDataBytes;  // of what it may still copy

  // Counts a value that is copied or made. RESOURCE_EXHAUSTED: too much.
  absl::Status Charge(const Json& value);
};

// A definite path's value, or the array of all that another one matches.
absl::StatusOr<Json> EvaluatePath(const JsonPath& path, Scope* scope);
// The same without a copy, for a definite path.
absl::StatusOr<const Json*> FindValue(const JsonPath& path, const Scope& scope);

struct IntrinsicFunction {
  std::string_view name;
  std::size_t min_arguments;
  std::size_t max_arguments;
  absl::StatusOr<Json> (*apply)(std::vector<Json>& arguments, Scope* scope);
};
// nullptr: none has that name.
const IntrinsicFunction* FindIntrinsic(std::string_view name);

class Expression {
 public:
  static absl::StatusOr<Expression> Parse(std::string_view text);
  absl::StatusOr<Json> Evaluate(Scope* scope) const;
  bool uses_context() const;
  bool is_path() const { return kind_ == Kind::kPath; }

 private:
  enum class Kind { kLiteral, kPath, kCall };
  class Parser;

  Kind kind_ = Kind::kLiteral;
  Json literal_;
  JsonPath path_;
  const IntrinsicFunction* function_ = nullptr;
  std::vector<Expression> arguments_;
};

}  // namespace apta::workflow
