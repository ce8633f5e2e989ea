#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "application.h"
#include "common/task.h"
#include "matrix.h"

namespace gemm {

namespace {

using apta::AsText;
using examples::Task;
using nlohmann::json;

constexpr int kParts = 2;   // of the map, and of the reduce
constexpr int kBlock = 64;  // rows and columns that OpenBLAS is given at once

std::string_view AsChars(const std::vector<double>& values, std::size_t begin, std::size_t end) {
  return {reinterpret_cast<const char*>(values.data() + begin), (end - begin) * sizeof(double)};
}

// Slices of the sum over k: each mapper gets columns of A and the same rows of B.
absl::StatusOr<json> Split(Task& task, const json& input) {
  const std::string key = input.at("factors");
  const absl::StatusOr<apta::Object> object = task.Get(key);
  if (!object.ok()) return object.status();
  const absl::StatusOr<Factors> factors = ParseFactors(AsText(object->bytes()));
  if (!factors.ok()) return factors.status();
  json slices = json::array();
  for (const Slice& slice : CutSlices(*factors, kParts)) {
    slices.push_back(
        {{"slice", fmt::format("{}/slice-{}", key, slices.size())}, {"dense", input.at("dense")}});
    task.Put(slices.back().at("slice"), Pack(slice));
  }
  return json{{"slices", slices}};
}

absl::StatusOr<json> Map(Task& task, const json& input) {
  const std::string key = input.at("slice");
  const absl::StatusOr<apta::Object> object = task.Get(key);
  if (!object.ok()) return object.status();
  const absl::StatusOr<Slice> slice = UnpackSlice(AsText(object->bytes()));
  if (!slice.ok()) return slice.status();
  const Dense product =
      input.at("dense").get<bool>() ? MultiplyBlocked(*slice, kBlock) : MultiplySparse(*slice);
  task.Put(key + "/product", Pack(product));
  return json{{"product", key + "/product"}, {"size", product.size}};
}

// Ranges of rows: each reducer sums the same rows of all products.
absl::StatusOr<json> SplitRows(Task&, const json& input) {
  std::vector<std::string> products;
  for (const json& mapped : input.at("mapped")) products.push_back(mapped.at("product"));
  const int size = input.at("mapped").at(0).at("size");
  json ranges = json::array();
  for (int i = 0; i < kParts; ++i) {
    ranges.push_back(
        {{"products", products},
         {"begin", size * i / kParts},
         {"end", size * (i + 1) / kParts},
         {"rows", fmt::format("{}/rows-{}", input.at("factors").get<std::string>(), i)}});
  }
  return json{{"ranges", ranges}};
}

absl::StatusOr<json> Reduce(Task& task, const json& input) {
  const int begin = input.at("begin");
  const int end = input.at("end");
  std::vector<double> sum;
  int size = 0;
  for (const std::string key : input.at("products")) {
    const absl::StatusOr<apta::Object> object = task.Get(key);
    if (!object.ok()) return object.status();
    const absl::StatusOr<DenseView> product = ViewDense(AsText(object->bytes()));
    if (!product.ok()) return product.status();
    if (begin < 0 || begin > end || end > product->size || (size != 0 && size != product->size)) {
      return absl::InvalidArgumentError(fmt::format("{} has no rows {} to {}", key, begin, end));
    }
    size = product->size;
    const std::ptrdiff_t first = std::ptrdiff_t{begin} * size;
    sum.resize(static_cast<std::size_t>(std::ptrdiff_t{end - begin} * size));
    std::transform(sum.begin(), sum.end(), product->values + first, sum.begin(), std::plus<>());
  }
  task.Put(input.at("rows"), AsChars(sum, 0, sum.size()));
  return json{{"rows", input.at("rows")}, {"size", size}};
}

absl::StatusOr<examples::Input> MakeInput(const examples::InputOptions& options) {
  std::string factors;
  if (options.data.empty()) {
    factors = MakeFactors(/*seed=*/42, /*size=*/200, /*percent=*/25);
  } else {
    absl::StatusOr<std::string> file = examples::ReadFile(options.data + "/gemm/input-large.txt");
    if (!file.ok()) return file.status();
    factors = *std::move(file);
  }
  const std::string key = options.run + "/factors";
  return examples::Input{{{key, std::move(factors)}},
                         {{"factors", key}, {"dense", options.variant == "dense"}}};
}

absl::StatusOr<examples::Outcome> Collect(apta::Client& client, const json& result) {
  examples::Outcome outcome;
  std::string& product = outcome.files["product.csv"];
  int nonzero = 0;
  int row = 0;
  for (const json& part : result) {
    const absl::StatusOr<apta::Object> object = client.Get(part.at("rows").get<std::string>());
    if (!object.ok()) return object.status();
    const auto* values = reinterpret_cast<const double*>(object->bytes().data());
    const int size = part.at("size");
    const std::size_t count = object->size() / sizeof(double);
    for (std::size_t i = 0; i < count; ++i) {
      const int column = static_cast<int>(i) % size;
      if (values[i] != 0) {
        product += fmt::format("C,{},{},{}\n", row, column, values[i]);
        ++nonzero;
      }
      if (column == size - 1) ++row;
    }
  }
  outcome.summary = fmt::format("a product of {} rows with {} entries\n", row, nonzero);
  return outcome;
}

}  // namespace

const examples::Application& Application() {
  static const auto& application = *new examples::Application{
      .name = "gemm",
      .folder = APTA_EXAMPLES_DIR "/gemm",
      .pattern = "map-reduce",
      .steps = {{"split", Split, {"c1"}},
                {"map", Map, {"c1", "c2"}},
                {"splitRows", SplitRows, {"c1"}},
                {"reduce", Reduce, {"c1", "c2"}}},
      .paper = {.hits = 3, .misses = 3, .puts = 6, .invalidating_puts = 0},
      .make_input = MakeInput,
      .collect = Collect,
      .variants = {"dense"}};
  return application;
}

}  // namespace gemm
