// CudaGraphBounds::around: what it holds, and how slack stretches it.
// Not here: capture (tests/gpu).
#include <gtest/gtest.h>

#include "exec/cuda/step_pack.h"
#include "persistentkv/cuda.h"
#include "support/random_step.h"

namespace pkv {
namespace {

using testing::Step;

Step two_rows() {
  Step step;
  step.shape = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 64};
  step.seq_lens = {100, 40};  // 7 and 3 pages of 16
  step.make_table();
  return step;
}

TEST(CudaGraphBounds, WithoutSlack_HoldExactlyTheStep) {
  const Step step = two_rows();
  const BatchState batch = step.batch();
  const Plan plan = make_plan(batch, {.route = Route::kWorkqueue, .splits = 2}).value();
  const CudaGraphBounds bounds = CudaGraphBounds::around(plan, batch);
  EXPECT_EQ(bounds.max_rows, 2);
  EXPECT_EQ(bounds.max_tasks, plan.counters().num_tasks);
  EXPECT_EQ(bounds.max_merges, 2);
  EXPECT_EQ(bounds.max_partial_slots, plan.counters().num_partial_slots);
  EXPECT_EQ(bounds.max_page_ids, 10);
  EXPECT_EQ(bounds.max_splits, 2);
}

TEST(CudaGraphBounds, Slack_StretchesWorkButNotRows) {
  const Step step = two_rows();
  const BatchState batch = step.batch();
  const Plan plan = make_plan(batch, {.route = Route::kWorkqueue, .splits = 2}).value();
  const CudaGraphBounds bounds = CudaGraphBounds::around(plan, batch, 1.25);
  EXPECT_EQ(bounds.max_rows, 2);
  EXPECT_EQ(bounds.max_merges, 2);
  EXPECT_EQ(bounds.max_tasks, 10);  // 8 tasks
  EXPECT_EQ(bounds.max_partial_slots, 10);
  EXPECT_EQ(bounds.max_page_ids, 13);  // 12.5, rounded up
  EXPECT_EQ(bounds.max_splits, 3);
}

TEST(CudaGraphBounds, SlackBelowOne_StillHoldsTheStep) {
  const Step step = two_rows();
  const BatchState batch = step.batch();
  const Plan plan = make_plan(batch, {.route = Route::kSplit, .splits = 3}).value();
  EXPECT_EQ(CudaGraphBounds::around(plan, batch, 0.1).max_tasks, plan.counters().num_tasks);
}

TEST(CudaGraphBounds, RandomSteps_AreHeld) {
  SplitMix64 random(8);
  for (int i = 0; i < 200; ++i) {
    const Step step = testing::random_step(random);
    const BatchState batch = step.batch();
    const Plan plan = make_plan(batch, {.route = Route::kSplit, .num_workers = 132}).value();
    const CudaGraphBounds bounds = CudaGraphBounds::around(plan, batch, 1.0 + random.uniform());
    const cuda::StepCapacity needed = cuda::StepCapacity::of(plan);
    ASSERT_GE(bounds.max_tasks, needed.tasks);
    ASSERT_GE(bounds.max_merges, needed.merges);
    ASSERT_GE(bounds.max_page_ids, needed.page_ids);
    ASSERT_GE(bounds.max_partial_slots, plan.counters().num_partial_slots);
    ASSERT_GE(bounds.max_splits, plan.max_splits());
  }
}

}  // namespace
}  // namespace pkv
