#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "application.h"
#include "common/task.h"
#include "trades.h"

namespace finra {

namespace {

using apta::AsText;
using examples::Task;
using nlohmann::json;

constexpr double kCash = 4'500;  // of each account

// What a web service would send stands in a file. Its bytes become an object.
absl::StatusOr<json> Fetch(Task& task, const json& input, const char* result) {
  const absl::StatusOr<std::string> content = examples::ReadFile(input.at("source"));
  if (!content.ok()) return content.status();
  const std::string key = input.at("key");
  task.Put(key, *content);
  return json{{result, key}};
}
absl::StatusOr<json> FetchMarket(Task& task, const json& input) {
  return Fetch(task, input, "market");
}
absl::StatusOr<json> FetchPortfolios(Task& task, const json& input) {
  return Fetch(task, input, "portfolios");
}

template <Rule rule>
absl::StatusOr<json> Validate(Task& task, const json& input) {
  const absl::StatusOr<apta::Object> portfolios = task.Get(input.at("portfolios"));
  if (!portfolios.ok()) return portfolios.status();
  return json{{"failing", Check(rule, ParsePortfolios(json::parse(AsText(portfolios->bytes()))))}};
}

// The verdicts go where the portfolios are: each account gets its own.
absl::StatusOr<json> MarginBalance(Task& task, const json& input) {
  const absl::StatusOr<apta::Object> market = task.Get(input.at("market"));
  if (!market.ok()) return market.status();
  const absl::StatusOr<apta::Object> object = task.Get(input.at("portfolios"));
  if (!object.ok()) return object.status();
  const json portfolios = json::parse(AsText(object->bytes()));
  json audited = json::object();
  int uncovered = 0;
  const auto margins = CheckMargin(ParsePortfolios(portfolios),
                                   ParsePrices(json::parse(AsText(market->bytes()))), kCash);
  for (const auto& [account, margin] : margins) {
    uncovered += margin.is_covered ? 0 : 1;
    audited[account] = {{"trades", portfolios.at(account)},
                        {"value", margin.value},
                        {"required", margin.required},
                        {"covered", margin.is_covered},
                        {"failing", json::object()}};
  }
  for (const char* rule : {"volume", "trdate", "lastpx", "side"}) {
    for (const std::string trade : input.at(rule)) {
      const std::size_t slash = trade.rfind('/');
      audited.at(trade.substr(0, slash))["failing"][rule].push_back(
          std::stoi(trade.substr(slash + 1)));
    }
  }
  const std::string key = input.at("portfolios");
  task.Put(key, audited.dump());
  json result = input;
  result["uncovered"] = uncovered;
  return result;
}

absl::StatusOr<examples::Input> MakeInput(const examples::InputOptions& options) {
  std::string market = options.data + "/finra/marketdata.json";
  std::string portfolios = options.data + "/finra/portfolios.json";
  if (options.data.empty()) {
    const Generated made = Generate(/*seed=*/2023, /*accounts=*/120, /*securities=*/2'000);
    market = options.scratch + "/marketdata.json";
    portfolios = options.scratch + "/portfolios.json";
    for (const auto& [path, content] : {std::pair(&market, &made.market),  //
                                        std::pair(&portfolios, &made.portfolios)}) {
      if (absl::Status s = examples::WriteFile(*path, content->dump()); !s.ok()) return s;
    }
  }
  return examples::Input{
      {},
      {{"market", {{"source", market}, {"key", options.run + "/market"}}},
       {"portfolios", {{"source", portfolios}, {"key", options.run + "/portfolios"}}}}};
}

absl::StatusOr<examples::Outcome> Collect(apta::Client& client, const json& result) {
  const absl::StatusOr<apta::Object> audited =
      client.Get(result.at("portfolios").get<std::string>());
  if (!audited.ok()) return audited.status();
  examples::Outcome outcome;
  outcome.files["audited.json"] = AsText(audited->bytes());
  outcome.summary =
      fmt::format("{} accounts audited\n", json::parse(outcome.files["audited.json"]).size());
  for (const char* rule : {"volume", "trdate", "lastpx", "side"}) {
    outcome.summary += fmt::format("  {:5} trades fail {}\n", result.at(rule).size(), rule);
  }
  outcome.summary +=
      fmt::format("  {:5} accounts do not cover their margin\n", result.at("uncovered").get<int>());
  return outcome;
}

}  // namespace

const examples::Application& Application() {
  static const auto& application = *new examples::Application{
      .name = "finra",
      .folder = APTA_EXAMPLES_DIR "/finra",
      .pattern = "broadcast-gather",
      .steps = {{"fetchMarket", FetchMarket, {"c1"}},
                {"fetchPortfolios", FetchPortfolios, {"c2"}},
                {"volume", Validate<Rule::kVolume>, {"c1"}},
                {"trdate", Validate<Rule::kTradeDate>, {"c2"}},
                {"lastpx", Validate<Rule::kLastPrice>, {"c3"}},
                {"side", Validate<Rule::kSide>, {"c2"}},
                {"marginBalance", MarginBalance, {"c1"}}},
      .paper = {.hits = 3, .misses = 2, .puts = 2, .invalidating_puts = 1},
      .make_input = MakeInput,
      .collect = Collect};
  return application;
}

}  // namespace finra
