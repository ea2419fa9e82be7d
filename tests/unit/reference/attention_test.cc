// The oracle against cases whose answer is known, and against a second, dense formulation.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/half.h"
#include "base/random.h"
#include "persistentkv/reference.h"

namespace pkv {
namespace {

// One row over pages dealt in reverse order; everything that must not be read is NaN.
class OracleStep {
 public:
  OracleStep(const AttentionShape& shape, std::int32_t seq_len, KvOrder order, KvPacking packing, DType dtype)
      : shape_(shape), seq_lens_{seq_len} {
    const std::int32_t num_pages = (seq_len + kPageSize - 1) / kPageSize;
    indptr_ = {0, num_pages};
    for (std::int32_t p = 0; p < num_pages; ++p) {
      indices_.push_back(num_pages - p);  // page 0 is never used
    }
    layout_ = KvLayout::make(order, packing, kPageSize, shape).value();
    const auto elements = static_cast<std::size_t>(layout_.page_elements() * (num_pages + 1));
    k_.assign(elements, 0xFFFFFFFF);  // NaN in all three types
    v_.assign(elements, 0xFFFFFFFF);
    kv_ = packing == KvPacking::kPacked
              ? PagedKv::packed(k_.data(), dtype, layout_, num_pages + 1)
              : PagedKv{.k = k_.data(), .v = v_.data(), .dtype = dtype, .layout = layout_, .num_pages = num_pages + 1};
    q_.assign(static_cast<std::size_t>(shape.num_q_heads * shape.head_dim), 0.0F);
  }

  void set_k(std::int32_t token, std::int32_t head, std::int32_t i, float value) {
    store_element(const_cast<void*>(kv_.k), kv_.dtype, index(layout_.k_strides, token, head) + i, value);
  }
  void set_v(std::int32_t token, std::int32_t head, std::int32_t i, float value) {
    store_element(const_cast<void*>(kv_.v), kv_.dtype, index(layout_.v_strides, token, head) + i, value);
  }
  float k(std::int32_t token, std::int32_t head, std::int32_t i) const {
    return load_element(kv_.k, kv_.dtype, index(layout_.k_strides, token, head) + i);
  }
  float v(std::int32_t token, std::int32_t head, std::int32_t i) const {
    return load_element(kv_.v, kv_.dtype, index(layout_.v_strides, token, head) + i);
  }
  float& q(std::int32_t head, std::int32_t i) { return q_[static_cast<std::size_t>(head * shape_.head_dim + i)]; }

  void fill(std::uint64_t seed) {
    SplitMix64 random(seed);
    for (float& value : q_) {
      value = random.normal();
    }
    const TokenRange attended = shape_.attended(seq_lens_[0]);
    for (std::int32_t token = attended.begin; token < attended.end; ++token) {
      for (std::int32_t head = 0; head < shape_.num_kv_heads; ++head) {
        for (std::int32_t i = 0; i < shape_.head_dim; ++i) {
          set_k(token, head, i, random.normal());
          set_v(token, head, i, random.normal());
        }
      }
    }
  }

  RunArgs args(std::span<const float> sinks = {}) const {
    const BlockTable table = BlockTable::csr(indptr_, indices_).value();
    return {.batch = BatchState::make({.shape = shape_,
                                       .page_size = kPageSize,
                                       .seq_lens = seq_lens_,
                                       .block_table = table,
                                       .num_pages = kv_.num_pages})
                         .value(),
            .q = dense_queries(q_.data(), DType::kF32, shape_),
            .kv = kv_,
            .out = {},
            .sinks = sinks};
  }

  static constexpr std::int32_t kPageSize = 5;

 private:
  std::int64_t index(const PageStrides& s, std::int32_t token, std::int32_t head) const {
    return indices_[static_cast<std::size_t>(token / kPageSize)] * s.page + head * s.kv_head +
           (token % kPageSize) * s.slot;
  }
  AttentionShape shape_;
  std::vector<std::int32_t> seq_lens_, indptr_, indices_;
  KvLayout layout_;
  std::vector<std::uint32_t> k_, v_;
  std::vector<float> q_;
  PagedKv kv_;
};

constexpr AttentionShape kSmall{.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};

// softmax(q k^T) v with all logits in hand, in long double: a second way to the same numbers.
std::vector<double> dense_row(OracleStep& step, const AttentionShape& shape, std::int32_t seq_len, std::int32_t q_head,
                              double* lse) {
  const TokenRange attended = shape.attended(seq_len);
  const std::int32_t kv_head = q_head / shape.group_size();
  long double sum = 0.0L;
  std::vector<long double> out(static_cast<std::size_t>(shape.head_dim), 0.0L);
  for (std::int32_t token = attended.begin; token < attended.end; ++token) {
    long double x = 0.0L;
    for (std::int32_t i = 0; i < shape.head_dim; ++i) {
      x += static_cast<long double>(step.q(q_head, i)) * step.k(token, kv_head, i);
    }
    x *= shape.scale();
    if (shape.logit_soft_cap.has_value()) {
      x = *shape.logit_soft_cap * std::tanh(x / *shape.logit_soft_cap);
    }
    sum += std::exp(x);
    for (std::int32_t i = 0; i < shape.head_dim; ++i) {
      out[static_cast<std::size_t>(i)] += std::exp(x) * step.v(token, kv_head, i);
    }
  }
  *lse = static_cast<double>(std::log(sum));
  std::vector<double> result;
  for (const long double o : out) {
    result.push_back(static_cast<double>(o / sum));
  }
  return result;
}

TEST(ReferenceAttention, EqualLogits_GiveTheMeanOfV) {
  OracleStep step(kSmall, 7, KvOrder::kHND, KvPacking::kSeparate, DType::kF32);
  step.fill(1);
  for (std::int32_t head = 0; head < 4; ++head) {
    for (std::int32_t i = 0; i < 8; ++i) {
      step.q(head, i) = 0.0F;
    }
  }
  const ReferenceOutput output = reference_attention(step.args()).value();
  for (std::int32_t i = 0; i < 8; ++i) {
    double mean = 0.0;
    for (std::int32_t token = 0; token < 7; ++token) {
      mean += step.v(token, 1, i) / 7.0;
    }
    EXPECT_NEAR(output.out[static_cast<std::size_t>(3 * 8 + i)], mean, 1e-12);
  }
  EXPECT_NEAR(output.lse[3], std::log(7.0), 1e-12);
}

TEST(ReferenceAttention, OneToken_GivesItsV) {
  OracleStep step(kSmall, 1, KvOrder::kNHD, KvPacking::kPacked, DType::kF16);
  step.fill(2);
  const ReferenceOutput output = reference_attention(step.args()).value();
  for (std::int32_t i = 0; i < 8; ++i) {
    EXPECT_DOUBLE_EQ(output.out[static_cast<std::size_t>(i)], step.v(0, 0, i));
    EXPECT_DOUBLE_EQ(output.out[static_cast<std::size_t>(2 * 8 + i)], step.v(0, 1, i));
  }
}

TEST(ReferenceAttention, AllLayoutsAndTypes_AgreeWithTheDenseFormula) {
  for (const KvOrder order : {KvOrder::kHND, KvOrder::kNHD}) {
    for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        for (const bool capped : {false, true}) {
          AttentionShape shape = kSmall;
          shape.sliding_window_tokens = 12;
          shape.logit_soft_cap = capped ? std::optional(0.5F) : std::nullopt;
          OracleStep step(shape, 23, order, packing, dtype);
          step.fill(3);
          const ReferenceOutput output = reference_attention(step.args()).value();
          for (std::int32_t head = 0; head < 4; ++head) {
            double lse = 0.0;
            const std::vector<double> expected = dense_row(step, shape, 23, head, &lse);
            EXPECT_NEAR(output.lse[static_cast<std::size_t>(head)], lse, 1e-12);
            for (std::size_t i = 0; i < 8; ++i) {
              EXPECT_NEAR(output.out[static_cast<std::size_t>(head) * 8 + i], expected[i], 1e-12);
            }
          }
        }
      }
    }
  }
}

TEST(ReferenceAttention, Sink_JoinsTheDenominatorOnly) {
  AttentionShape shape = kSmall;
  shape.sinks = Sinks::kPerQueryHead;
  OracleStep step(shape, 9, KvOrder::kHND, KvPacking::kSeparate, DType::kF32);
  step.fill(4);
  const std::vector<float> sinks = {0.5F, -40.0F, 60.0F, 0.0F};
  const ReferenceOutput output = reference_attention(step.args(sinks)).value();
  for (std::int32_t head = 0; head < 4; ++head) {
    const auto h = static_cast<std::size_t>(head);
    double lse = 0.0;
    const std::vector<double> without = dense_row(step, shape, 9, head, &lse);
    const double with_sink = std::log(std::exp(lse) + std::exp(static_cast<double>(sinks[h])));
    EXPECT_NEAR(output.lse[h], with_sink, 1e-12);
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_NEAR(output.out[h * 8 + i], without[i] * std::exp(lse - with_sink), 1e-12);
    }
  }
}

TEST(ReferenceAttention, EmptyRow_GivesZeroAndMinusInfinity) {
  OracleStep step(kSmall, 0, KvOrder::kHND, KvPacking::kSeparate, DType::kF32);
  const ReferenceOutput output = reference_attention(step.args()).value();
  EXPECT_EQ(output.out, std::vector<double>(32, 0.0));
  EXPECT_EQ(output.lse[0], -std::numeric_limits<double>::infinity());
  AttentionShape shape = kSmall;
  shape.sinks = Sinks::kPerQueryHead;
  OracleStep with_sinks(shape, 0, KvOrder::kHND, KvPacking::kSeparate, DType::kF32);
  const std::vector<float> sinks = {1.0F, 2.0F, 3.0F, 4.0F};
  const ReferenceOutput sunk = reference_attention(with_sinks.args(sinks)).value();
  EXPECT_EQ(sunk.out, std::vector<double>(32, 0.0));
  EXPECT_DOUBLE_EQ(sunk.lse[2], 3.0);
  EXPECT_EQ(reference_attention(with_sinks.args()).error().where, "sinks");
  const std::vector<float> weightless(4, -std::numeric_limits<float>::infinity());
  const ReferenceOutput nothing = reference_attention(with_sinks.args(weightless)).value();
  EXPECT_EQ(nothing.out, std::vector<double>(32, 0.0));
  EXPECT_EQ(nothing.lse[0], -std::numeric_limits<double>::infinity());
}

TEST(ReferenceAttention, HugeLogits_DoNotOverflow) {
  OracleStep step(kSmall, 6, KvOrder::kHND, KvPacking::kSeparate, DType::kF32);
  step.fill(5);
  step.q(0, 0) = 1e6F;
  step.q(1, 0) = -1e6F;
  for (const double value : reference_attention(step.args()).value().out) {
    EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(ReferenceMerge, SplitsOfARow_MergeToTheWhole) {
  OracleStep step(kSmall, 23, KvOrder::kHND, KvPacking::kSeparate, DType::kF32);
  step.fill(6);
  const RunArgs args = step.args();
  const ReferenceState whole = reference_state(args, 0, 2, {0, 23});
  const std::vector<ReferenceState> parts = {reference_state(args, 0, 2, {0, 4}), reference_state(args, 0, 2, {4, 4}),
                                             reference_state(args, 0, 2, {4, 20}),
                                             reference_state(args, 0, 2, {20, 23})};
  const ReferenceState merged = reference_merge(parts);
  EXPECT_DOUBLE_EQ(merged.m, whole.m);
  EXPECT_NEAR(merged.l, whole.l, 1e-12);
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_NEAR(merged.acc[i], whole.acc[i], 1e-12);
  }
}

TEST(ReferenceMerge, NeutralStatesOnly_StayNeutral) {
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<ReferenceState> parts(3, {-inf, 0.0, {0.0, 0.0}});
  const ReferenceState merged = reference_merge(parts);
  EXPECT_EQ(merged.m, -inf);
  EXPECT_EQ(merged.l, 0.0);
  EXPECT_EQ(merged.acc, (std::vector<double>{0.0, 0.0}));
}

}  // namespace
}  // namespace pkv
