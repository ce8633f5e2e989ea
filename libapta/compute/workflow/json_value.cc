#include "compute/workflow/json_value.h"

#include <vector>

#include "fmt/format.h"

namespace apta::workflow {
namespace {

// Builds the value from the parser's events, and ends the parse at the first fault.
class JsonBuilder {
 public:
  explicit JsonBuilder(std::size_t max_depth) : max_depth_(max_depth) {}
  Json Take() { return std::move(root_); }
  const std::string& fault() const { return fault_; }

  bool null() { return Add(nullptr) != nullptr; }
  bool boolean(bool value) { return Add(value) != nullptr; }
  bool number_integer(Json::number_integer_t value) { return Add(value) != nullptr; }
  bool number_unsigned(Json::number_unsigned_t value) { return Add(value) != nullptr; }
  bool number_float(Json::number_float_t value, const std::string&) {
    return Add(value) != nullptr;
  }
  bool string(std::string& value) { return Add(std::move(value)) != nullptr; }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(std::size_t) { return Open(Json::object()); }
  bool start_array(std::size_t) { return Open(Json::array()); }
  bool key(std::string& name) {
    if (open_.back()->contains(name)) {
      fault_ = fmt::format("the name \"{}\" stands twice in one object", name);
      return false;
    }
    key_ = std::move(name);
    return true;
  }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) {
    const std::string_view text = error.what();
    const std::size_t behind_id = text.find("] ");
    fault_ = text.substr(behind_id == text.npos ? 0 : behind_id + 2);
    return false;
  }

 private:
  // The outermost container's elements move only after the inner ones are closed, so that the
  // pointers in open_ hold.
  Json* Add(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json* parent = open_.back();
    if (parent->is_array()) {
      parent->push_back(std::move(value));
      return &parent->back();
    }
    return &((*parent)[key_] = std::move(value));
  }
  bool Open(Json container) {
    if (open_.size() == max_depth_) {
      fault_ = fmt::format("nested deeper than {} levels", max_depth_);
      return false;
    }
    open_.push_back(Add(std::move(container)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  const std::size_t max_depth_;
  Json root_;
  std::vector<Json*> open_;
  std::string key_;
  std::string fault_;
};

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view text, std::size_t max_depth) {
  JsonBuilder builder(max_depth);
  if (Json::sax_parse(text, &builder)) return builder.Take();
  return absl::InvalidArgumentError(fmt::format("not JSON: {}", builder.fault()));
}

std::string ToText(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::size_t SizeBytes(const Json& value, std::size_t max_bytes) {
  constexpr std::size_t kBlock = 16;  // the allocator's share, and rounding
  constexpr std::size_t kNode = 32;   // of a tree, before its entry
  std::size_t bytes = sizeof(Json);
  if (value.is_string()) {
    return bytes + kBlock + sizeof(std::string) + value.get_ref<const std::string&>().size();
  }
  if (value.is_object()) bytes += kBlock + sizeof(Json::object_t);
  if (value.is_array()) bytes += kBlock + sizeof(Json::array_t);
  for (auto entry = value.begin(); value.is_structured() && entry != value.end(); ++entry) {
    if (bytes >= max_bytes) break;
    if (value.is_object()) bytes += kBlock + kNode + sizeof(std::string) + entry.key().size();
    bytes += SizeBytes(*entry, max_bytes - std::min(bytes, max_bytes));
  }
  return bytes;
}

bool IsNestedDeeper(const Json& value, std::size_t max_depth) {
  if (!value.is_structured()) return false;
  if (max_depth == 0) return true;
  return std::any_of(value.begin(), value.end(),
                     [max_depth](const Json& each) { return IsNestedDeeper(each, max_depth - 1); });
}

int CompareNumbers(const Json& left, const Json& right) {
  const auto sign = [](auto a, auto b) { return a < b ? -1 : a > b ? 1 : 0; };
  if (left.is_number_float() || right.is_number_float()) {
    return sign(left.get<double>(), right.get<double>());
  }
  const auto is_negative = [](const Json& value) {
    return !value.is_number_unsigned() && value.get<std::int64_t>() < 0;
  };
  const bool left_negative = is_negative(left);
  const bool right_negative = is_negative(right);
  if (left_negative != right_negative) return left_negative ? -1 : 1;
  if (left_negative) return sign(left.get<std::int64_t>(), right.get<std::int64_t>());
  return sign(left.get<std::uint64_t>(), right.get<std::uint64_t>());
}

}  // namespace apta::workflow
