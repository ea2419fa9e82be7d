// Gamma and Weibull variates, and their equilibrium forms.
// Not here: which process a trace names (read_servegen.cc).
#include "trace/renewal.h"

#include <cmath>

namespace pkv::trace_internal {
namespace {

/// In (0, 1]: its logarithm is finite.
double positive_uniform(SplitMix64& random) { return 1.0 - random.uniform(); }

/// Standard normal by Marsaglia's polar method; the second value of a pair is thrown away.
double normal_variate(SplitMix64& random) {
  for (;;) {
    const double x = 2.0 * random.uniform() - 1.0;
    const double y = 2.0 * random.uniform() - 1.0;
    const double square = x * x + y * y;
    if (square > 0.0 && square < 1.0) {
      return x * std::sqrt(-2.0 * std::log(square) / square);
    }
  }
}

}  // namespace

double gamma_variate(double shape, SplitMix64& random) {
  if (shape < 1.0) {  // Gamma(a) = Gamma(a + 1) * U^(1/a)
    return gamma_variate(shape + 1.0, random) * std::pow(positive_uniform(random), 1.0 / shape);
  }
  const double d = shape - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {
    const double x = normal_variate(random);
    const double t = 1.0 + c * x;
    const double v = t * t * t;
    if (t > 0.0 && std::log(positive_uniform(random)) < 0.5 * x * x + d - d * v + d * std::log(v)) {
      return d * v;
    }
  }
}

RenewalProcess::RenewalProcess(IntervalFamily family, double shape, double rate)
    : family_(family),
      shape_(shape),
      scale_(family == IntervalFamily::kGamma ? 1.0 / (rate * shape)
                                              : std::exp(-std::lgamma(1.0 + 1.0 / shape)) / rate) {}

/// The equilibrium distribution is a uniform share of a length-biased interval. Length-biased Gamma(k) is
/// Gamma(k + 1); length-biased Weibull(k) is the k-th root of Gamma(1 + 1/k).
double RenewalProcess::first(SplitMix64& random) const {
  const double biased = family_ == IntervalFamily::kGamma
                            ? gamma_variate(shape_ + 1.0, random)
                            : std::pow(gamma_variate(1.0 + 1.0 / shape_, random), 1.0 / shape_);
  return scale_ * biased * random.uniform();
}

double RenewalProcess::interval(SplitMix64& random) const {
  return family_ == IntervalFamily::kGamma ? scale_ * gamma_variate(shape_, random)
                                           : scale_ * std::pow(-std::log(positive_uniform(random)), 1.0 / shape_);
}

}  // namespace pkv::trace_internal
