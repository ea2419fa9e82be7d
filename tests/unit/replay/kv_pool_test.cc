// The pool's data, its rotation, and random tensors.
#include "replay/kv_pool.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

#include "base/half.h"
#include "replay/memory.h"

namespace pkv {
namespace {

const AttentionShape kShape = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 16};
const std::function<bool()> kGoOn = [] { return false; };

TEST(RandomBlock, Values_AreNormalWithUnitVariance) {
  const RandomBlock block(DType::kF16, 3);
  std::vector<std::uint16_t> values(100000);
  block.fill(values.data(), static_cast<std::int64_t>(values.size()), 1);
  double sum = 0.0;
  double squares = 0.0;
  for (const std::uint16_t bits : values) {
    const double value = f16_to_f32(bits);
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / 1e5, 0.0, 0.02);
  EXPECT_NEAR(squares / 1e5, 1.0, 0.02);
}

TEST(RandomBlock, Streams_Differ) {
  const RandomBlock block(DType::kF32, 3);
  std::vector<float> a(1000);
  std::vector<float> b(1000);
  block.fill(a.data(), 1000, 1);
  block.fill(b.data(), 1000, 2);
  EXPECT_NE(a, b);
}

TEST(KvPool, ShownAsAnotherLayout_HasAsManyPagesAsFit) {
  const auto crew = Crew::make().value();
  const RandomBlock block(DType::kF16, 1);
  const KvLayout small = *KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 16, kShape);
  auto pool = KvPool::make(small, DType::kF16, 9000, {block, *crew, kGoOn});
  ASSERT_TRUE(pool.ok());
  for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
    const KvLayout large = *KvLayout::make(KvOrder::kNHD, packing, 64, kShape);
    pool->show_as(large, 1);
    const PagedKv& kv = pool->view();
    EXPECT_TRUE(validate(kv, kShape).ok());
    EXPECT_EQ(kv.layout.page_size, 64);
    EXPECT_GE(kv.num_pages, 1);
    EXPECT_LE(KvPool::allocated_bytes(large, DType::kF16, kv.num_pages),
              KvPool::allocated_bytes(small, DType::kF16, 9000));
  }
  pool->show_as(small, 9000);
  EXPECT_EQ(pool->view().num_pages, 9000);
}

TEST(KvPool, AnyTwoPages_Differ) {
  const auto crew = Crew::make().value();
  const RandomBlock block(DType::kF16, 1);
  for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
    const KvLayout layout = *KvLayout::make(KvOrder::kHND, packing, 16, kShape);
    const auto pool = KvPool::make(layout, DType::kF16, 2000, {block, *crew, kGoOn});
    ASSERT_TRUE(pool.ok());
    const PagedKv& kv = pool->view();
    ASSERT_TRUE(validate(kv, kShape).ok());
    std::set<std::string> pages;
    const std::size_t bytes = 16 * 2 * 16 * 2;
    for (const void* base : {kv.k, kv.v}) {
      for (std::int64_t page = 0; page < kv.num_pages; ++page) {
        const auto* begin = static_cast<const char*>(base) + page * layout.k_strides.page * 2;
        pages.emplace(begin, bytes);
      }
    }
    EXPECT_EQ(pages.size(), 4000U);
  }
}

TEST(KvPool, SameSeed_GivesTheSameData) {
  const auto crew = Crew::make().value();
  const RandomBlock block(DType::kBF16, 9);
  const KvLayout layout = *KvLayout::make(KvOrder::kNHD, KvPacking::kSeparate, 8, kShape);
  const auto a = KvPool::make(layout, DType::kBF16, 5000, {block, *crew, kGoOn});
  const auto b = KvPool::make(layout, DType::kBF16, 5000, {block, *crew, kGoOn});
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(std::memcmp(a->view().k, b->view().k, 5000 * 8 * 2 * 16 * 2), 0);
}

TEST(PageRotation, EveryShift_IsABijection) {
  PageRotation rotation = PageRotation::spread(101);
  std::vector<std::int32_t> ids(101);
  for (std::int32_t i = 0; i < 101; ++i) {
    ids[static_cast<std::size_t>(i)] = i;
  }
  std::vector<std::int32_t> shifted;
  std::set<std::int32_t> firsts;
  for (int i = 0; i < 20; ++i) {
    rotation.next(ids, shifted);
    const std::set<std::int32_t> distinct(shifted.begin(), shifted.end());
    EXPECT_EQ(distinct.size(), 101U);
    EXPECT_EQ(*distinct.begin(), 0);
    EXPECT_EQ(*distinct.rbegin(), 100);
    firsts.insert(shifted[0]);
  }
  EXPECT_EQ(firsts.size(), 20U);
}

TEST(PageRotation, OnePage_StaysInRange) {
  PageRotation rotation = PageRotation::spread(1);
  std::vector<std::int32_t> shifted;
  const std::vector<std::int32_t> ids = {0};
  rotation.next(ids, shifted);
  EXPECT_EQ(shifted[0], 0);
}

TEST(PageRotation, TwoNodes_CutTheIdsIntoAPartEach) {
  PageRotation rotation = PageRotation::spread(50, 2);
  std::vector<std::int32_t> ids(20);
  for (std::int32_t i = 0; i < 20; ++i) {
    ids[static_cast<std::size_t>(i)] = 2 * i;
  }
  std::vector<std::int32_t> shifted;
  for (int i = 0; i < 20; ++i) {
    rotation.next(ids, shifted);
    const std::set<std::int32_t> distinct(shifted.begin(), shifted.end());
    EXPECT_EQ(distinct.size(), 20U);  // fewer than a node has: no two meet
    for (std::size_t k = 0; k < 20; ++k) {
      EXPECT_EQ(shifted[k] / 50, k < 10 ? 0 : 1);
    }
  }
}

TEST(KvPool, SeveralNodes_ShareThePages) {
  const auto crew = Crew::make().value();
  const RandomBlock block(DType::kF16, 1);
  const KvLayout layout = *KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 16, kShape);
  const std::vector<std::int32_t> nodes = {0, 0};  // this machine may have no other
  const auto pool = KvPool::make(layout, DType::kF16, 2001, {block, *crew, kGoOn, nodes});
  ASSERT_TRUE(pool.ok()) << pool.error().to_string();
  EXPECT_EQ(pool->view().pages_per_node, 1000);
  EXPECT_EQ(pool->run_view().pages_per_node, 1000);
  const auto plain = KvPool::make(layout, DType::kF16, 2001, {block, *crew, kGoOn});
  EXPECT_EQ(plain->view().pages_per_node, 0);
  EXPECT_EQ(std::memcmp(pool->view().k, plain->view().k, 2001 * static_cast<std::size_t>(layout.k_strides.page) * 2),
            0);
}

TEST(ChoosePoolPages, SmallTrace_FillsEightCaches) { EXPECT_EQ(choose_pool_pages(10, 1000, 100000, 1 << 30), 800); }

TEST(ChoosePoolPages, LargeTrace_IsTakenAsItIs) { EXPECT_EQ(choose_pool_pages(5000, 1000, 100000, 1 << 30), 5000); }

TEST(ChoosePoolPages, SmallBudget_NeverExceedsIt) {
  EXPECT_EQ(choose_pool_pages(10, 1000, 100000, 50000), 50);
  EXPECT_EQ(choose_pool_pages(0, 1000, 100000, 10), 1);
}

TEST(CheckMemory, NeedAboveBudget_NamesBoth) {
  EXPECT_TRUE(check_memory(10, 10, "a pool").ok());
  const Status status = check_memory(11, 10, "a pool");
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kResourceExhausted);
  EXPECT_NE(status.error().message.find("11 bytes"), std::string::npos);
  EXPECT_NE(status.error().message.find("10 bytes"), std::string::npos);
}

TEST(Saturating, Overflow_GivesTheLargest) {
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(saturating_mul(1LL << 40, 1LL << 40), kMax);
  EXPECT_EQ(saturating_mul(0, kMax), 0);
  EXPECT_EQ(saturating_mul(3, 5), 15);
  EXPECT_EQ(saturating_add(kMax, 1), kMax);
}

TEST(Machine, MemoryAndCache_ArePlausible) {
  EXPECT_GT(memory_budget_bytes({}), 1 << 20);
  EXPECT_GT(machine_cache_bytes(), 1 << 16);
  EXPECT_EQ(memory_budget_bytes(1234), 1234);
}

TEST(KvPool, CancelledWhileFilling_IsNotFilled) {
  const auto crew = Crew::make().value();
  const RandomBlock block(DType::kF16, 1);
  const KvLayout layout = *KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 16, kShape);
  const std::function<bool()> stop = [] { return true; };
  const auto pool = KvPool::make(layout, DType::kF16, 2000, {block, *crew, stop});
  ASSERT_FALSE(pool.ok());
  EXPECT_EQ(pool.error().code, ErrorCode::kCancelled);
}

}  // namespace
}  // namespace pkv
