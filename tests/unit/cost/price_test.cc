// Prices by hand, and the paper's formula.
#include "persistentkv/price.h"

#include <cmath>

#include "unit/cost/policy_fixture.h"

namespace pkv {
namespace {

/// Prices that are easy to follow: two workers of 10 bytes/ns that share 15, no arithmetic to speak of.
DeviceProfile simple() {
  DeviceProfile profile;
  profile.num_workers = 2;
  profile.bandwidth = {{1, 10.0}, {2, 15.0}};
  profile.arithmetic = {{DType::kF16, 1, 128, 1e6}};
  profile.launch_ns = 700.0;
  profile.merge_launch_ns = 500.0;
  profile.merge_bytes_per_ns = 20.0;
  return profile;
}

constexpr double kTokenBytes = 512.0;  // of one KV head

TEST(PriceModel, EvenTasks_TakeTheMemorysTime) {
  const testing::Step step = step_of({4096, 4096});
  const Plan plan = make_plan(step.batch(), {.route = Route::kRow}).value();
  const Price price = model_of(simple()).price(plan);
  EXPECT_NEAR(price.decode_ns, 2 * 4096 * 8 * kTokenBytes / 15.0, 100.0);
  EXPECT_EQ(price.launch_ns, 700.0);
  EXPECT_EQ(price.merge_ns, 0.0);
  EXPECT_NEAR(price.tail_ns, 0.0, 1.0);
  EXPECT_DOUBLE_EQ(price.device_ns, price.decode_ns + price.launch_ns);
}

TEST(PriceModel, OneTask_TakesWhatOneWorkerReads) {
  const testing::Step step = step_of({4096}, {.num_q_heads = 1, .num_kv_heads = 1});
  const Plan plan = make_plan(step.batch(), {.route = Route::kRow}).value();
  const Price price = model_of(simple(), step.shape).price(plan);
  EXPECT_NEAR(price.decode_ns, 4096 * kTokenBytes / 10.0, 1.0);
  EXPECT_NEAR(price.tail_ns, 4096 * kTokenBytes * (1.0 / 10.0 - 1.0 / 15.0), 1.0);
}

TEST(PriceModel, Splits_PayForTheirMerge) {
  const testing::Step step = step_of({4096}, {.num_q_heads = 1, .num_kv_heads = 1});
  const Plan plan = make_plan(step.batch(), {.route = Route::kWorkqueue, .splits = 2}).value();
  const Price price = model_of(simple(), step.shape).price(plan);
  EXPECT_NEAR(price.decode_ns, 4096 * kTokenBytes / 15.0, 1.0);
  EXPECT_EQ(price.launch_ns, 1200.0);
  EXPECT_NEAR(price.merge_ns, 2 * 130 * 4 / 20.0, 1e-9);
}

TEST(PriceModel, MemoryAndArithmetic_RunSideBySide) {
  DeviceProfile profile = simple();
  profile.arithmetic = {{DType::kF16, 4, 128, 7.5}};  // as fast as the memory, on two workers
  profile.overlap_exponent = 4.0;
  const testing::Step step = step_of({4096, 4096});
  const Plan plan = make_plan(step.batch(), {.route = Route::kRow}).value();
  const double memory_ns = 2 * 4096 * 8 * kTokenBytes / 15.0;
  EXPECT_NEAR(model_of(profile).price(plan).decode_ns, memory_ns * std::pow(2.0, 0.25), 200.0);
}

TEST(PriceModel, ShortPieces_ReadSlower) {
  DeviceProfile profile = simple();
  profile.chunks = {{4096, 0.5}, {32768, 1.0}};
  const testing::Step step = step_of({4096, 4096});
  const Plan heads = make_plan(step.batch(), {.route = Route::kRow}).value();
  const Plan pages = make_plan(step.batch(), {.route = Route::kRow, .kv_heads_per_task = 8}).value();
  EXPECT_NEAR(model_of(profile).price(heads).decode_ns, 2.0 * model_of(profile).price(pages).decode_ns, 200.0);
}

TEST(PriceModel, EmptyBatch_CostsPlanningOnly) {
  const testing::Step step = step_of({});
  EXPECT_EQ(model_of(simple()).price(make_plan(step.batch(), {}).value()).device_ns, 0.0);
}

TEST(PriceModel, Schedule_EndsWithThePrice) {
  const testing::Step step = step_of({20000, 3000, 700, 9000});
  const Plan plan = make_plan(step.batch(), {.route = Route::kPages, .num_workers = 2}).value();
  const PriceModel model = model_of(shipped("cpu"));
  double last_ns = 0.0;
  for (const ScheduledTask& task : model.schedule(plan)) {
    EXPECT_LT(task.begin_ns, task.end_ns);
    EXPECT_LT(task.slot, model.num_slots());
    last_ns = std::max(last_ns, task.end_ns);
  }
  const Price price = model.price(plan);
  EXPECT_NEAR(last_ns, model.profile().launch_ns + price.decode_ns, 1.0);
}

// The device's terms are those of one layer.
TEST(PriceModel, Layers_ShareWhatPlanningCosts) {
  const testing::Step step = step_of({30000, 5000, 700});
  for (const std::string_view name : shipped_profile_names()) {
    const Plan plan = make_plan(step.batch(), {.route = Route::kSplit, .splits = 12}).value();
    const Price one = PriceModel::make(shipped(name), {})->price(plan);
    const Price of_all = PriceModel::make(shipped(name), {.num_layers = 32})->price(plan);
    EXPECT_GT(one.plan_ns, 0.0);
    EXPECT_DOUBLE_EQ(of_all.plan_ns, one.plan_ns / 32.0);
    EXPECT_EQ(of_all.device_ns, one.device_ns);
    EXPECT_DOUBLE_EQ(of_all.total_ns(), one.device_ns + one.plan_ns / 32.0);
  }
  const Price external = PriceModel::make(shipped("rtx3060"), {.num_layers = 32})
                             ->price(make_plan(step.batch(), {.route = Route::kFlashInferCore}).value());
  EXPECT_LT(external.plan_ns, shipped("rtx3060").external[0].plan_ns);
}

TEST(PriceModel, LayersOutsideTheLimits_AreAnError) {
  for (const std::int32_t layers : {0, -1, kMaxLayers + 1}) {
    const auto model = PriceModel::make(shipped("cpu"), {.num_layers = layers});
    ASSERT_FALSE(model.ok());
    EXPECT_EQ(model.error().to_string(), "num_layers: " + std::to_string(layers) + " is outside 1 to 1024");
  }
}

TEST(PriceModel, UnknownType_IsAnError) {
  const auto model = PriceModel::make(shipped("h100"), {.kv_dtype = DType::kF32});
  EXPECT_EQ(model.error().to_string(), "profile.arithmetic: profile h100 has no arithmetic rate of f32");
}

TEST(PaperPrice, StarvedPlan_PaysForIdleWorkers) {
  // One row of 32,768 tokens: 128 MiB; 8 tasks on 28 SMs are 0.286 a SM, 14 times too few.
  const testing::Step step = step_of({32768});
  const Plan row = make_plan(step.batch(), {.route = Route::kRow}).value();
  const double reading = 134217728.0 / 302.0;
  EXPECT_NEAR(paper_price_ns(row, DType::kF16, shipped("rtx3060")), reading * 4.0 / (8.0 / 28.0) + 8000.0, 1e-3);
}

TEST(PaperPrice, SplitPlan_PaysForLaunchesAndMerge) {
  const testing::Step step = step_of({32768});
  const Plan split = make_plan(step.batch(), {.route = Route::kWorkqueue, .splits = 32}).value();
  const double merge = 8 * 32 * 4 * 130 * 4 / 302.0;
  EXPECT_NEAR(paper_price_ns(split, DType::kF16, shipped("rtx3060")), 134217728.0 / 302.0 + 2 * 8000.0 + merge, 1e-3);
}

}  // namespace
}  // namespace pkv
