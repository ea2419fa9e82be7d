// Comparison with the oracle: limits on the largest and on the mean error, NaN, and the place of the worst.
#include "replay/oracle.h"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "base/half.h"
#include "persistentkv/reference.h"
#include "replay/random_data.h"

namespace pkv {
namespace {

const AttentionShape kShape = {.num_q_heads = 2, .num_kv_heads = 1, .head_dim = 8};

TEST(Tolerance, Types_DecideTheLimits) {
  EXPECT_EQ(Tolerance::of(DType::kF32, DType::kF32, kShape).max_abs, 1e-5);
  EXPECT_EQ(Tolerance::of(DType::kF32, DType::kF32, kShape).lse_abs, 1e-4);
  EXPECT_EQ(Tolerance::of(DType::kF16, DType::kF32, kShape).max_abs, 2e-3);
  EXPECT_EQ(Tolerance::of(DType::kF32, DType::kBF16, kShape).mean_abs, 3e-4);
}

TEST(Tolerance, LargeScale_WidensTheLimitsOfFp32) {
  AttentionShape shape = {.num_q_heads = 2, .num_kv_heads = 1, .head_dim = 64};
  shape.softmax_scale = -10.0F;
  EXPECT_DOUBLE_EQ(Tolerance::of(DType::kF32, DType::kF32, shape).max_abs, 80e-5);
  EXPECT_EQ(Tolerance::of(DType::kF16, DType::kF16, shape).max_abs, 2e-3);
  shape.logit_soft_cap = 30.0F;
  EXPECT_DOUBLE_EQ(Tolerance::of(DType::kF32, DType::kF32, shape).max_abs, 30e-5);
  shape.logit_soft_cap = 0.5F;
  EXPECT_EQ(Tolerance::of(DType::kF32, DType::kF32, shape).max_abs, 1e-5);
  shape.softmax_scale = 0.001F;
  EXPECT_EQ(Tolerance::of(DType::kF32, DType::kF32, shape).max_abs, 1e-5);
}

TEST(OutputError, NotANumber_BreaksEveryLimit) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    EXPECT_EQ(output_error(1.0, kNaN, dtype), kInfinity);
    EXPECT_EQ(output_error(kNaN, 1.0, dtype), kInfinity);
    EXPECT_EQ(output_error(kNaN, kNaN, dtype), kInfinity);
    EXPECT_EQ(output_error(kInfinity, kInfinity, dtype), kInfinity);
  }
}

TEST(OutputError, RoundingOfTheStoredType_IsNotCounted) {
  EXPECT_EQ(output_error(1.0 + 0x1p-11, 1.0, DType::kF16), 0.0);
  EXPECT_EQ(output_error(1.0 + 0x1p-10, 1.0, DType::kF16), 0x1p-11);
  EXPECT_EQ(output_error(1.0 + 0x1p-11, 1.0, DType::kF32), 0x1p-11);
}

/// One row of `seq_len` random tokens, one token a page.
class OneRow {
 public:
  explicit OneRow(std::int32_t seq_len) : seq_lens_{seq_len}, indptr_{0, seq_len} {
    indices_.resize(static_cast<std::size_t>(seq_len));
    std::iota(indices_.begin(), indices_.end(), 0);
    const RandomBlock block(DType::kF32, 7);
    for (std::vector<float>* tensor : {&k_, &v_, &q_}) {
      tensor->resize(static_cast<std::size_t>(seq_len) * 32);
      block.fill(tensor->data(), static_cast<std::int64_t>(tensor->size()), tensor == &k_ ? 1 : tensor == &v_ ? 2 : 3);
    }
  }
  [[nodiscard]] RunArgs args() const {
    RunArgs args;
    args.batch = BatchState::make({.shape = kTwoHeads,
                                   .page_size = 1,
                                   .seq_lens = seq_lens_,
                                   .block_table = *BlockTable::csr(indptr_, indices_),
                                   .num_pages = seq_lens_[0]})
                     .value();
    args.q = dense_queries(q_.data(), DType::kF32, kTwoHeads);
    args.kv = {.k = k_.data(),
               .v = v_.data(),
               .dtype = DType::kF32,
               .layout = *KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 1, kTwoHeads),
               .num_pages = seq_lens_[0]};
    return args;
  }
  static constexpr AttentionShape kTwoHeads = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};

 private:
  std::vector<std::int32_t> seq_lens_, indptr_, indices_;
  std::vector<float> k_, v_, q_;
};

TEST(OracleOutputs, HeadsDealtToThreads_EqualTheRowFunction) {
  const OneRow row(50);
  const auto crew = Crew::make().value();
  const auto outputs = oracle_outputs(row.args(), *crew, [] { return false; });
  ASSERT_TRUE(outputs.ok());
  EXPECT_EQ(*outputs, reference_attention(row.args()).value().out);
}

TEST(OracleOutputs, Cancelled_IsAnError) {
  const OneRow row(50);
  const auto crew = Crew::make().value();
  const auto outputs = oracle_outputs(row.args(), *crew, [] { return true; });
  ASSERT_FALSE(outputs.ok());
  EXPECT_EQ(outputs.error().code, ErrorCode::kCancelled);
}

Comparison compare_f32(const std::vector<float>& actual, const std::vector<double>& expected,
                       const AttentionShape& shape, const Tolerance& tolerance) {
  return compare_outputs({.data = actual.data(), .dtype = DType::kF32}, expected, shape, tolerance);
}

TEST(CompareOutputs, StoredType_MayBeHalfAUnitOff) {
  const std::vector<double> expected(32, 1.0 + 0x1.8p-9);  // between two bf16 values
  const Tolerance strict{.max_abs = 1e-5, .mean_abs = 1e-5};
  const std::vector<std::uint16_t> rounded(32, f32_to_bf16(1.0F + 0x1.8p-9F));
  EXPECT_FALSE(compare_outputs({rounded.data(), DType::kBF16}, expected, kShape, strict).worst.has_value());
  const std::vector<std::uint16_t> two_units(32, f32_to_bf16(1.0F + 0x1p-6F));
  const Comparison result = compare_outputs({two_units.data(), DType::kBF16}, expected, kShape, strict);
  ASSERT_TRUE(result.worst.has_value());
  EXPECT_EQ(result.worst->actual, 1.0 + 0x1p-6);
}

TEST(CompareOutputs, PoisonOfTheStoredType_BreaksTheLimit) {
  const std::vector<std::uint16_t> poison(32, 0xFFFF);
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    EXPECT_TRUE(compare_outputs({poison.data(), dtype}, std::vector<double>(32, 0.0), kShape, {2e-3, 3e-4, 0.0})
                    .worst.has_value());
  }
}

TEST(CompareOutputs, WithinLimits_Passes) {
  const std::vector<float> actual(32, 1.0F);
  std::vector<double> expected(32, 1.0);
  expected[3] = 1.0 + 1.5e-3;
  const Comparison result = compare_f32(actual, expected, kShape, {.max_abs = 2e-3, .mean_abs = 3e-4});
  EXPECT_FALSE(result.worst.has_value());
  EXPECT_NEAR(result.max_abs, 1.5e-3, 1e-9);
  EXPECT_NEAR(result.sum_abs, 1.5e-3, 1e-9);
  EXPECT_EQ(result.num_values, 32);
}

TEST(CompareOutputs, OneLargeError_NamesItsPlace) {
  std::vector<float> actual(32, 0.0F);
  actual[16 + 8 + 5] = 0.5F;
  const Comparison result =
      compare_f32(actual, std::vector<double>(32, 0.0), kShape, {.max_abs = 2e-3, .mean_abs = 1.0});
  ASSERT_TRUE(result.worst.has_value());
  EXPECT_EQ(result.worst->row, 1);
  EXPECT_EQ(result.worst->q_head, 1);
  EXPECT_EQ(result.worst->element, 5);
  EXPECT_EQ(result.worst->actual, 0.5);
  EXPECT_EQ(result.worst->limit, 2e-3);
}

TEST(CompareOutputs, ManySmallErrors_BreakTheMean) {
  const Comparison result = compare_f32(std::vector<float>(32, 1e-3F), std::vector<double>(32, 0.0), kShape,
                                        {.max_abs = 2e-3, .mean_abs = 3e-4});
  ASSERT_TRUE(result.worst.has_value());
  EXPECT_EQ(result.worst->limit, 3e-4);
}

TEST(CompareOutputs, NaN_BreaksTheLimit) {
  std::vector<float> actual(32, 0.0F);
  actual[9] = std::numeric_limits<float>::quiet_NaN();
  const Comparison result =
      compare_f32(actual, std::vector<double>(32, 0.0), kShape, {.max_abs = 2e-3, .mean_abs = 3e-4});
  ASSERT_TRUE(result.worst.has_value());
  EXPECT_EQ(result.worst->q_head, 1);
  EXPECT_EQ(result.worst->element, 1);
}

TEST(CompareOutputs, NaNExpected_BreaksTheLimit) {
  std::vector<double> expected(32, 0.0);
  expected[9] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(compare_f32(std::vector<float>(32, 0.0F), expected, kShape, {.max_abs = 2e-3, .mean_abs = 3e-4})
                  .worst.has_value());
}

TEST(CompareOutputs, NoRows_Passes) {
  EXPECT_FALSE(compare_f32({}, {}, kShape, {.max_abs = 2e-3, .mean_abs = 3e-4}).worst.has_value());
}

}  // namespace
}  // namespace pkv
