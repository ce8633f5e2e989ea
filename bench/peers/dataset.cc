#include "bench/peers/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

namespace apta::peers {
namespace {

constexpr double kZipfExponent = 0.99;
constexpr double kBelowBytes = 12e3;  // kAzureMoments.share_below_12kb is below this

// The mean of a size whose logarithm is uniform between those of `from` and `to`.
double LogUniformMean(double from, double to) { return (to - from) / std::log(to / from); }

// The model: three log-uniform pieces, 1 B to the median, to 12 KB at the published share, and
// beyond. What the three facts leave open is where the last piece ends; the mean says it.
class AzureQuantiles {
 public:
  AzureQuantiles() {
    const auto [median, mean, share] = kAzureMoments;
    const double rest = (mean - 0.5 * LogUniformMean(1, median) -
                         (share - 0.5) * LogUniformMean(median, kBelowBytes)) /
                        (1 - share);
    double low = kBelowBytes * 1.01, high = 1e9;
    for (int i = 0; i < 100; ++i) {
      const double middle = (low + high) / 2;
      (LogUniformMean(kBelowBytes, middle) < rest ? low : high) = middle;
    }
    largest_ = low;
  }

  double At(double quantile) const {
    const auto [median, mean, share] = kAzureMoments;
    if (quantile < 0.5) return std::pow(median, quantile / 0.5);
    if (quantile < share) {
      return median * std::pow(kBelowBytes / median, (quantile - 0.5) / (share - 0.5));
    }
    return kBelowBytes * std::pow(largest_ / kBelowBytes, (quantile - share) / (1 - share));
  }

 private:
  double largest_;
};

bool IsNear(const SizeMoments& moments, double tolerance) {
  return std::abs(moments.median_bytes / kAzureMoments.median_bytes - 1) < 2 * tolerance &&
         std::abs(moments.mean_bytes / kAzureMoments.mean_bytes - 1) < tolerance &&
         std::abs(moments.share_below_12kb - kAzureMoments.share_below_12kb) < tolerance / 4;
}

}  // namespace

std::string_view NameOf(Popularity popularity) {
  return popularity == Popularity::kZipf ? "zipf" : "uniform";
}

std::vector<double> AccessShares(Popularity popularity, std::size_t count) {
  std::vector<double> shares(count, 1);
  if (popularity == Popularity::kZipf) {
    for (std::size_t rank = 0; rank < count; ++rank) {
      shares[rank] = std::pow(static_cast<double>(rank + 1), -kZipfExponent);
    }
    std::shuffle(shares.begin(), shares.end(), std::mt19937(1));
  }
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

// The keys lie side by side on the unit interval, each as wide as its share of the accesses; a
// key's size is the quantile at its middle. Accesses see the model then, whoever is popular,
// except for how much of it one wide interval blurs: some orders are better than others.
absl::StatusOr<std::vector<std::uint32_t>> AzureSizes(const std::vector<double>& shares) {
  const AzureQuantiles quantiles;
  std::vector<std::size_t> order(shares.size());
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(2);
  std::vector<std::uint32_t> sizes(shares.size());
  for (int attempt = 0; attempt < 1000; ++attempt) {
    std::shuffle(order.begin(), order.end(), random);
    double begin = 0;
    for (const std::size_t key : order) {
      const double size = quantiles.At(std::min(begin + shares[key] / 2, 1.0));
      sizes[key] = static_cast<std::uint32_t>(std::lround(size));
      begin += shares[key];
    }
    if (IsNear(MomentsOf(sizes, shares), 0.05)) return sizes;
  }
  return absl::InternalError(
      fmt::format("{} keys cannot have the sizes of the Azure trace", shares.size()));
}

SizeMoments MomentsOf(const std::vector<std::uint32_t>& sizes, const std::vector<double>& shares) {
  std::vector<std::size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, {}, [&](std::size_t key) { return sizes[key]; });
  SizeMoments moments;
  double below = 0;
  for (const std::size_t key : order) {
    if (below < 0.5) moments.median_bytes = sizes[key];
    below += shares[key];
    moments.mean_bytes += shares[key] * sizes[key];
    if (sizes[key] < kBelowBytes) moments.share_below_12kb += shares[key];
  }
  return moments;
}

Dataset::Dataset(std::string label, std::vector<std::uint32_t> sizes)
    : label_(std::move(label)), sizes_(std::move(sizes)) {
  const auto [min, max] = std::ranges::minmax(sizes_);
  min_bytes_ = min;
  max_bytes_ = max;
  total_bytes_ = std::accumulate(sizes_.begin(), sizes_.end(), std::size_t{0});
  for (std::size_t i = 0; i < sizes_.size(); ++i) {
    key_text_ += fmt::format("{:-<22}{:0>10}", label_, i);
  }
  source_.resize(max_bytes_ + 64 * 64);
  std::mt19937_64 random(3);
  for (std::byte& byte : source_) byte = static_cast<std::byte>(random() >> 56);
}

std::vector<std::string_view> Dataset::keys() const {
  std::vector<std::string_view> keys;
  for (std::uint32_t i = 0; i < size(); ++i) keys.push_back(Key(i));
  return keys;
}

Sequence MakeSequence(const std::vector<double>& shares, double put_share, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::discrete_distribution<std::uint32_t> keys(shares.begin(), shares.end());
  std::bernoulli_distribution puts(put_share);
  Sequence sequence;
  sequence.steps.resize(Sequence::kSteps);
  for (Sequence::Step& step : sequence.steps) {
    step.key = keys(random) & 0x7fffffffu;
    step.is_put = puts(random) ? 1u : 0u;
  }
  return sequence;
}

absl::Status CheckAzureAccesses(const Sequence& sequence, const std::vector<std::uint32_t>& sizes) {
  std::vector<double> counts(sizes.size(), 0);
  for (const Sequence::Step& step : sequence.steps) counts[step.key] += 1;
  for (double& count : counts) count /= Sequence::kSteps;
  const SizeMoments moments = MomentsOf(sizes, counts);
  if (IsNear(moments, 0.1)) return absl::OkStatus();
  return absl::InternalError(
      fmt::format("accesses see a median of {:.0f} B, a mean of {:.0f} B, and {:.1f} % below 12 KB",
                  moments.median_bytes, moments.mean_bytes, moments.share_below_12kb * 100));
}

}  // namespace apta::peers
