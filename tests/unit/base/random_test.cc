// The random source of test data: moments and repeatability.
#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pkv {
namespace {

TEST(SplitMix64, SameSeed_SameStream) {
  SplitMix64 a(1);
  SplitMix64 b(1);
  SplitMix64 c(2);
  EXPECT_EQ(a(), b());
  EXPECT_NE(a(), c());
}

TEST(SplitMix64, Normal_HasUnitVarianceAndNoMean) {
  SplitMix64 random(3);
  const int n = 1000000;
  double sum = 0.0;
  double squares = 0.0;
  for (int i = 0; i < n; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / n, 0.0, 5e-3);
  EXPECT_NEAR(squares / n, 1.0, 5e-3);
}

TEST(SplitMix64, Uniform_StaysBelowOne) {
  SplitMix64 random(4);
  for (int i = 0; i < 100000; ++i) {
    const double x = random.uniform();
    ASSERT_GE(x, 0.0);
    ASSERT_LT(x, 1.0);
    ASSERT_LT(random.below(7), 7U);
  }
}

}  // namespace
}  // namespace pkv
