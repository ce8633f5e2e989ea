// JSONPath: which part of a value a field of a workflow means.
//
// `$` is the value itself, `$$` the context object. Steps: .name ['name'] [0] [-1] [*] .* ..name
// [0,2] ['a','b'] [1:5:2]. A path whose every step names one thing is definite: it means one value,
// or nothing. Any other means the array of all that it matches, which may be empty. A definite path
// without negative indices is a reference path: it also says where to put something.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/workflow/json_value.h"

namespace apta::workflow {

class JsonPath {
 public:
  JsonPath() = default;  // "$"
  // INVALID_ARGUMENT: says what is wrong, and where.
  static absl::StatusOr<JsonPath> Parse(std::string_view text);

  const std::string& text() const { return text_; }
  bool in_context() const { return in_context_; }
  bool is_root() const { return steps_.empty(); }
  bool is_definite() const;
  bool is_reference() const;

  // What a definite path means, or nullptr. REQUIRES: is_definite().
  const Json* Find(const Json& root) const;
  // RESOURCE_EXHAUSTED: more than a million matches.
  absl::StatusOr<std::vector<const Json*>> Select(const Json& root) const;
  // Puts `value` at the path; objects on the way that are missing are made. FAILED_PRECONDITION:
  // what is on the way is no object, or an array without that element. REQUIRES: is_reference().
  absl::Status Put(Json* root, Json value) const;

 private:
  struct Step {
    enum class Kind { kNames, kIndexes, kSlice, kAll };
    Kind kind = Kind::kAll;
    bool descends = false;  // `..`: from here or from anything below
    std::vector<std::string> names;
    std::vector<std::int64_t> indexes;
    std::optional<std::int64_t> from, to;
    std::int64_t stride = 1;

    bool names_one() const {
      return !descends && names.size() + indexes.size() == 1 && kind != Kind::kSlice;
    }
  };
  class Parser;
  static const Json* FindOne(const Json& value, const Step& step);
  static void MatchHere(const Json& value, const Step& step, std::vector<const Json*>* out);
  static void MatchBelow(const Json& value, const Step& step, std::vector<const Json*>* out);

  std::string text_ = "$";
  bool in_context_ = false;
  std::vector<Step> steps_;
};

}  // namespace apta::workflow
