// The table of tensor-core kernels against the prices by which they are chosen. Needs nvcc's objects, no GPU.
// Not here: registers and spills (resource_report_test.cc).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cost/gpu_kernels.h"
#include "exec/cuda/kernels.h"
#include "exec/cuda/launch.h"

namespace pkv::cuda {
namespace {

constexpr std::int64_t kMostShared = 227 * 1024;
constexpr std::int64_t kLeastShared = 99 * 1024;  // compute capability 8.6, 8.9, 12.0

TEST(KernelTable, EveryKernel_IsPricedForTheBlocksThatItIsBuiltFor) {
  for (const KernelEntry& entry : mma_kernels()) {
    const AttentionShape shape = {
        .num_q_heads = entry.max_group_size, .num_kv_heads = 1, .head_dim = entry.max_head_dim};
    EXPECT_EQ(gpu_kernel_class(shape).at(entry.width).blocks_per_sm, entry.blocks_per_sm) << entry.name;
    EXPECT_LE(entry.shared_bytes, kMostShared) << entry.name;
    EXPECT_LE((entry.shared_bytes + kBlockBytes) * entry.blocks_per_sm, kMostShared + 1024) << entry.name;
  }
}

TEST(KernelTable, EveryPricedWidth_IsAKernel) {
  for (const std::int32_t head_dim : {64, 128, 256}) {
    for (const std::int32_t group : {8, 16, 32}) {
      const GpuKernelClass& kernels = gpu_kernel_class({.num_q_heads = group, .num_kv_heads = 1, .head_dim = head_dim});
      for (int i = 0; i < kNumKernelWidths; ++i) {
        const auto width = static_cast<KernelWidth>(i);
        if (kernels.at(width).blocks_per_sm > 0) {
          const KernelEntry* found = find_mma_kernel(ElementType::kF16, head_dim, group, width, kMostShared);
          ASSERT_NE(found, nullptr) << head_dim << " " << group;
          EXPECT_EQ(found->width, width) << found->name;
        }
      }
    }
  }
}

TEST(KernelTable, TheTightestClassIsFound_AndTheNearestWidthThatFits) {
  for (const ElementType type : {ElementType::kF16, ElementType::kBF16}) {
    for (const std::int32_t head_dim : {32, 64, 96, 128, 192, 256}) {
      for (const std::int32_t group : {1, 8, 9, 16, 17, 32}) {
        SCOPED_TRACE(fmt::format("d {} group {}", head_dim, group));
        for (int i = 0; i < kNumKernelWidths; ++i) {
          const KernelEntry* found = find_mma_kernel(type, head_dim, group, static_cast<KernelWidth>(i), kMostShared);
          ASSERT_NE(found, nullptr);
          EXPECT_EQ(found->max_head_dim, head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256);
          EXPECT_EQ(found->max_group_size, group <= 8 ? 8 : group <= 16 ? 16 : 32);
          const KernelEntry* small = find_mma_kernel(type, head_dim, group, static_cast<KernelWidth>(i), kLeastShared);
          ASSERT_NE(small, nullptr);
          EXPECT_LE(small->shared_bytes, kLeastShared);
        }
      }
    }
  }
  EXPECT_EQ(find_mma_kernel(ElementType::kF16, 128, 33, KernelWidth::kWide, kMostShared), nullptr);
}

// An H100: 132 SMs.
TEST(MergeChoice, FewUnits_AreMergedInOneRound) {
  const AttentionShape shape = {.num_q_heads = 32, .num_kv_heads = 8, .head_dim = 128};
  for (const std::int32_t splits : {2, 8, 9, 16, 17, 64, 65, 128}) {
    const MergeEntry& merge = choose_merge(1, splits, shape, 132);
    EXPECT_GE(merge.splits_at_once, splits);
    for (const MergeEntry& other : merge_kernels()) {  // of those the first, with the fewest threads
      EXPECT_TRUE(&other >= &merge || other.splits_at_once < splits) << splits;
    }
  }
}

TEST(MergeChoice, ManyUnitsBesideALongRow_DoNotWaitForPlaces) {
  const AttentionShape shape = {.num_q_heads = 32, .num_kv_heads = 1, .head_dim = 256};
  const MergeEntry& alone = choose_merge(1, 171, shape, 132);
  EXPECT_EQ(alone.splits_at_once, 128);
  // One by one they would be 15360 blocks, two an SM.
  const MergeEntry& among = choose_merge(120, 171, shape, 132);
  EXPECT_LE(among.splits_at_once, 16);
  EXPECT_LE(merge_blocks(among, 120, shape), 7680);
}

}  // namespace
}  // namespace pkv::cuda
