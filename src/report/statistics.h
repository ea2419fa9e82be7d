// Statistics over small samples.
// Not here: which samples belong together (report.h).
#pragma once

#include <optional>
#include <span>

namespace pkv {

/// Quantile q in [0, 1] by linear interpolation between order statistics (NumPy's default).
/// Nothing for an empty sample; the one value of a single sample. Copies and sorts: O(n log n).
std::optional<double> quantile(std::span<const double> samples, double q);

/// quantile(samples, 0.5).
std::optional<double> median(std::span<const double> samples);

/// Nothing for an empty sample.
std::optional<double> mean(std::span<const double> samples);

}  // namespace pkv
