#include "compute/workflow/json_path.h"

#include <algorithm>
#include <charconv>

#include "fmt/format.h"

namespace apta::workflow {
namespace {

constexpr std::size_t kMaxMatches = 1'000'000;
constexpr std::size_t kMaxSteps = 200;

// nullopt: there is no such element.
std::optional<std::size_t> ElementIndex(const Json& array, std::int64_t index) {
  const auto size = static_cast<std::int64_t>(array.size());
  if (index < 0) index += size;
  if (index < 0 || index >= size) return std::nullopt;
  return static_cast<std::size_t>(index);
}

}  // namespace

// ---------------------------------------------------------------------------------------------

class JsonPath::Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<JsonPath> Parse() {
    JsonPath path;
    path.text_ = text_;
    if (!Accept('$')) return Fault("must begin with $");
    path.in_context_ = Accept('$');
    while (at_ < text_.size()) {
      if (path.steps_.size() == kMaxSteps) return Fault("has too many steps");
      Step step;
      if (absl::Status parsed = ParseStep(&step); !parsed.ok()) return parsed;
      path.steps_.push_back(std::move(step));
    }
    return path;
  }

 private:
  absl::Status ParseStep(Step* step) {
    if (Accept('.')) {
      step->descends = Accept('.');
      if (Accept('*')) return absl::OkStatus();
      if (!step->descends || Peek() != '[') return ParseName(step);
    }
    if (Accept('[')) return ParseBracket(step);
    return Fault("expects . or [");
  }

  absl::Status ParseName(Step* step) {
    const std::size_t begin = at_;
    while (at_ < text_.size() && IsNameByte(text_[at_])) ++at_;
    if (at_ == begin) return Fault("expects a name");
    step->kind = Step::Kind::kNames;
    step->names.emplace_back(text_.substr(begin, at_ - begin));
    return absl::OkStatus();
  }

  absl::Status ParseBracket(Step* step) {
    SkipSpace();
    if (Accept('*')) return EndBracket();
    if (Peek() == '?') return Fault("has a filter, [?()]; use a Choice or Map state instead");
    if (Peek() == '\'' || Peek() == '"') {
      step->kind = Step::Kind::kNames;
      do {
        if (absl::Status quoted = ParseQuoted(step); !quoted.ok()) return quoted;
      } while (AcceptComma());
      return EndBracket();
    }
    step->kind = Step::Kind::kIndexes;
    std::optional<std::int64_t> first = ParseInteger();
    SkipSpace();
    if (Peek() == ':') return ParseSlice(step, first);
    if (!first) return Fault("expects an index, a quoted name or *");
    step->indexes.push_back(*first);
    while (AcceptComma()) {
      const std::optional<std::int64_t> next = ParseInteger();
      if (!next) return Fault("expects an index");
      step->indexes.push_back(*next);
    }
    return EndBracket();
  }

  absl::Status ParseSlice(Step* step, std::optional<std::int64_t> from) {
    step->kind = Step::Kind::kSlice;
    step->from = from;
    Accept(':');
    SkipSpace();
    step->to = ParseInteger();
    SkipSpace();
    if (Accept(':')) {
      SkipSpace();
      step->stride = ParseInteger().value_or(1);
      if (step->stride < 1) return Fault("has a slice with a step below 1");
    }
    return EndBracket();
  }

  absl::Status ParseQuoted(Step* step) {
    const char quote = Peek();
    if (quote != '\'' && quote != '"') return Fault("expects a quoted name");
    ++at_;
    std::string name;
    while (at_ < text_.size() && text_[at_] != quote) {
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
      name += text_[at_++];
    }
    if (!Accept(quote)) return Fault("has a quote that does not end");
    step->names.push_back(std::move(name));
    return absl::OkStatus();
  }

  absl::Status EndBracket() {
    SkipSpace();
    if (!Accept(']')) return Fault("expects ]");
    return absl::OkStatus();
  }

  std::optional<std::int64_t> ParseInteger() {
    std::int64_t value = 0;
    const char* end = text_.data() + text_.size();
    const auto [behind, error] = std::from_chars(text_.data() + at_, end, value);
    if (error != std::errc()) return std::nullopt;
    at_ = static_cast<std::size_t>(behind - text_.data());
    return value;
  }

  // Names without quotes: whatever no step and no expression around the path begins or ends with.
  static bool IsNameByte(char c) {
    constexpr std::string_view kSpecial = ".[](){},'\"*?@$&|=<>!~:;\\ \t\n\r";
    return kSpecial.find(c) == kSpecial.npos && static_cast<unsigned char>(c) >= 0x20;
  }
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool Accept(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool AcceptComma() {
    SkipSpace();
    if (!Accept(',')) return false;
    SkipSpace();
    return true;
  }
  void SkipSpace() {
    while (Peek() == ' ') ++at_;
  }
  absl::Status Fault(std::string_view what) const {
    return absl::InvalidArgumentError(
        fmt::format("the path '{}' {}, at character {}", text_, what, at_ + 1));
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

absl::StatusOr<JsonPath> JsonPath::Parse(std::string_view text) { return Parser(text).Parse(); }

// ---------------------------------------------------------------------------------------------

bool JsonPath::is_definite() const {
  return std::all_of(steps_.begin(), steps_.end(), [](const Step& s) { return s.names_one(); });
}

bool JsonPath::is_reference() const {
  return !in_context_ && is_definite() &&
         std::all_of(steps_.begin(), steps_.end(),
                     [](const Step& step) { return step.indexes.empty() || step.indexes[0] >= 0; });
}

const Json* JsonPath::FindOne(const Json& value, const Step& step) {
  if (!step.names.empty()) {
    if (!value.is_object()) return nullptr;
    const auto entry = value.find(step.names.front());
    return entry != value.end() ? &*entry : nullptr;
  }
  if (!value.is_array()) return nullptr;
  const std::optional<std::size_t> index = ElementIndex(value, step.indexes.front());
  return index ? &value[*index] : nullptr;
}

const Json* JsonPath::Find(const Json& root) const {
  const Json* value = &root;
  for (const Step& step : steps_) {
    value = FindOne(*value, step);
    if (value == nullptr) return nullptr;
  }
  return value;
}

void JsonPath::MatchHere(const Json& value, const Step& step, std::vector<const Json*>* out) {
  switch (step.kind) {
    case Step::Kind::kNames:
      for (const std::string& name : step.names) {
        if (!value.is_object()) break;
        if (const auto entry = value.find(name); entry != value.end()) out->push_back(&*entry);
      }
      break;
    case Step::Kind::kIndexes:
      for (const std::int64_t index : step.indexes) {
        if (!value.is_array()) break;
        if (const auto at = ElementIndex(value, index)) out->push_back(&value[*at]);
      }
      break;
    case Step::Kind::kSlice: {
      if (!value.is_array()) break;
      const auto size = static_cast<std::int64_t>(value.size());
      const auto clamp = [size](std::int64_t i) {
        return std::clamp<std::int64_t>(i < 0 ? i + size : i, 0, size);
      };
      const std::int64_t to = clamp(step.to.value_or(size));
      for (std::int64_t i = clamp(step.from.value_or(0)); i < to;) {
        out->push_back(&value[static_cast<std::size_t>(i)]);
        if (step.stride >= to - i) break;  // also where the sum would not fit
        i += step.stride;
      }
      break;
    }
    case Step::Kind::kAll:
      for (auto entry = value.begin(); value.is_structured() && entry != value.end(); ++entry) {
        out->push_back(&*entry);
      }
      break;
  }
}

void JsonPath::MatchBelow(const Json& value, const Step& step, std::vector<const Json*>* out) {
  if (out->size() > kMaxMatches) return;
  MatchHere(value, step, out);
  for (auto entry = value.begin(); value.is_structured() && entry != value.end(); ++entry) {
    MatchBelow(*entry, step, out);
  }
}

absl::StatusOr<std::vector<const Json*>> JsonPath::Select(const Json& root) const {
  std::vector<const Json*> matches = {&root};
  for (const Step& step : steps_) {
    std::vector<const Json*> next;
    for (const Json* match : matches) {
      step.descends ? MatchBelow(*match, step, &next) : MatchHere(*match, step, &next);
      if (next.size() > kMaxMatches) {
        return absl::ResourceExhaustedError(
            fmt::format("the path '{}' matches more than {} values", text_, kMaxMatches));
      }
    }
    matches = std::move(next);
  }
  return matches;
}

absl::Status JsonPath::Put(Json* root, Json value) const {
  Json* at = root;
  for (const Step& step : steps_) {
    if (!step.names.empty()) {
      if (at->is_null() && at != root) *at = Json::object();  // made by the step before
      if (!at->is_object()) {
        return absl::FailedPreconditionError(fmt::format(
            "'{}' cannot be put there: what holds '{}' is no object", text_, step.names.front()));
      }
      at = &(*at)[step.names.front()];
      continue;
    }
    const std::optional<std::size_t> index =
        at->is_array() ? ElementIndex(*at, step.indexes.front()) : std::nullopt;
    if (!index) {
      return absl::FailedPreconditionError(fmt::format(
          "'{}' cannot be put there: no array has an element {}", text_, step.indexes.front()));
    }
    at = &(*at)[*index];
  }
  *at = std::move(value);
  return absl::OkStatus();
}

}  // namespace apta::workflow
