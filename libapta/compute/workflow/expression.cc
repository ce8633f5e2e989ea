#include "compute/workflow/expression.h"

#include <algorithm>

#include "compute/workflow/data.h"
#include "fmt/format.h"

namespace apta::workflow {
namespace {

constexpr int kMaxCallDepth = 10;  // as the States Language's other interpreters

}  // namespace

absl::Status Scope::Charge(const Json& value) {
  const std::size_t bytes = SizeBytes(value, left_bytes + 1);
  if (bytes > left_bytes) return DataLimitExceeded(left_bytes);
  left_bytes -= bytes;
  return absl::OkStatus();
}

absl::StatusOr<const Json*> FindValue(const JsonPath& path, const Scope& scope) {
  const Json* value = path.Find(path.in_context() ? *scope.context : *scope.input);
  if (value != nullptr) return value;
  return absl::NotFoundError(fmt::format("the path '{}' means nothing in the state's {}",
                                         path.text(), path.in_context() ? "context" : "input"));
}

absl::StatusOr<Json> EvaluatePath(const JsonPath& path, Scope* scope) {
  if (path.is_definite()) {
    const absl::StatusOr<const Json*> value = FindValue(path, *scope);
    if (!value.ok()) return value.status();
    if (absl::Status charged = scope->Charge(**value); !charged.ok()) return charged;
    return **value;
  }
  const auto matches = path.Select(path.in_context() ? *scope->context : *scope->input);
  if (!matches.ok()) return matches.status();
  Json all = Json::array();
  for (const Json* match : *matches) {
    if (absl::Status charged = scope->Charge(*match); !charged.ok()) return charged;
    all.push_back(*match);
  }
  return all;
}

// ---------------------------------------------------------------------------------------------

class Expression::Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<Expression> Parse() {
    absl::StatusOr<Expression> expression = ParseAny(0);
    if (!expression.ok()) return expression;
    SkipSpace();
    if (at_ != text_.size()) return Fault("has something behind its end");
    if (expression->kind_ == Kind::kLiteral) return Fault("must begin with $ or States.");
    return expression;
  }

 private:
  absl::StatusOr<Expression> ParseAny(int depth) {
    SkipSpace();
    if (Peek() == '$') return ParsePath();
    if (Peek() == '\'') return ParseQuoted();
    if (text_.substr(at_).starts_with("States.")) return ParseCall(depth);
    return ParseWord();
  }

  // Up to the comma or parenthesis that is in no bracket and no quotes.
  absl::StatusOr<Expression> ParsePath() {
    const std::size_t begin = at_;
    int brackets = 0;
    char quote = '\0';
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (quote != '\0') {
        if (c == '\\') ++at_;
        if (c == quote) quote = '\0';
        continue;
      }
      if (brackets == 0 && (c == ',' || c == ')' || c == ' ')) break;
      if (c == '\'' || c == '"') quote = c;
      brackets += c == '[' ? 1 : c == ']' ? -1 : 0;
    }
    at_ = std::min(at_, text_.size());
    absl::StatusOr<JsonPath> path = JsonPath::Parse(text_.substr(begin, at_ - begin));
    if (!path.ok()) return path.status();
    Expression expression;
    expression.kind_ = Kind::kPath;
    expression.path_ = *std::move(path);
    return expression;
  }

  // \{ and \} stay as they are: States.Format knows them from its own braces.
  absl::StatusOr<Expression> ParseQuoted() {
    ++at_;
    std::string text;
    for (; at_ < text_.size() && text_[at_] != '\''; ++at_) {
      if (text_[at_] == '\\') {
        if (++at_ == text_.size()) break;
        const char escaped = text_[at_];
        if (std::string_view("'\\{}").find(escaped) == std::string_view::npos) {
          return Fault("may escape only ' \\ { and }");
        }
        if (escaped != '\'') text += '\\';
      }
      text += text_[at_];
    }
    if (at_ == text_.size()) return Fault("has a quote that does not end");
    ++at_;
    Expression expression;
    expression.literal_ = std::move(text);
    return expression;
  }

  absl::StatusOr<Expression> ParseCall(int depth) {
    if (depth == kMaxCallDepth) {
      return Fault(fmt::format("nests more than {} calls", kMaxCallDepth));
    }
    const std::size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != '(') ++at_;
    const std::string_view name = text_.substr(begin, at_ - begin);
    Expression call;
    call.kind_ = Kind::kCall;
    call.function_ = FindIntrinsic(name);
    if (call.function_ == nullptr) {
      at_ = begin;
      return Fault(fmt::format("calls {}, which is no intrinsic function", name));
    }
    if (Peek() != '(') return Fault("expects (");
    ++at_;
    SkipSpace();
    while (Peek() != ')') {
      absl::StatusOr<Expression> argument = ParseAny(depth + 1);
      if (!argument.ok()) return argument;
      if (argument->literal_.is_string() && name != "States.Format") Unescape(&argument->literal_);
      call.arguments_.push_back(*std::move(argument));
      SkipSpace();
      if (Peek() == ',') {
        ++at_;
      } else if (Peek() != ')') {
        return Fault("expects , or )");
      }
    }
    ++at_;
    const std::size_t count = call.arguments_.size();
    if (count < call.function_->min_arguments || count > call.function_->max_arguments) {
      return Fault(fmt::format("gives {} {} arguments", name, count));
    }
    return call;
  }

  absl::StatusOr<Expression> ParseWord() {
    const std::size_t end = std::min(text_.find_first_of(",) ", at_), text_.size());
    const absl::StatusOr<Json> word = ParseJson(text_.substr(at_, end - at_), 0);
    if (!word.ok() || word->is_string()) {
      return Fault("expects a path, a call, 'text', a number, true, false or null");
    }
    at_ = end;
    Expression expression;
    expression.literal_ = *word;
    return expression;
  }

  static void Unescape(Json* literal) {
    auto& text = literal->get_ref<std::string&>();
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\\' && i + 1 < text.size()) ++i;
      plain += text[i];
    }
    text = std::move(plain);
  }

  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void SkipSpace() {
    while (Peek() == ' ') ++at_;
  }
  absl::Status Fault(std::string_view what) const {
    return absl::InvalidArgumentError(
        fmt::format("'{}' {}, at character {}", text_, what, at_ + 1));
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

absl::StatusOr<Expression> Expression::Parse(std::string_view text) { return Parser(text).Parse(); }

absl::StatusOr<Json> Expression::Evaluate(Scope* scope) const {
  switch (kind_) {
    case Kind::kLiteral:
      return literal_;
    case Kind::kPath:
      return EvaluatePath(path_, scope);
    case Kind::kCall:
      break;
  }
  std::vector<Json> values;
  for (const Expression& argument : arguments_) {
    absl::StatusOr<Json> value = argument.Evaluate(scope);
    if (!value.ok()) return value;
    values.push_back(*std::move(value));
  }
  absl::StatusOr<Json> result = function_->apply(values, scope);
  if (!result.ok()) {
    return absl::Status(
        result.status().code(),
        fmt::format("{}: {}", function_->name, std::string(result.status().message())));
  }
  if (absl::Status charged = scope->Charge(*result); !charged.ok()) return charged;
  return result;
}

bool Expression::uses_context() const {
  return (kind_ == Kind::kPath && path_.in_context()) ||
         std::any_of(arguments_.begin(), arguments_.end(),
                     [](const Expression& argument) { return argument.uses_context(); });
}

}  // namespace apta::workflow
