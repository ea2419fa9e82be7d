// The rule that divides a step on a CPU.
// Not here: the planner's own properties (tests/property), engines.
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "persistentkv/decision.h"
#include "persistentkv/layout.h"

namespace pkv {
namespace {

class CpuRule : public ::testing::Test {
 protected:
  PlanOptions rule(const std::vector<std::int32_t>& lens, KvOrder order = KvOrder::kHND, std::int32_t page_size = 16,
                   std::int32_t workers = 2, const ReadCurve& curve = {}) {
    lens_ = lens;
    indptr_ = {0};
    for (const std::int32_t len : lens_) {
      indptr_.push_back(indptr_.back() + (len + page_size - 1) / page_size);
    }
    pages_.resize(static_cast<std::size_t>(indptr_.back()));
    std::iota(pages_.begin(), pages_.end(), 0);
    batch_ = BatchState::make({.shape = shape_,
                               .page_size = page_size,
                               .seq_lens = lens_,
                               .block_table = BlockTable::csr(indptr_, pages_).value(),
                               .num_pages = indptr_.back()})
                 .value();
    const KvLayout layout = KvLayout::make(order, KvPacking::kSeparate, page_size, batch_.shape()).value();
    const PlanOptions options = cpu_rule(batch_, layout, dtype_, workers, curve);
    EXPECT_TRUE(make_plan(batch_, options).ok());
    return options;
  }

  AttentionShape shape_;
  DType dtype_ = DType::kF16;
  BatchState batch_;
  std::vector<std::int32_t> lens_, indptr_, pages_;
};

TEST_F(CpuRule, SmallPages_AreWalkedWithAllHeads) {
  for (const KvOrder order : {KvOrder::kHND, KvOrder::kNHD}) {
    const PlanOptions options = rule({32768}, order);
    EXPECT_EQ(options.route, Route::kPages);
    EXPECT_EQ(options.kv_heads_per_task, 8);
    EXPECT_EQ(options.merge, MergeMode::kFused);
  }
}

// The tile that is worked on and the next one must stay in the L2: 32 heads of 96 floats are 768 KiB.
TEST_F(CpuRule, TilesOfMostOfTheL2_AreWalkedWithFewerHeads) {
  shape_ = {.num_q_heads = 64, .num_kv_heads = 32, .head_dim = 96};
  dtype_ = DType::kF32;
  EXPECT_EQ(rule({5000}, KvOrder::kNHD, 4).kv_heads_per_task, 16);
  dtype_ = DType::kF16;
  EXPECT_EQ(rule({5000}, KvOrder::kNHD, 4).kv_heads_per_task, 32);
}

// Where chunks of every size are read alike, fewer heads a task mean fewer states to merge.
TEST_F(CpuRule, FlatCurve_TakesFewerHeadsATask) {
  ReadCurve flat;
  for (ReadCurve::Point& point : flat.points) {
    point.bytes_per_ns = 30.0;
  }
  EXPECT_LT(*rule({32768}, KvOrder::kHND, 16, 2, flat).kv_heads_per_task, 8);
  EXPECT_EQ(rule({32768}, KvOrder::kHND, 16, 2).kv_heads_per_task, 8);
}

TEST_F(CpuRule, ShortSteps_AreCutOnceAWorker) {
  const auto num_tasks = [&](std::int32_t len, std::int32_t workers) {
    const PlanOptions options = rule({len}, KvOrder::kHND, 16, workers);
    return make_plan(batch_, options)->counters().num_tasks;
  };
  EXPECT_EQ(num_tasks(256, 2), 2);
  EXPECT_EQ(num_tasks(1000, 2), 2);
  EXPECT_EQ(num_tasks(32, 2), 2);  // of some of the heads each: there is one tile
  EXPECT_EQ(num_tasks(256, 4), 4);
}

TEST_F(CpuRule, LongSteps_HaveSixteenTasksAWorker) {
  EXPECT_EQ(rule({32768}).splits, 32);
  EXPECT_EQ(rule(std::vector<std::int32_t>(64, 512)).splits, 1);  // rows are tasks enough
}

TEST_F(CpuRule, NothingToAttend_IsPlanned) {
  EXPECT_FALSE(rule({0, 0}).splits.has_value());
  rule({});
}

TEST_F(CpuRule, Curve_IsLinearBetweenPointsAndFlatOutside) {
  const ReadCurve curve;
  EXPECT_DOUBLE_EQ(curve.bytes_per_ns(1), curve.points.front().bytes_per_ns);
  EXPECT_DOUBLE_EQ(curve.bytes_per_ns(1 << 30), curve.points.back().bytes_per_ns);
  EXPECT_DOUBLE_EQ(curve.bytes_per_ns(4096), curve.points[1].bytes_per_ns);
  EXPECT_DOUBLE_EQ(curve.bytes_per_ns(3072), (curve.points[0].bytes_per_ns + curve.points[1].bytes_per_ns) / 2);
}

}  // namespace
}  // namespace pkv
