// Portfolios, prices, and the checks that trades have to pass: after the audit rules that FINRA's
// serverless validation is known by.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace finra {

struct Trade {
  std::string security;
  double quantity;
  double price;      // as reported
  int side;          // 1 bought, 2 sold
  std::string date;  // yymmdd
};

using Portfolios = std::map<std::string, std::vector<Trade>>;  // by account
using Prices = std::map<std::string, double>;                  // last price by security

// The fields' names are those of FIX: Security, LastQty, LastPx, Side, TradeDate. Throw
// nlohmann's exceptions on anything else. ParsePrices also takes the prices under body.marketData.
Portfolios ParsePortfolios(const nlohmann::json& portfolios);
nlohmann::json ToJson(const Portfolios& portfolios);
Prices ParsePrices(const nlohmann::json& market);

// Each check names the trades that do not pass, as "ACCOUNT/index".
enum class Rule { kVolume, kTradeDate, kLastPrice, kSide };
std::vector<std::string> Check(Rule rule, const Portfolios& portfolios);

// Whether the account's cash covers the margin on what its trades are worth at today's prices.
struct Margin {
  double value;     // bought minus sold, at last prices; unknown securities count as reported
  double required;  // a quarter of its absolute value (Regulation T's maintenance margin)
  bool is_covered;
};
std::map<std::string, Margin> CheckMargin(const Portfolios& portfolios, const Prices& prices,
                                          double cash);

// An input of our own, the same for the same arguments on any machine. Some trades break rules.
struct Generated {
  nlohmann::json portfolios;
  nlohmann::json market;
};
Generated Generate(std::uint32_t seed, int accounts, int securities);

}  // namespace finra
