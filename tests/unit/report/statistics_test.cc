// Quantiles and means, small samples above all.
#include "report/statistics.h"

#include <gtest/gtest.h>

#include <vector>

namespace pkv {
namespace {

TEST(Quantile, EmptySample_IsNothing) {
  EXPECT_FALSE(quantile({}, 0.5).has_value());
  EXPECT_FALSE(median({}).has_value());
  EXPECT_FALSE(mean({}).has_value());
}

TEST(Quantile, SingleSample_IsThatSample) {
  const std::vector<double> one = {3.5};
  for (const double q : {0.0, 0.5, 0.95, 1.0}) {
    EXPECT_EQ(quantile(one, q), 3.5);
  }
}

TEST(Quantile, UnsortedSamples_InterpolatesBetweenOrderStatistics) {
  const std::vector<double> samples = {4.0, 1.0, 3.0, 2.0};
  EXPECT_EQ(quantile(samples, 0.0), 1.0);
  EXPECT_EQ(quantile(samples, 1.0), 4.0);
  EXPECT_DOUBLE_EQ(*quantile(samples, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(*quantile(samples, 0.95), 3.85);  // numpy.quantile([1, 2, 3, 4], .95)
}

TEST(Quantile, BeyondZeroToOne_IsClamped) {
  const std::vector<double> samples = {1.0, 2.0};
  EXPECT_EQ(quantile(samples, -1.0), 1.0);
  EXPECT_EQ(quantile(samples, 2.0), 2.0);
}

TEST(Mean, Samples_IsSumOverCount) {
  const std::vector<double> samples = {1.0, 2.0, 6.0};
  EXPECT_EQ(mean(samples), 3.0);
}

}  // namespace
}  // namespace pkv
