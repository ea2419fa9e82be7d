// Plan-only replays: the paper's published counters, without any K,V memory.
#include <gtest/gtest.h>

#include "replay_fixture.h"
#include "report/report.h"
#include "test_backends.h"

namespace pkv {
namespace {

using testing::CountingObserver;

ReplayOptions paper_options() {
  ReplayOptions options;
  options.run.routes = {{.route = Route::kBucket, .splits = 32}, {.route = Route::kWorkqueue, .splits = 20}};
  options.trace_seed = 20260623;
  options.max_steps = 48;
  options.plan_only_workers = 28;
  return options;
}

Trace paper_bimodal() {
  return *make_paper_trace(
      {.family = PaperFamily::kBimodal, .seed = 20260623, .num_requests = 24, .max_active = 8, .page_size = 16});
}

TEST(PlanOnly, PaperBimodal_GivesThePublishedCounters) {
  CountingObserver observer;
  const auto records = replay(paper_bimodal(), paper_options(), observer);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  const RunSummary summary = summarize(*records);
  EXPECT_EQ(summary.physical_pages, 24285);
  EXPECT_EQ(summary.steps, 48);
  EXPECT_EQ(summary.seed, 20260623U);
  const RouteSummary& bucket = summary.routes[0];
  EXPECT_NEAR(*bucket.useful_kv_mib_per_step, 550.5, 0.05);
  EXPECT_NEAR(*bucket.launches_per_step, 16.0, 0.005);
  EXPECT_NEAR(*bucket.tasks_per_worker_or_sm, 73.1, 0.05);
  EXPECT_NEAR(*bucket.merge_state_mib_per_step, 4.06, 0.005);
  EXPECT_NEAR(*bucket.merge_launches_per_step, 8.0, 0.005);
  const RouteSummary& workqueue = summary.routes[1];
  EXPECT_NEAR(*workqueue.launches_per_step, 2.0, 0.005);
  EXPECT_NEAR(*workqueue.tasks_per_worker_or_sm, 45.7, 0.05);
  EXPECT_NEAR(*workqueue.merge_state_mib_per_step, 2.54, 0.005);
  EXPECT_NEAR(*workqueue.merge_launches_per_step, 1.0, 0.005);
  EXPECT_FALSE(workqueue.device_ms_p50 || workqueue.max_abs_error);
}

TEST(PlanOnly, HugeShape_NeedsNoMemory) {
  CountingObserver observer;
  ReplayOptions options = paper_options();
  options.run.memory_limit_bytes = 1 << 20;
  options.run.shape = {.num_q_heads = 4096, .num_kv_heads = 4096, .head_dim = 512};
  options.max_steps = 1;
  const auto records = replay(paper_bimodal(), options, observer);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  EXPECT_FALSE(records->error.has_value());
}

TEST(PlanOnly, NoWorkers_IsAnError) {
  CountingObserver observer;
  ReplayOptions options = paper_options();
  options.plan_only_workers = 0;
  EXPECT_FALSE(replay(paper_bimodal(), options, observer).ok());
}

TEST(PlanOnly, WithABackend_IsAnError) {
  CountingObserver observer;
  testing::OracleBackend backend;
  EXPECT_FALSE(replay(paper_bimodal(), paper_options(), backend, observer).ok());
}

TEST(PlanOnly, Cancelled_KeepsWhatWasPlanned) {
  CountingObserver observer(5);
  const auto records = replay(paper_bimodal(), paper_options(), observer);
  ASSERT_TRUE(records.ok());
  EXPECT_TRUE(records->interrupted);
  EXPECT_EQ(records->routes[1].steps.size(), 5U);
}

}  // namespace
}  // namespace pkv
