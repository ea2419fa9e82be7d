// AttentionShape and DType: limits, defaults, names.
#include "persistentkv/shape.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "persistentkv/dtype.h"

namespace pkv {
namespace {

TEST(AttentionShape, Default_IsThePapersShape) {
  const AttentionShape shape;
  EXPECT_TRUE(validate(shape).ok());
  EXPECT_EQ(shape.group_size(), 4);
  EXPECT_FLOAT_EQ(shape.scale(), 1.0F / std::sqrt(128.0F));
}

TEST(AttentionShape, Window_AttendsToTheLastTokens) {
  AttentionShape shape;
  EXPECT_EQ(shape.attended(100), (TokenRange{0, 100}));
  shape.sliding_window_tokens = 30;
  EXPECT_EQ(shape.attended(100), (TokenRange{70, 100}));
  EXPECT_EQ(shape.attended(30), (TokenRange{0, 30}));
  EXPECT_EQ(shape.attended(0), (TokenRange{0, 0}));
}

struct BadShape {
  AttentionShape shape;
  std::string where;
  std::string value;
};

TEST(AttentionShape, BadField_IsAnErrorThatNamesFieldAndValue) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<BadShape> cases = {
      {{.num_q_heads = 32, .num_kv_heads = 0}, "num_kv_heads", "0"},
      {{.num_q_heads = 32, .num_kv_heads = -8}, "num_kv_heads", "-8"},
      {{.num_q_heads = 8192, .num_kv_heads = 8192}, "num_kv_heads", "8192"},
      {{.num_q_heads = 0}, "num_q_heads", "0"},
      {{.num_q_heads = -32}, "num_q_heads", "-32"},
      {{.num_q_heads = 33}, "num_q_heads", "33"},
      {{.num_q_heads = 65, .num_kv_heads = 1}, "num_q_heads", "65"},
      {{.head_dim = 0}, "head_dim", "0"},
      {{.head_dim = 100}, "head_dim", "100"},
      {{.head_dim = 520}, "head_dim", "520"},
      {{.softmax_scale = nan}, "softmax_scale", "nan"},
      {{.softmax_scale = inf}, "softmax_scale", "inf"},
      {{.logit_soft_cap = 0.0F}, "logit_soft_cap", "0"},
      {{.logit_soft_cap = -30.0F}, "logit_soft_cap", "-30"},
      {{.logit_soft_cap = nan}, "logit_soft_cap", "nan"},
      {{.sliding_window_tokens = 0}, "sliding_window_tokens", "0"},
      {{.sliding_window_tokens = -5}, "sliding_window_tokens", "-5"},
  };
  for (const BadShape& bad : cases) {
    const Status status = validate(bad.shape);
    ASSERT_FALSE(status.ok()) << bad.where << " " << bad.value;
    EXPECT_EQ(status.error().where, bad.where);
    EXPECT_NE(status.error().message.find(bad.value), std::string::npos) << status.error().to_string();
  }
}

TEST(DType, Names_RoundTripAndAliasesParse) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    EXPECT_EQ(parse_dtype(dtype_name(dtype)).value(), dtype);
  }
  EXPECT_EQ(parse_dtype("bfloat16").value(), DType::kBF16);
  EXPECT_FALSE(parse_dtype("fp8").ok());
  EXPECT_NE(parse_dtype("fp8").error().message.find("f16"), std::string::npos);
}

}  // namespace
}  // namespace pkv
