// Bad input that only callers of the library can make: lengths, block tables, page ids, tensors.
// Not here: what a command line can say (bad_input_test.cc).
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "persistentkv/backend.h"
#include "persistentkv/batch.h"
#include "persistentkv/layout.h"
#include "persistentkv/page_pool.h"

namespace pkv {
namespace {

/// Two rows of 20 and 5 tokens on pages of 16: three pages.
struct Step {
  AttentionShape shape;
  std::int32_t page_size = 16;
  std::vector<std::int32_t> lens{20, 5};
  std::vector<std::int32_t> indptr{0, 2, 3};
  std::vector<std::int32_t> indices{2, 0, 1};
  std::int64_t num_pages = 3;

  [[nodiscard]] Result<BatchState> make() const {
    const auto table = BlockTable::csr(indptr, indices);
    if (!table.ok()) return table.error();
    return BatchState::make({.shape = shape,
                             .page_size = page_size,
                             .seq_lens = lens,
                             .block_table = table.value(),
                             .num_pages = num_pages});
  }
};

void expect_error(const Result<BatchState>& result, const std::vector<std::string>& expected) {
  ASSERT_FALSE(result.ok());
  const std::string text = result.error().to_string();
  EXPECT_FALSE(result.error().where.empty()) << text;
  for (const std::string& part : expected) EXPECT_NE(text.find(part), std::string::npos) << part << " not in: " << text;
}

TEST(Batch, GoodStep_IsAccepted) { EXPECT_TRUE(Step{}.make().ok()); }

TEST(Batch, NegativeLength_NamesRowAndValue) {
  Step step;
  step.lens[1] = -5;
  expect_error(step.make(), {"-5", "1"});
}

TEST(Batch, OverflowingLength_NeedsMorePagesThanTheRowHas) {
  Step step;
  step.lens[0] = std::numeric_limits<std::int32_t>::max();
  expect_error(step.make(), {"2147483647"});
}

TEST(Batch, PageIdAtTheEnd_IsOutOfRange) {
  Step step;
  step.indices[1] = 3;
  expect_error(step.make(), {"3"});
}

TEST(Batch, PageIdNegative_IsOutOfRange) {
  Step step;
  step.indices[2] = -1;
  expect_error(step.make(), {"-1"});
}

TEST(Batch, BlockTableTooShort_NamesBothCounts) {
  Step step;
  step.lens[1] = 17;  // two pages, the row has one
  expect_error(step.make(), {"1", "2"});
}

TEST(Batch, FewerTableRowsThanLengths_IsAnError) {
  Step step;
  step.lens.push_back(1);
  expect_error(step.make(), {"3", "2"});
}

TEST(Batch, PageSizeZeroOrAbove256_IsAnError) {
  Step step;
  step.page_size = 0;
  expect_error(step.make(), {"0", "256"});
  step.page_size = 257;
  expect_error(step.make(), {"257", "256"});
}

TEST(Batch, NanScaleOrSoftCap_IsAnError) {
  Step step;
  step.shape.softmax_scale = std::nanf("");
  expect_error(step.make(), {"nan", "softmax_scale"});
  step.shape.softmax_scale.reset();
  step.shape.logit_soft_cap = std::nanf("");
  expect_error(step.make(), {"nan", "logit_soft_cap"});
}

TEST(Batch, QueryHeadsNoMultipleOfKvHeads_IsAnError) {
  Step step;
  step.shape.num_q_heads = 30;
  expect_error(step.make(), {"30", "8"});
}

TEST(BlockTableCsr, DecreasingOrTooLongIndptr_IsAnError) {
  const std::vector<std::int32_t> indices{0, 1, 2};
  EXPECT_FALSE(BlockTable::csr(std::vector<std::int32_t>{0, 2, 1}, indices).ok());
  EXPECT_FALSE(BlockTable::csr(std::vector<std::int32_t>{0, 2, 4}, indices).ok());
  EXPECT_FALSE(BlockTable::csr(std::vector<std::int32_t>{1, 2, 3}, indices).ok());
  EXPECT_FALSE(BlockTable::csr({}, indices).ok());
}

TEST(BlockTableDense, ShorterThanRowsTimesWidth_IsAnError) {
  const std::vector<std::int32_t> table(5);
  EXPECT_FALSE(BlockTable::dense(table, 2, 3).ok());
  EXPECT_FALSE(BlockTable::dense(table, -1, 3).ok());
  EXPECT_FALSE(
      BlockTable::dense(table, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::max())
          .ok());
}

TEST(LastPageLen, OutsideThePage_NamesTheRow) {
  const std::vector<std::int32_t> indptr{0, 2, 3};
  const auto zero = seq_lens_from_last_page_len(indptr, std::vector<std::int32_t>{4, 0}, 16);
  ASSERT_FALSE(zero.ok());
  EXPECT_NE(zero.error().to_string().find('1'), std::string::npos);
  EXPECT_FALSE(seq_lens_from_last_page_len(indptr, std::vector<std::int32_t>{17, 1}, 16).ok());
  EXPECT_FALSE(seq_lens_from_last_page_len(indptr, std::vector<std::int32_t>{1}, 16).ok());
}

TEST(PagedKv, NullOrMisshapenTensors_AreErrors) {
  const AttentionShape shape;
  const auto layout = KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 16, shape);
  ASSERT_TRUE(layout.ok());
  const float data = 0.0F;
  PagedKv kv{.k = &data, .v = &data, .dtype = DType::kF16, .layout = layout.value(), .num_pages = 1};
  EXPECT_TRUE(validate(kv, shape).ok());
  PagedKv no_k = kv;
  no_k.k = nullptr;
  EXPECT_FALSE(validate(no_k, shape).ok());
  PagedKv short_slots = kv;
  short_slots.layout.k_strides.slot = 8;
  EXPECT_FALSE(validate(short_slots, shape).ok());
  PagedKv many_pages = kv;
  many_pages.num_pages = std::numeric_limits<std::int64_t>::max();
  EXPECT_FALSE(validate(many_pages, shape).ok());
}

TEST(PagePoolMake, NegativeOrHugeCount_IsAnError) {
  EXPECT_FALSE(PagePool::make(-1).ok());
  EXPECT_FALSE(PagePool::make(std::int64_t{1} << 40).ok());
  EXPECT_FALSE(PagePool::make(2, std::vector<std::int32_t>{0, 0}).ok());
  EXPECT_FALSE(PagePool::make(2, std::vector<std::int32_t>{2}).ok());
}

}  // namespace
}  // namespace pkv
