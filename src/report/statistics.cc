// Order statistics by sorting a copy.
#include "report/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace pkv {

std::optional<double> quantile(std::span<const double> samples, double q) {
  if (samples.empty()) {
    return std::nullopt;
  }
  std::vector<double> sorted(samples.begin(), samples.end());
  std::sort(sorted.begin(), sorted.end());
  const double position = std::clamp(q, 0.0, 1.0) * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], position - static_cast<double>(below));
}

std::optional<double> median(std::span<const double> samples) { return quantile(samples, 0.5); }

std::optional<double> mean(std::span<const double> samples) {
  if (samples.empty()) {
    return std::nullopt;
  }
  return std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size());
}

}  // namespace pkv
