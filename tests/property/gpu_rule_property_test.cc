// Properties of gpu_rule: whatever the batch, a plan that fits every limit and cuts all rows to one measure.
// Not here: whether the rule is fast (docs/performance.md), properties of every plan (plan_property_test.cc).
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <vector>

#include "cost/gpu_kernels.h"
#include "persistentkv/decision.h"
#include "support/random_step.h"

namespace pkv {
namespace {

using testing::random_step;
using testing::Step;

constexpr std::int32_t kSmCounts[] = {1, 28, 108, 132, 188};

Step step_of(const std::vector<std::int32_t>& seq_lens) {
  Step step;
  step.seq_lens = seq_lens;
  step.make_table();
  return step;
}

// Tasks no longer than the longest, and in rows that are split none below half of it but for the ends of a row.
void expect_proportional_splits(const BatchState& batch, const Plan& plan) {
  std::int32_t longest = 0;
  for (const Task& task : plan.tasks()) {
    longest = std::max(longest, task.token_end - task.token_begin);
  }
  const std::int32_t rounding = 2 * plan.tile_tokens();
  for (const Task& task : plan.tasks()) {
    if (task.partial_slot != kNoSlot) {
      ASSERT_GE(task.token_end - task.token_begin, longest / 2 - rounding) << "row " << task.row;
    }
  }
  for (std::int32_t row = 0; row < batch.num_rows(); ++row) {
    if (batch.attended(row).size() > longest + rounding) {
      const auto i = static_cast<std::size_t>(row);
      ASSERT_GT(plan.split_offsets()[i + 1], plan.split_offsets()[i]) << "row " << row << " is longer than any task";
    }
  }
}

TEST(GpuRuleProperty, RandomBatches_GetPlansWithinLimits) {
  SplitMix64 random(3);
  for (int i = 0; i < 600; ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    const Step step = random_step(random);
    const BatchState batch = step.batch();
    const std::int32_t num_sms = kSmCounts[random.below(std::size(kSmCounts))];
    const Route named[] = {Route::kSplit, Route::kWorkqueue};
    const std::optional<Route> route = i % 3 == 0 ? std::nullopt : std::optional(named[i % 3 - 1]);
    const PlanOptions options = gpu_rule(batch, num_sms, route);
    ASSERT_EQ(options.route, route.value_or(options.route));
    const Result<Plan> plan = make_plan(batch, options);
    ASSERT_TRUE(plan.ok()) << plan.error().to_string();
    ASSERT_FALSE(is_external(plan->route()));
    const std::int64_t heads = batch.shape().num_kv_heads;
    ASSERT_LE(plan->counters().num_tasks, batch.attended_tokens() * heads / 64 + batch.num_rows() * heads);
    if (options.route == Route::kSplit) {
      expect_proportional_splits(batch, *plan);
    }
    if (HasFatalFailure()) {
      FAIL() << num_sms << " SMs: " << plan->to_string(100);
    }
  }
}

TEST(GpuRuleProperty, SameBatch_GetsTheSamePlan) {
  SplitMix64 random(4);
  for (int i = 0; i < 50; ++i) {
    const Step step = random_step(random);
    const Plan first = make_plan(step.batch(), gpu_rule(step.batch(), 132)).value();
    const Plan second = make_plan(step.batch(), gpu_rule(step.batch(), 132)).value();
    ASSERT_TRUE(std::ranges::equal(first.tasks(), second.tasks()));
    ASSERT_EQ(first.to_string(), second.to_string());
  }
}

double price_us(const BatchState& batch, const PlanOptions& options) {
  const Plan plan = make_plan(batch, options).value();
  return cheapest_width(batch.shape(), gpu_kernel_class(batch.shape()), task_sizes(plan), 132).price.total_us();
}

// Of equal chunks and equal counts the cheaper is taken, counts where they are 0.8% dearer, too; the rule prices rows
// by their mean task, within a percent.
TEST(GpuRuleProperty, TheRoute_IsTheCheaperOfBoth) {
  std::array<int, 2> chosen{};
  SplitMix64 random(9);
  for (int i = 0; i < 60; ++i) {
    std::vector<std::int32_t> lens(2 + random.below(14));
    for (std::int32_t& len : lens) len = static_cast<std::int32_t>(500 + random.below(60000));
    const Step step = step_of(lens);
    const PlanOptions best = gpu_rule(step.batch(), 132);
    ++chosen[best.route == Route::kWorkqueue ? 1 : 0];
    for (const Route route : {Route::kSplit, Route::kWorkqueue}) {
      ASSERT_LE(price_us(step.batch(), best), 1.018 * price_us(step.batch(), gpu_rule(step.batch(), 132, route)));
    }
  }
  EXPECT_GT(chosen[0], 0);
  EXPECT_GT(chosen[1], 0);
  const Step equal = step_of(std::vector<std::int32_t>(8, 32768));
  EXPECT_EQ(gpu_rule(equal.batch(), 132).route, Route::kSplit);
}

TEST(GpuRuleProperty, NoRows_PlanToNothing) {
  const Step step = step_of({});
  const Plan plan = make_plan(step.batch(), gpu_rule(step.batch(), 132)).value();
  EXPECT_TRUE(plan.tasks().empty());
  EXPECT_TRUE(plan.launches().empty());
}

TEST(GpuRuleProperty, OnlyEmptyRows_HaveNoWorkButTheirOutputs) {
  const Step step = step_of(std::vector<std::int32_t>(60, 0));
  const Plan plan = make_plan(step.batch(), gpu_rule(step.batch(), 132)).value();
  EXPECT_EQ(plan.counters().num_nonempty_tasks, 0);
  EXPECT_EQ(plan.counters().num_partial_slots, 0);
}

// Half of the SMs already reach the limit of reading.
TEST(GpuRuleProperty, OneLongRow_KeepsHalfOfTheSmsBusy) {
  const Step step = step_of({131072});
  for (const std::int32_t num_sms : kSmCounts) {
    const Plan plan = make_plan(step.batch(), gpu_rule(step.batch(), num_sms)).value();
    EXPECT_GE(2 * plan.counters().num_tasks, num_sms) << num_sms;
  }
}

TEST(GpuRuleProperty, HugeSteps_StayWithinTheLimits) {
  for (const std::size_t rows : {1U, 1000U}) {
    Step step;
    step.page_size = 256;
    step.shape = {.num_q_heads = 8, .num_kv_heads = 8, .head_dim = 128};
    step.seq_lens.assign(rows, rows == 1 ? std::numeric_limits<std::int32_t>::max() : 1 << 20);
    step.make_table();
    const Result<Plan> plan = make_plan(step.batch(), gpu_rule(step.batch(), 132));
    EXPECT_TRUE(plan.ok()) << plan.error().to_string();
  }
}

}  // namespace
}  // namespace pkv
