// Reads the fields of one JSON object of a definition, and remembers the first fault.
//
// A reader of a field returns something harmless when the field is wrong, so that whoever reads on
// needs no error handling of his own: the fault ends it all at the end.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "compute/workflow/definition.h"

namespace apta::workflow {

// What is found wrong; the first fault counts.
class Faults {
 public:
  void Add(std::string_view where, std::string_view field, std::string_view what);
  void Add(const absl::Status& fault) {
    if (!any()) first_ = fault;
  }
  bool any() const { return !first_.ok(); }
  const absl::Status& first() const { return first_; }

 private:
  absl::Status first_;
};

class Fields {
 public:
  // `where`: `state "X"`, or "" for the workflow itself. `object` and `faults` outlive this.
  Fields(const Json& object, std::string where, Faults* faults);

  const std::string& where() const { return where_; }
  Faults* faults() const { return faults_; }
  void Fault(std::string_view field, std::string_view what) const;

  bool Has(const std::string& field) const { return object_->contains(field); }
  const Json* Find(const std::string& field);  // nullptr: not there
  // Like Find; a fault if it is not there.
  const Json* Need(const std::string& field);

  std::optional<std::string> Text(const std::string& field);
  std::string NeedText(const std::string& field);
  bool Flag(const std::string& field);
  std::optional<std::int64_t> Integer(const std::string& field, std::int64_t min);
  std::optional<double> Number(const std::string& field, double min);
  // `field`, or a path in `field`Path; a fault if both are there.
  NumberField IntegerOrPath(const std::string& field, std::int64_t min);
  std::optional<JsonPath> DefinitePath(const std::string& field);
  DataPath Data(const std::string& field);    // InputPath, OutputPath
  DataPath Result(const std::string& field);  // ResultPath
  std::optional<Template> Payload(const std::string& field);
  std::optional<Expression> PathOrCall(const std::string& field);
  std::vector<std::string> ErrorNames(bool is_last);

  // A fault if a field is there that nobody asked for; `owner` is what does not have it.
  void Finish(std::string_view owner);
  // A path looked at the context object.
  bool uses_context() const { return uses_context_; }

 private:
  std::optional<JsonPath> AnyPath(const std::string& field);

  const Json* object_;
  std::string where_;
  Faults* faults_;
  std::set<std::string, std::less<>> known_;
  bool uses_context_ = false;
};

}  // namespace apta::workflow
