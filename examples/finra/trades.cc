#include "trades.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <random>

namespace finra {

using nlohmann::json;

namespace {

bool IsDate(const std::string& text) {
  if (text.size() != 6 || !std::all_of(text.begin(), text.end(),
                                       [](unsigned char c) { return std::isdigit(c) != 0; })) {
    return false;
  }
  const int number = std::stoi(text);
  return std::chrono::year_month_day(std::chrono::year(2000 + number / 10'000),
                                     std::chrono::month(static_cast<unsigned>(number / 100 % 100)),
                                     std::chrono::day(static_cast<unsigned>(number % 100)))
      .ok();
}

bool Passes(Rule rule, const Trade& trade) {
  switch (rule) {
    case Rule::kVolume:
      return trade.quantity > 0 && trade.quantity <= 1'000'000 &&
             trade.quantity == std::floor(trade.quantity);
    case Rule::kTradeDate:
      return IsDate(trade.date);
    case Rule::kLastPrice: {
      // Ten-thousandths of a dollar at most for what costs less than one; else hundredths are
      // usual, and more than six decimals cannot have been reported.
      const double scaled = trade.price * 1e6;
      return std::isfinite(trade.price) && trade.price > 0 &&
             std::abs(scaled - std::round(scaled)) < 1e-3;
    }
    case Rule::kSide:
      return trade.side == 1 || trade.side == 2;
  }
  return false;
}

}  // namespace

Portfolios ParsePortfolios(const json& portfolios) {
  Portfolios parsed;
  for (const auto& [account, trades] : portfolios.items()) {
    std::vector<Trade>& list = parsed[account];
    for (const json& trade : trades) {
      list.push_back({.security = trade.at("Security"),
                      .quantity = trade.at("LastQty"),
                      .price = trade.at("LastPx"),
                      .side = trade.at("Side"),
                      .date = trade.at("TradeDate")});
    }
  }
  return parsed;
}

json ToJson(const Portfolios& portfolios) {
  json all = json::object();
  for (const auto& [account, trades] : portfolios) {
    json& list = all[account] = json::array();
    for (const Trade& trade : trades) {
      list.push_back({{"Security", trade.security},
                      {"LastQty", trade.quantity},
                      {"LastPx", trade.price},
                      {"Side", trade.side},
                      {"TradeDate", trade.date}});
    }
  }
  return all;
}

Prices ParsePrices(const json& market) {
  return (market.contains("body") ? market.at("body").at("marketData") : market).get<Prices>();
}

std::vector<std::string> Check(Rule rule, const Portfolios& portfolios) {
  std::vector<std::string> failing;
  for (const auto& [account, trades] : portfolios) {
    for (std::size_t i = 0; i < trades.size(); ++i) {
      if (!Passes(rule, trades[i])) failing.push_back(fmt::format("{}/{}", account, i));
    }
  }
  return failing;
}

std::map<std::string, Margin> CheckMargin(const Portfolios& portfolios, const Prices& prices,
                                          double cash) {
  std::map<std::string, Margin> margins;
  for (const auto& [account, trades] : portfolios) {
    double value = 0;
    for (const Trade& trade : trades) {
      const auto price = prices.find(trade.security);
      const double each = price == prices.end() ? trade.price : price->second;
      value += (trade.side == 2 ? -1 : 1) * trade.quantity * each;
    }
    const double required = 0.25 * std::abs(value);
    margins[account] = {value, required, cash >= required};
  }
  return margins;
}

Generated Generate(std::uint32_t seed, int accounts, int securities) {
  std::mt19937 engine(seed);
  const auto roll = [&](int sides) {
    return static_cast<int>(engine() % static_cast<std::uint32_t>(sides));
  };
  const auto name = [](int i) {
    std::string letters;
    for (int rest = i + 26; rest > 0; rest /= 26) letters += static_cast<char>('A' + rest % 26);
    return letters;
  };
  Generated made;
  for (int i = 0; i < securities; ++i) made.market[name(i)] = (100 + roll(40'000)) / 100.0;
  for (int account = 0; account < accounts; ++account) {
    json& trades = made.portfolios[std::to_string(1234 + account)] = json::array();
    for (int i = 1 + roll(4); i > 0; --i) {
      const int fault = roll(25);  // 0 to 3: breaks that rule
      const int quantity = fault == 0 ? -roll(100) : 1 + roll(500);
      const int month = fault == 1 ? 13 : 1 + roll(12);
      const double price = fault == 2 ? 0.0 : (100 + roll(40'000)) / 100.0;
      trades.push_back({{"Security", name(roll(securities))},
                        {"LastQty", quantity},
                        {"LastPx", price},
                        {"Side", fault == 3 ? 7 : 1 + roll(2)},
                        {"TrdSubType", 0},
                        {"TradeDate", fmt::format("20{:02}{:02}", month, 1 + roll(28))}});
    }
  }
  return made;
}

}  // namespace finra
