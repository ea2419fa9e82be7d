// Moments of the renewal processes that ServeGen clients are drawn from.
// Not here: ServeGen's files.
#include "trace/renewal.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pkv::trace_internal {
namespace {

struct Moments {
  double mean;
  double variation;
};

template <typename Draw>
Moments moments(Draw draw, int count) {
  double sum = 0.0;
  double squares = 0.0;
  for (int i = 0; i < count; ++i) {
    const double x = draw();
    sum += x;
    squares += x * x;
  }
  const double mean = sum / count;
  return {mean, std::sqrt(squares / count - mean * mean) / mean};
}

TEST(GammaVariate, Moments_AreThoseOfTheShape) {
  SplitMix64 random(1);
  for (const double shape : {0.2, 0.9, 1.0, 2.5, 40.0}) {
    const Moments drawn = moments([&] { return gamma_variate(shape, random); }, 400000);
    EXPECT_NEAR(drawn.mean / shape, 1.0, 0.02) << shape;
    EXPECT_NEAR(drawn.variation * std::sqrt(shape), 1.0, 0.02) << shape;
  }
}

TEST(RenewalProcess, Intervals_HaveTheMeanOfTheRate) {
  SplitMix64 random(2);
  for (const double shape : {0.5, 1.0, 3.0}) {
    const RenewalProcess gamma(IntervalFamily::kGamma, shape, 4.0);
    const RenewalProcess weibull(IntervalFamily::kWeibull, shape, 4.0);
    EXPECT_NEAR(moments([&] { return gamma.interval(random); }, 400000).mean, 0.25, 0.005) << shape;
    EXPECT_NEAR(moments([&] { return weibull.interval(random); }, 400000).mean, 0.25, 0.005) << shape;
  }
  // A Weibull of shape 1 is exponential; its coefficient of variation is 1.
  const RenewalProcess exponential(IntervalFamily::kWeibull, 1.0, 4.0);
  EXPECT_NEAR(moments([&] { return exponential.interval(random); }, 400000).variation, 1.0, 0.01);
}

TEST(RenewalProcess, ExpectedCount_IsRateTimesTimeForBurstyShapesToo) {
  SplitMix64 random(3);
  for (const IntervalFamily family : {IntervalFamily::kGamma, IntervalFamily::kWeibull}) {
    for (const double shape : {0.15, 0.5, 1.0, 4.0}) {
      const RenewalProcess process(family, shape, 0.5);
      constexpr int kWindows = 20000;
      std::int64_t arrivals = 0;
      for (int window = 0; window < kWindows; ++window) {
        for (double t = process.first(random); t < 20.0; t += process.interval(random)) {
          ++arrivals;
        }
      }
      EXPECT_NEAR(static_cast<double>(arrivals) / kWindows, 10.0, 0.6) << static_cast<int>(family) << " " << shape;
    }
  }
}

TEST(RenewalProcess, ExtremeShapes_StayFinite) {
  SplitMix64 random(4);
  for (const double shape : {kMinWeibullShape, 0.05, kMaxShape}) {
    const RenewalProcess process(IntervalFamily::kWeibull, shape, 1.0);
    for (int i = 0; i < 1000; ++i) {
      EXPECT_GE(process.first(random), 0.0);
      EXPECT_GE(process.interval(random), 0.0);
    }
  }
  const RenewalProcess gamma(IntervalFamily::kGamma, kMinGammaShape, 1.0);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(std::isfinite(gamma.first(random)));
    EXPECT_GE(gamma.interval(random), 0.0);
  }
}

}  // namespace
}  // namespace pkv::trace_internal
