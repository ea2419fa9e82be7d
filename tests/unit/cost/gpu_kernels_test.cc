// Prices of the GPU's kernels: that they follow sizes and SMs, and which width wins where.
// Not here: whether they are true (docs/performance.md).
#include "cost/gpu_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "support/random_step.h"

namespace pkv {
namespace {

constexpr std::int32_t kSms = 132;

AttentionShape shape_of(std::int32_t head_dim, std::int32_t group) {
  return {.num_q_heads = 8 * group, .num_kv_heads = 8, .head_dim = head_dim};
}

TaskSizes sizes_of(std::int64_t tokens, std::int64_t count, std::int64_t slots = 0) {
  TaskSizes sizes(tokens);
  sizes.add(tokens, count);
  sizes.add_slots(slots);
  return sizes;
}

double cheapest_us(const AttentionShape& shape, const TaskSizes& sizes, std::int32_t num_sms = kSms) {
  return cheapest_width(shape, gpu_kernel_class(shape), sizes, num_sms).price.total_us();
}

TEST(GpuKernels, EveryShape_HasAClassWithAWideKernelThatCoversIt) {
  for (const std::int32_t head_dim : {32, 64, 80, 96, 128, 192, 256}) {
    for (const std::int32_t group : {1, 5, 8, 9, 16, 17, 32, 64}) {
      const GpuKernelClass& kernels = gpu_kernel_class(shape_of(head_dim, group));
      EXPECT_GE(kernels.head_dim, head_dim);
      EXPECT_GE(kernels.group_size, std::min(group, 32));
      EXPECT_GT(kernels.at(KernelWidth::kWide).blocks_per_sm, 0);
    }
  }
}

TEST(GpuKernels, Price_RisesWithTokensTasksAndSlots_FallsWithSms) {
  for (const std::int32_t head_dim : {64, 128, 256}) {
    for (const std::int32_t group : {1, 16, 32}) {
      const AttentionShape shape = shape_of(head_dim, group);
      const double price = cheapest_us(shape, sizes_of(1024, 200));
      EXPECT_GT(price, 0.0);
      EXPECT_LT(price, cheapest_us(shape, sizes_of(2048, 200)));
      EXPECT_LT(price, cheapest_us(shape, sizes_of(1024, 400)));
      EXPECT_LT(price, cheapest_us(shape, sizes_of(1024, 200, 200)));
      EXPECT_GT(price, cheapest_us(shape, sizes_of(1024, 200), 2 * kSms));
    }
  }
}

TEST(GpuKernels, LaunchesBackToBack_SaveTheirStartWhereTheyLeaveRoom) {
  GpuMachine alone(kSms);
  GpuMachine back_to_back = alone;
  back_to_back.back_to_back = true;
  for (const std::int32_t head_dim : {64, 128, 256}) {
    for (const std::int32_t group : {1, 16, 32}) {
      const AttentionShape shape = shape_of(head_dim, group);
      const GpuKernelClass& kernels = gpu_kernel_class(shape);
      const auto saved_us = [&](std::int64_t count) {
        const auto price_us = [&](const GpuMachine& machine) {
          return gpu_price(shape, kernels, KernelWidth::kWide, sizes_of(4096, count, count), machine).total_us();
        };
        return price_us(alone) - price_us(back_to_back);
      };
      const double full_us = saved_us(std::int64_t{8} * kSms);  // what any launch saves that does not stand alone
      EXPECT_GT(full_us, 0.0);
      EXPECT_NEAR(saved_us(std::int64_t{64} * kSms), full_us, 1e-6);
      EXPECT_GT(saved_us(kSms / 16), full_us);
      EXPECT_GE(saved_us(kSms / 16), saved_us(kSms / 2));
    }
  }
}

TEST(GpuKernels, OneTaskMoreThanTheBlocks_CostsAnotherWave) {
  const AttentionShape shape = shape_of(128, 1);
  const GpuKernelClass& kernels = gpu_kernel_class(shape);
  const auto price = [&](std::int64_t count) {
    return gpu_price(shape, kernels, KernelWidth::kWide, sizes_of(4096, count), kSms).total_us();
  };
  EXPECT_GT(price(kSms + 1) - price(kSms), 5 * (price(kSms) - price(kSms - 1)));
}

TEST(GpuKernels, ALongTaskWantsAWholeSm_ManyShortOnesShareIt) {
  for (const std::int32_t head_dim : {64, 128, 256}) {
    const AttentionShape shape = shape_of(head_dim, 4);
    const GpuKernelClass& kernels = gpu_kernel_class(shape);
    EXPECT_EQ(cheapest_width(shape, kernels, sizes_of(32768, 8), kSms).width, KernelWidth::kWide);
    EXPECT_GT(cheapest_width(shape, kernels, sizes_of(16, 4096), kSms).width, KernelWidth::kMedium);
  }
}

TEST(GpuKernels, SizesInBins_KeepNumbersAndSums) {
  TaskSizes sizes(1000);
  sizes.add(1000, 3);
  sizes.add(1, 5);
  sizes.add(0, 2);
  EXPECT_EQ(sizes.num_tasks(), 10);
  EXPECT_EQ(sizes.tokens(), 3005);
  EXPECT_EQ(sizes.longest(), 1000);
}

TEST(GpuKernels, SizesByRow_AreThoseOfTheTasks) {
  SplitMix64 random(20261127);
  for (int round = 0; round < 600; ++round) {
    const testing::Step step = testing::random_step(random);
    PlanOptions options = {.route = kAllRoutes[random.below(std::size(kAllRoutes))]};
    options.num_workers = static_cast<std::int32_t>(1 + random.below(132));
    options.tile_tokens = std::int32_t{16} << random.below(4);
    options.merge = random.below(2) == 0 ? MergeMode::kFused : MergeMode::kSeparate;
    options.kv_heads_per_task = static_cast<std::int32_t>(1 + random.below(step.shape.num_kv_heads));
    if (options.route != Route::kRow && random.below(2) == 0) {
      options.splits = static_cast<std::int32_t>(1 + random.below(40));
    }
    const Plan plan = make_plan(step.batch(), options).value();
    const TaskSizes by_row = task_sizes(plan);
    const TaskSizes each = sizes_of_each(plan);
    ASSERT_EQ(by_row.num_tasks(), each.num_tasks()) << plan.to_string();
    ASSERT_EQ(by_row.tokens(), each.tokens()) << plan.to_string();
    ASSERT_EQ(by_row.longest(), each.longest()) << plan.to_string();
    ASSERT_EQ(by_row.num_slots(), each.num_slots()) << plan.to_string();
    ASSERT_EQ(by_row.last(), each.last()) << plan.to_string();
    if (by_row.num_tasks() > 0) {
      ASSERT_EQ(cheapest_us(step.shape, by_row), cheapest_us(step.shape, each)) << plan.to_string();
    }
  }
}

TEST(GpuKernels, LeastPrice_IsNoMoreThanAnyPlansPrice) {
  SplitMix64 random(20261128);
  for (int round = 0; round < 300; ++round) {
    const testing::Step step = testing::random_step(random);
    const Route route = random.below(2) == 0 ? Route::kSplit : Route::kRow;
    const Plan plan = make_plan(step.batch(), {.route = route, .num_workers = kSms}).value();
    const TaskSizes sizes = task_sizes(plan);
    GpuMachine machine(kSms);
    machine.back_to_back = random.below(2) == 0;
    const GpuKernelClass& kernels = gpu_kernel_class(step.shape);
    if (sizes.num_tasks() > 0) {
      EXPECT_LE(
          least_gpu_price(step.shape, kernels, sizes.num_tasks(), sizes.tokens(), sizes.longest(), machine).total_us(),
          cheapest_width(step.shape, kernels, sizes, machine).price.total_us() * (1.0 + 1e-12));
    }
  }
}

TEST(GpuKernels, WidthForAPlan_IsThatOfItsTasks) {
  const std::vector<std::int32_t> long_lens(1, 65536);
  const std::vector<std::int32_t> short_lens(512, 16);
  for (const auto& [lens, is_wide] : {std::pair{long_lens, true}, std::pair{short_lens, false}}) {
    std::vector<std::int32_t> indptr = {0};
    for (const std::int32_t len : lens) {
      indptr.push_back(indptr.back() + len / 16);
    }
    const std::vector<std::int32_t> indices(static_cast<std::size_t>(indptr.back()), 0);
    const BatchState batch = BatchState::make({.shape = shape_of(128, 4),
                                               .page_size = 16,
                                               .seq_lens = lens,
                                               .block_table = BlockTable::csr(indptr, indices).value(),
                                               .num_pages = 1})
                                 .value();
    const Plan plan = make_plan(batch, {.route = Route::kRow}).value();
    EXPECT_EQ(width_for(plan, kSms) == KernelWidth::kWide, is_wide);
  }
  EXPECT_EQ(width_for(Plan(), kSms), KernelWidth::kWide);
}

}  // namespace
}  // namespace pkv
