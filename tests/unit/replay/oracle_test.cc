// Comparison with the oracle: limits on the largest and on the mean error, NaN, and the place of the worst.
#include "replay/oracle.h"

#include <gtest/gtest.h>

#include <limits>

namespace pkv {
namespace {

const AttentionShape kShape = {.num_q_heads = 2, .num_kv_heads = 1, .head_dim = 8};

TEST(Tolerance, Types_DecideTheLimits) {
  EXPECT_EQ(Tolerance::of(DType::kF32, DType::kF32).max_abs, 1e-5);
  EXPECT_EQ(Tolerance::of(DType::kF16, DType::kF32).max_abs, 2e-3);
  EXPECT_EQ(Tolerance::of(DType::kF32, DType::kBF16).mean_abs, 3e-4);
}

TEST(CompareOutputs, WithinLimits_Passes) {
  const std::vector<float> actual(32, 1.0F);
  std::vector<double> expected(32, 1.0);
  expected[3] = 1.0 + 1.5e-3;
  const Comparison result = compare_outputs(actual, expected, kShape, {.max_abs = 2e-3, .mean_abs = 3e-4});
  EXPECT_FALSE(result.worst.has_value());
  EXPECT_NEAR(result.max_abs, 1.5e-3, 1e-9);
  EXPECT_NEAR(result.sum_abs, 1.5e-3, 1e-9);
  EXPECT_EQ(result.num_values, 32);
}

TEST(CompareOutputs, OneLargeError_NamesItsPlace) {
  std::vector<float> actual(32, 0.0F);
  actual[16 + 8 + 5] = 0.5F;
  const Comparison result =
      compare_outputs(actual, std::vector<double>(32, 0.0), kShape, {.max_abs = 2e-3, .mean_abs = 1.0});
  ASSERT_TRUE(result.worst.has_value());
  EXPECT_EQ(result.worst->row, 1);
  EXPECT_EQ(result.worst->q_head, 1);
  EXPECT_EQ(result.worst->element, 5);
  EXPECT_EQ(result.worst->actual, 0.5);
  EXPECT_EQ(result.worst->limit, 2e-3);
}

TEST(CompareOutputs, ManySmallErrors_BreakTheMean) {
  const Comparison result = compare_outputs(std::vector<float>(32, 1e-3F), std::vector<double>(32, 0.0), kShape,
                                            {.max_abs = 2e-3, .mean_abs = 3e-4});
  ASSERT_TRUE(result.worst.has_value());
  EXPECT_EQ(result.worst->limit, 3e-4);
}

TEST(CompareOutputs, NaN_BreaksTheLimit) {
  std::vector<float> actual(32, 0.0F);
  actual[9] = std::numeric_limits<float>::quiet_NaN();
  const Comparison result =
      compare_outputs(actual, std::vector<double>(32, 0.0), kShape, {.max_abs = 2e-3, .mean_abs = 3e-4});
  ASSERT_TRUE(result.worst.has_value());
  EXPECT_EQ(result.worst->q_head, 1);
  EXPECT_EQ(result.worst->element, 1);
}

TEST(CompareOutputs, NoRows_Passes) {
  EXPECT_FALSE(compare_outputs({}, {}, kShape, {.max_abs = 2e-3, .mean_abs = 3e-4}).worst.has_value());
}

}  // namespace
}  // namespace pkv
