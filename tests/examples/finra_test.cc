// finra: the audit of the example's own portfolios equals one computed from their JSON right here.

#include <cmath>
#include <set>

#include "finra/trades.h"
#include "tests/examples/examples_run.h"

namespace {

using apta::test::ExampleTest;
using apta::test::ExpectCounts;
using finra::Rule;
using nlohmann::json;

class FinraTest : public ExampleTest {};

finra::Portfolios One(const finra::Trade& trade) { return {{"7", {trade}}}; }
const finra::Trade kGood = {"GOOG", 10, 1363.85123, 1, "200507"};

TEST(FinraRulesTest, EachRuleNamesWhatBreaksItAlone) {
  const auto expect = [](const finra::Trade& trade, const std::set<Rule>& broken) {
    for (const Rule rule : {Rule::kVolume, Rule::kTradeDate, Rule::kLastPrice, Rule::kSide}) {
      const std::vector<std::string> failing = finra::Check(rule, One(trade));
      EXPECT_EQ(failing, broken.contains(rule) ? std::vector<std::string>{"7/0"}
                                               : std::vector<std::string>{})
          << static_cast<int>(rule);
    }
  };
  const auto with = [](auto finra::Trade::*field, auto value) {
    finra::Trade trade = kGood;
    trade.*field = value;
    return trade;
  };
  expect(kGood, {});
  for (const double quantity : {0.0, -3.0, 0.5, 1e7, std::nan("")}) {
    expect(with(&finra::Trade::quantity, quantity), {Rule::kVolume});
  }
  for (const char* date : {"", "201301", "200230", "20-507", "2005071", "200229 "}) {
    expect(with(&finra::Trade::date, date), {Rule::kTradeDate});
  }
  expect(with(&finra::Trade::date, "200229"), {});  // 2020 was a leap year
  for (const double price : {0.0, -1.0, 1.23456789, std::nan("")}) {
    expect(with(&finra::Trade::price, price), {Rule::kLastPrice});
  }
  for (const int side : {0, 3, -1}) expect(with(&finra::Trade::side, side), {Rule::kSide});
  expect(with(&finra::Trade::side, 2), {});
}

TEST(FinraMarginTest, SoldIsTakenFromBoughtAndUnknownSecuritiesCountAsReported) {
  finra::Trade sold = kGood;
  sold.side = 2;
  sold.quantity = 4;
  finra::Trade unknown = kGood;
  unknown.security = "NONE";
  unknown.price = 2;
  const auto margins =
      finra::CheckMargin({{"7", {kGood, sold, unknown}}, {"8", {}}}, {{"GOOG", 100}}, 154);
  EXPECT_DOUBLE_EQ(margins.at("7").value, 10 * 100 - 4 * 100 + 10 * 2);
  EXPECT_DOUBLE_EQ(margins.at("7").required, 155);
  EXPECT_FALSE(margins.at("7").is_covered);
  EXPECT_TRUE(margins.at("8").is_covered);
}

TEST_F(FinraTest, AuditEqualsOneComputedWithoutApta) {
  const json measured = Run({"finra", "--pinned"});
  // One hit more than the paper: marginBalance reads the market as well as the portfolios.
  ExpectCounts(measured, {4, 2}, {2, 1}, "c1 c2 c1 c2 c3 c2 c1");
  const json audited = Json("audited.json");
  const finra::Generated made = finra::Generate(2023, 120, 2'000);
  ASSERT_EQ(audited.size(), made.portfolios.size());
  int faults = 0;
  for (const auto& [account, trades] : made.portfolios.items()) {
    const json& audit = audited[account];
    EXPECT_EQ(audit["trades"], trades);
    json failing = json::object();
    double value = 0;
    for (std::size_t i = 0; i < trades.size(); ++i) {
      const json& trade = trades[i];
      const double quantity = trade["LastQty"];
      const int side = trade["Side"];
      if (quantity <= 0) failing["volume"].push_back(i);
      if (trade["TradeDate"].get<std::string>().substr(2, 2) > "12") failing["trdate"].push_back(i);
      if (trade["LastPx"] == 0.0) failing["lastpx"].push_back(i);
      if (side != 1 && side != 2) failing["side"].push_back(i);
      const double price = made.market[trade["Security"].get<std::string>()];
      value += side == 2 ? -quantity * price : quantity * price;
    }
    for (const json& rule : failing) faults += static_cast<int>(rule.size());
    EXPECT_EQ(audit["failing"], failing) << account;
    EXPECT_NEAR(audit["value"].get<double>(), value, 1e-6);
    EXPECT_EQ(audit["covered"].get<bool>(), 4'500 >= std::abs(value) / 4);
  }
  EXPECT_GT(faults, 10);  // the input has something to find
}

}  // namespace
