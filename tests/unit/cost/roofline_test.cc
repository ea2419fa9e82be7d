// The paper's price by hand, and the choice of the cheapest plan.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "persistentkv/decision.h"

namespace pkv {
namespace {

// The paper's constants for the RTX 3060.
const DeviceProfile kRtx3060{
    .name = "rtx3060", .num_workers = 28, .read_bytes_per_ns = 302.0, .min_tasks_per_worker = 4.0, .launch_ns = 8000.0};

class RooflineTest : public ::testing::Test {
 protected:
  BatchState batch(const std::vector<std::int32_t>& seq_lens) {
    seq_lens_ = seq_lens;
    indptr_ = {0};
    for (const std::int32_t seq_len : seq_lens_) {
      indptr_.push_back(indptr_.back() + (seq_len + 15) / 16);
    }
    indices_.assign(static_cast<std::size_t>(indptr_.back()), 0);
    return BatchState::make({.page_size = 16,
                             .seq_lens = seq_lens_,
                             .block_table = BlockTable::csr(indptr_, indices_).value(),
                             .num_pages = 1})
        .value();
  }
  std::vector<std::int32_t> seq_lens_, indptr_, indices_;
};

TEST_F(RooflineTest, StarvedPlan_PaysForIdleWorkers) {
  // One row of 32,768 tokens: 128 MiB; 8 tasks on 28 SMs are 0.286 a SM, 14 times too few.
  const Plan row = make_plan(batch({32768}), {.route = Route::kRow}).value();
  const double reading = 134217728.0 / 302.0;
  EXPECT_NEAR(predicted_ns(row, DType::kF16, kRtx3060), reading * 4.0 / (8.0 / 28.0) + 8000.0, 1e-3);
}

TEST_F(RooflineTest, SplitPlan_PaysForLaunchesAndMerge) {
  const Plan split = make_plan(batch({32768}), {.route = Route::kWorkqueue, .splits = 32}).value();
  const double merge = 8 * 32 * 4 * 130 * 4 / 302.0;
  EXPECT_NEAR(predicted_ns(split, DType::kF16, kRtx3060), 134217728.0 / 302.0 + 2 * 8000.0 + merge, 1e-3);
}

TEST_F(RooflineTest, WiderTypes_CostMore) {
  const Plan plan = make_plan(batch({32768}), {.route = Route::kWorkqueue, .splits = 32}).value();
  EXPECT_GT(predicted_ns(plan, DType::kF32, kRtx3060), 1.9 * predicted_ns(plan, DType::kF16, kRtx3060));
}

TEST_F(RooflineTest, Decide_SplitsOneLongRowButNotAFullBatch) {
  const Decision one = decide(batch({65536}), DType::kF16, kAllRoutes, kRtx3060).value();
  EXPECT_GT(one.plan.max_splits(), 1);
  EXPECT_EQ(one.candidates.size(), std::size(kAllRoutes));
  const Decision many = decide(batch(std::vector<std::int32_t>(64, 4096)), DType::kF16, kAllRoutes, kRtx3060).value();
  EXPECT_EQ(many.plan.max_splits(), 1);
  EXPECT_EQ(many.plan.route(), Route::kRow);  // the first of the routes at the same price
}

TEST_F(RooflineTest, Decision_CarriesThePlanThatWasPriced) {
  const Decision decision = decide(batch({65536, 100, 0}), DType::kF16, kAllRoutes, kRtx3060).value();
  EXPECT_DOUBLE_EQ(predicted_ns(decision.plan, DType::kF16, kRtx3060), decision.predicted_ns);
  for (const Candidate& candidate : decision.candidates) {
    EXPECT_GE(candidate.predicted_ns, decision.predicted_ns);
  }
  EXPECT_NE(decision.reason.find(std::string(route_name(decision.plan.route()))), std::string::npos);
}

TEST_F(RooflineTest, RouteThatCannotPlan_IsLeftOutAndNamed) {
  std::vector<std::int32_t> seq_lens(5000, 1);
  seq_lens[0] = 1000000;  // the padded grid of this step on 4,096 workers has over 2^24 tasks
  DeviceProfile wide = kRtx3060;
  wide.num_workers = 4096;
  const BatchState step = batch(seq_lens);
  ASSERT_FALSE(make_plan(step, {.route = Route::kPadded, .num_workers = 4096}).ok());
  const Decision decision = decide(step, DType::kF16, kAllRoutes, wide).value();
  EXPECT_NE(decision.reason.find("padded left out: "), std::string::npos) << decision.reason;
  const Route padded[] = {Route::kPadded};
  EXPECT_EQ(decide(step, DType::kF16, padded, wide).error().code, ErrorCode::kOutOfRange);
}

TEST_F(RooflineTest, EmptyBatch_HasAPrice) {
  EXPECT_EQ(decide(batch({}), DType::kF16, kAllRoutes, kRtx3060)->predicted_ns, 0.0);
}

TEST_F(RooflineTest, BadProfile_IsAnErrorThatNamesTheField) {
  DeviceProfile bad = kRtx3060;
  bad.read_bytes_per_ns = 0.0;
  EXPECT_EQ(decide(batch({10}), DType::kF16, kAllRoutes, bad).error().where, "profile.read_bytes_per_ns");
  bad = kRtx3060;
  bad.launch_ns = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(validate(bad).error().where, "profile.launch_ns");
  bad = kRtx3060;
  bad.num_workers = -1;
  EXPECT_EQ(validate(bad).error().where, "profile.num_workers");
  bad = kRtx3060;
  bad.min_tasks_per_worker = std::numeric_limits<double>::infinity();
  EXPECT_EQ(validate(bad).error().where, "profile.min_tasks_per_worker");
  EXPECT_EQ(decide(batch({10}), DType::kF16, {}, kRtx3060).error().where, "routes");
}

}  // namespace
}  // namespace pkv
