// Throughputs, ratios and counters from records.
#include <gtest/gtest.h>

#include "records_fixture.h"
#include "report/report.h"

namespace pkv {
namespace {

using testing::make_plan_only_records;
using testing::make_records;

TEST(Summarize, TwoRoutes_GivesThroughputAndRatioOnBothClocks) {
  const RunSummary summary = summarize(make_records());
  ASSERT_EQ(summary.routes.size(), 2U);
  EXPECT_DOUBLE_EQ(*summary.routes[0].tokens_per_s_device, 2000.0);
  EXPECT_DOUBLE_EQ(*summary.routes[1].tokens_per_s_device, 4000.0);
  EXPECT_DOUBLE_EQ(*summary.routes[1].ratio_device, 2.0);
  EXPECT_DOUBLE_EQ(*summary.routes[0].ratio_device, 1.0);
  EXPECT_DOUBLE_EQ(*summary.routes[1].ratio_wall, 2001.0 / 1001.0);
  EXPECT_EQ(summary.baseline, "row");
  EXPECT_EQ(summary.best_idx, 1U);
}

TEST(Summarize, StepsOfDifferentSize_WeighsByRowsAndTime) {
  RunRecords records = make_records();
  records.routes[1].steps[1] = testing::make_step(1, Route::kWorkqueue, 12, 3000000);
  const RunSummary summary = summarize(records);
  EXPECT_EQ(summary.routes[1].rows, 16);
  EXPECT_DOUBLE_EQ(*summary.routes[1].tokens_per_s_device, 16.0 / 4e-3);
}

TEST(Summarize, Counters_AreAveragesAStep) {
  const RouteSummary route = summarize(make_records()).routes[1];
  EXPECT_EQ(route.steps, 2);
  EXPECT_EQ(route.rows, 8);
  EXPECT_DOUBLE_EQ(*route.launches_per_step, 2.0);
  EXPECT_DOUBLE_EQ(*route.merge_launches_per_step, 1.0);
  EXPECT_DOUBLE_EQ(*route.nonempty_share, 0.75);
  EXPECT_DOUBLE_EQ(*route.tasks_per_step, 40.0);
  EXPECT_DOUBLE_EQ(*route.tasks_per_worker_or_sm, 20.0);
  EXPECT_DOUBLE_EQ(*route.useful_kv_mib_per_step, 4.0);
  EXPECT_DOUBLE_EQ(*route.merge_state_mib_per_step, 1.0);
  EXPECT_DOUBLE_EQ(*route.plan_us_p50, 1.0);
}

TEST(Summarize, Probe_GivesShareOfTheSameRun) {
  const RunSummary summary = summarize(make_records());
  EXPECT_DOUBLE_EQ(*summary.probe_gb_per_s, 8.388608);
  EXPECT_DOUBLE_EQ(*summary.routes[1].gb_per_s, 4.194304);
  EXPECT_DOUBLE_EQ(*summary.routes[1].probe_share, 0.5);
}

TEST(Summarize, MlpProxy_DilutesTheRatio) {
  RunRecords records = make_records();
  records.mlp_ns = {1000000, 1000000};
  const RunSummary summary = summarize(records);
  EXPECT_DOUBLE_EQ(*summary.mlp_ms_p50, 1.0);
  EXPECT_DOUBLE_EQ(*summary.routes[1].layer_tokens_per_s, 2000.0);
  EXPECT_DOUBLE_EQ(*summary.routes[1].layer_ratio, 1.5);
}

TEST(Summarize, PlanOnly_LeavesTimesUnset) {
  const RunSummary summary = summarize(make_plan_only_records());
  const RouteSummary& route = summary.routes[1];
  EXPECT_FALSE(route.device_ms_p50 || route.wall_ms_p50 || route.tokens_per_s_device || route.ratio_device);
  EXPECT_FALSE(route.gb_per_s || route.probe_share || route.max_abs_error || summary.best_idx);
  EXPECT_DOUBLE_EQ(*route.tasks_per_worker_or_sm, 40.0 / 28.0);
  EXPECT_TRUE(route.plan_us_p50.has_value());
}

TEST(Summarize, NoSteps_LeavesEveryMeanUnset) {
  RunRecords records = make_records();
  for (RouteRecords& route : records.routes) {
    route.steps.clear();
    route.errors.reset();
  }
  records.probe.clear();
  const RunSummary summary = summarize(records);
  EXPECT_EQ(summary.steps, 0);
  EXPECT_FALSE(summary.routes[0].launches_per_step || summary.routes[0].nonempty_share || summary.probe_gb_per_s);
  EXPECT_FALSE(summary.best_idx || summary.routes[0].ratio_wall);
}

TEST(Summarize, OtherBaseline_RatiosAreAgainstIt) {
  RunRecords records = make_records();
  records.baseline_idx = 1;
  const RunSummary summary = summarize(records);
  EXPECT_DOUBLE_EQ(*summary.routes[0].ratio_device, 0.5);
  EXPECT_EQ(summary.baseline, "workqueue");
}

}  // namespace
}  // namespace pkv
