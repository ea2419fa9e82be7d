// Arrival times of a renewal process with Gamma or Weibull intervals, seeded, the same everywhere.
// Not here: which process a trace names (read_servegen.cc).
#pragma once

#include <cstdint>

#include "base/random.h"

namespace pkv::trace_internal {

enum class IntervalFamily : std::uint8_t { kGamma, kWeibull };

/// Shapes for which the samplers below are exact in double.
inline constexpr double kMinGammaShape = 1e-4;
inline constexpr double kMinWeibullShape = 0.01;
inline constexpr double kMaxShape = 1e6;

/// Intervals with a given shape whose mean is 1 / rate.
/// The first arrival is drawn from the equilibrium distribution, so that the expected number of arrivals
/// in any span of T seconds is exactly rate * T. A process that starts with a full interval would give
/// bursty clients (coefficient of variation 9) a third too many requests in a window of 600 s.
class RenewalProcess {
 public:
  /// Requires rate > 0 and a shape inside the limits above.
  RenewalProcess(IntervalFamily family, double shape, double rate);

  /// Seconds from the start of the process to its first arrival.
  double first(SplitMix64& random) const;
  /// Seconds from one arrival to the next.
  double interval(SplitMix64& random) const;

 private:
  IntervalFamily family_;
  double shape_;
  double scale_;
};

/// Gamma variate with scale 1 (Marsaglia and Tsang 2000). Requires shape > 0.
double gamma_variate(double shape, SplitMix64& random);

}  // namespace pkv::trace_internal
