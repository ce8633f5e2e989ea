// The intrinsic functions of the States Language, all but States.Hash.

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/escaping.h"
#include "compute/workflow/expression.h"
#include "fmt/format.h"

namespace apta::workflow {
namespace {

constexpr std::size_t kAnyNumber = ~std::size_t{0};
constexpr std::int64_t kMaxRange = 1000;

using Arguments = std::vector<Json>;

absl::Status Wrong(std::size_t index, std::string_view expected, const Json& given) {
  std::string text = ToText(given);
  if (text.size() > 100) text = text.substr(0, 100) + "…";
  return absl::InvalidArgumentError(
      fmt::format("argument {} must be {}, not {}", index + 1, expected, text));
}

#define APTA_EXPECT(index, holds, expected) \
  if (!(arguments[index].holds)) return Wrong(index, expected, arguments[index])

const std::string& TextOf(const Json& value) { return value.get_ref<const std::string&>(); }

// A number without a fraction, whichever way it is written.
std::optional<std::int64_t> IntegerOf(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    if (number > INT64_MAX) return std::nullopt;
    return static_cast<std::int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<std::int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (std::abs(number) > 0x1p53 || number != std::trunc(number)) return std::nullopt;
  return static_cast<std::int64_t>(number);
}

absl::StatusOr<Json> Format(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_string(), "a text");
  const std::string& pattern = TextOf(arguments[0]);
  std::string text;
  std::size_t next = 1;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\\' && i + 1 < pattern.size()) {
      text += pattern[++i];
    } else if (pattern.compare(i, 2, "{}") == 0) {
      if (next == arguments.size()) {
        return absl::InvalidArgumentError("the text has more {} than there are values");
      }
      const Json& value = arguments[next++];
      text += value.is_string() ? TextOf(value) : ToText(value);
      ++i;
    } else {
      text += pattern[i];
    }
  }
  if (next != arguments.size()) {
    return absl::InvalidArgumentError("there are more values than the text has {}");
  }
  return text;
}

absl::StatusOr<Json> StringToJson(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_string(), "a text");
  return ParseJson(TextOf(arguments[0]));
}

absl::StatusOr<Json> JsonToString(Arguments& arguments, Scope*) { return ToText(arguments[0]); }

absl::StatusOr<Json> Array(Arguments& arguments, Scope*) {
  Json array = Json::array();
  for (Json& argument : arguments) array.push_back(std::move(argument));
  return array;
}

absl::StatusOr<Json> ArrayPartition(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_array(), "an array");
  const std::optional<std::int64_t> size = IntegerOf(arguments[1]);
  if (!size || *size < 1) return Wrong(1, "an integer above 0", arguments[1]);
  Json chunks = Json::array();
  for (Json& element : arguments[0]) {
    if (chunks.empty() || chunks.back().size() == static_cast<std::size_t>(*size)) {
      chunks.push_back(Json::array());
    }
    chunks.back().push_back(std::move(element));
  }
  return chunks;
}

absl::StatusOr<Json> ArrayContains(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_array(), "an array");
  return std::find(arguments[0].begin(), arguments[0].end(), arguments[1]) != arguments[0].end();
}

absl::StatusOr<Json> ArrayRange(Arguments& arguments, Scope*) {
  std::array<std::int64_t, 3> bound{};
  for (std::size_t i = 0; i < bound.size(); ++i) {
    const std::optional<std::int64_t> value = IntegerOf(arguments[i]);
    if (!value || std::abs(*value) > (std::int64_t{1} << 53)) {
      return Wrong(i, "an integer", arguments[i]);
    }
    bound[i] = *value;
  }
  const auto [first, last, step] = bound;
  if (step == 0) return Wrong(2, "other than 0", arguments[2]);
  if ((last - first) / step >= kMaxRange) {
    return absl::InvalidArgumentError(fmt::format("makes more than {} elements", kMaxRange));
  }
  Json range = Json::array();
  for (std::int64_t i = first; step > 0 ? i <= last : i >= last; i += step) range.push_back(i);
  return range;
}

absl::StatusOr<Json> ArrayGetItem(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_array(), "an array");
  const std::optional<std::int64_t> index = IntegerOf(arguments[1]);
  if (!index || *index < 0 || static_cast<std::size_t>(*index) >= arguments[0].size()) {
    return Wrong(1, fmt::format("the index of one of {} elements", arguments[0].size()),
                 arguments[1]);
  }
  return std::move(arguments[0][static_cast<std::size_t>(*index)]);
}

absl::StatusOr<Json> ArrayLength(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_array(), "an array");
  return arguments[0].size();
}

// The first of equals stays, in its place.
absl::StatusOr<Json> ArrayUnique(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_array(), "an array");
  std::vector<const Json*> order;
  for (const Json& element : arguments[0]) order.push_back(&element);
  std::stable_sort(order.begin(), order.end(), [](auto* a, auto* b) { return *a < *b; });
  const auto end =
      std::unique(order.begin(), order.end(), [](auto* a, auto* b) { return *a == *b; });
  order.erase(end, order.end());
  std::sort(order.begin(), order.end());  // elements of one array: by index
  Json unique = Json::array();
  for (const Json* element : order) unique.push_back(*element);
  return unique;
}

absl::StatusOr<Json> Base64Encode(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_string(), "a text");
  return absl::Base64Escape(TextOf(arguments[0]));
}

absl::StatusOr<Json> Base64Decode(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_string(), "a text");
  std::string decoded;
  if (!absl::Base64Unescape(TextOf(arguments[0]), &decoded)) {
    return Wrong(0, "Base64", arguments[0]);
  }
  // A JSON text has to be UTF-8.
  if (*ParseJson(ToText(decoded)) != decoded) {
    return Wrong(0, "UTF-8 in Base64", arguments[0]);
  }
  return decoded;
}

absl::StatusOr<Json> JsonMerge(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_object(), "an object");
  APTA_EXPECT(1, is_object(), "an object");
  if (arguments[2] != Json(false)) {
    return Wrong(2, "false: only the outermost level is merged", arguments[2]);
  }
  arguments[0].update(arguments[1]);
  return std::move(arguments[0]);
}

absl::StatusOr<Json> MathRandom(Arguments& arguments, Scope* scope) {
  const std::optional<std::int64_t> from = IntegerOf(arguments[0]);
  const std::optional<std::int64_t> to = IntegerOf(arguments[1]);
  if (!from) return Wrong(0, "an integer", arguments[0]);
  if (!to || *to <= *from) return Wrong(1, "an integer above the first", arguments[1]);
  const auto seed = arguments.size() == 3 ? IntegerOf(arguments[2]) : std::nullopt;
  if (arguments.size() == 3 && !seed) return Wrong(2, "an integer", arguments[2]);
  Random seeded(static_cast<std::uint64_t>(seed.value_or(0)));
  const std::uint64_t range = static_cast<std::uint64_t>(*to) - static_cast<std::uint64_t>(*from);
  const std::uint64_t offset = (seed ? seeded : *scope->random).Next() % range;
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(*from) + offset);
}

absl::StatusOr<Json> MathAdd(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_number(), "a number");
  APTA_EXPECT(1, is_number(), "a number");
  const std::optional<std::int64_t> left = IntegerOf(arguments[0]);
  const std::optional<std::int64_t> right = IntegerOf(arguments[1]);
  std::int64_t sum = 0;
  if (left && right && !__builtin_add_overflow(*left, *right, &sum)) return sum;
  const double real = arguments[0].get<double>() + arguments[1].get<double>();
  if (!std::isfinite(real)) return absl::InvalidArgumentError("the sum is out of range");
  return real;
}

// At any of the characters of the second; nothing empty comes of it.
absl::StatusOr<Json> StringSplit(Arguments& arguments, Scope*) {
  APTA_EXPECT(0, is_string(), "a text");
  APTA_EXPECT(1, is_string(), "a text");
  const std::string& text = TextOf(arguments[0]);
  const std::string& separators = TextOf(arguments[1]);
  Json parts = Json::array();
  for (std::size_t at = 0; (at = text.find_first_not_of(separators, at)) != text.npos;) {
    const std::size_t end = std::min(text.find_first_of(separators, at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end;
  }
  return parts;
}

absl::StatusOr<Json> Uuid(Arguments&, Scope* scope) {
  const std::uint64_t high =
      (scope->random->Next() & ~std::uint64_t{0xf000}) | 0x4000;  // version 4
  const std::uint64_t low = (scope->random->Next() & ~(std::uint64_t{3} << 62)) |
                            std::uint64_t{1} << 63;  // RFC 4122's variant
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, high >> 16 & 0xffff,
                     high & 0xffff, low >> 48, low & 0xffff'ffff'ffff);
}

#undef APTA_EXPECT

constexpr IntrinsicFunction kFunctions[] = {
    {"States.Format", 1, kAnyNumber, Format},
    {"States.StringToJson", 1, 1, StringToJson},
    {"States.JsonToString", 1, 1, JsonToString},
    {"States.Array", 0, kAnyNumber, Array},
    {"States.ArrayPartition", 2, 2, ArrayPartition},
    {"States.ArrayContains", 2, 2, ArrayContains},
    {"States.ArrayRange", 3, 3, ArrayRange},
    {"States.ArrayGetItem", 2, 2, ArrayGetItem},
    {"States.ArrayLength", 1, 1, ArrayLength},
    {"States.ArrayUnique", 1, 1, ArrayUnique},
    {"States.Base64Encode", 1, 1, Base64Encode},
    {"States.Base64Decode", 1, 1, Base64Decode},
    {"States.JsonMerge", 3, 3, JsonMerge},
    {"States.MathRandom", 2, 3, MathRandom},
    {"States.MathAdd", 2, 2, MathAdd},
    {"States.StringSplit", 2, 2, StringSplit},
    {"States.UUID", 0, 0, Uuid},
};

}  // namespace

const IntrinsicFunction* FindIntrinsic(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                   [name](const auto& each) { return each.name == name; });
  return found != std::end(kFunctions) ? found : nullptr;
}

}  // namespace apta::workflow
