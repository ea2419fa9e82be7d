// Which kernel serves which shape, type and alignment, and that each of them agrees with the oracle.
// Not here: shapes and lengths at large (support/decode_suite.cc).
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "exec/cuda/cuda_backend.h"
#include "gpu/device_rig.h"

namespace pkv::testing {
namespace {

using ::testing::StartsWith;

const std::string kMma = "mma ";
const std::string kSimple = "simple ";

class CudaKernels : public ::testing::Test {
 protected:
  /// Runs a case and returns the name of the kernel that did it.
  std::string check(const CaseSpec& spec, const PlanOptions& options, std::int64_t kv_offset = 0,
                    std::int64_t q_offset = 0) {
    SCOPED_TRACE(spec.to_string());
    PagedCase paged(spec);
    DeviceRig rig(*backend_, paged, kv_offset, q_offset);
    const Plan plan = make_plan(paged.batch(), options).value();
    const std::string name = backend_->kernel_name(plan, rig.args(paged));
    SCOPED_TRACE(name);
    const bool is_exact = spec.kv_dtype != DType::kF16 || spec.shape.group_size() <= 8;
    paged.expect_agreement(run_on(*backend_, rig, paged, plan), is_exact ? kExactWeights : kTensorCores);
    return name;
  }

  std::unique_ptr<CudaBackend> backend_ = make_cuda();
};

constexpr PlanOptions kSplitted{.route = Route::kSplit, .splits = 3};

TEST_F(CudaKernels, SixteenBitShapes_RunOnTensorCores) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const std::int32_t head_dim : {64, 128, 256}) {
      for (const std::int32_t group_size : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 32}) {
        const std::string name = check(tensor_core_spec(dtype, {200, 0, 17}, head_dim, group_size), kSplitted);
        EXPECT_THAT(name, StartsWith(fmt::format("mma {} d{} ", dtype_name(dtype), head_dim))) << group_size;
      }
    }
  }
}

TEST_F(CudaKernels, HeadDimsBetween_RunOnTheNextLargerKernel) {
  const std::pair<std::int32_t, std::int32_t> kServedBy[] = {{8, 64}, {40, 64}, {80, 128}, {96, 128}, {136, 256}};
  for (const auto& [head_dim, kernel_dim] : kServedBy) {
    EXPECT_THAT(check(tensor_core_spec(DType::kF16, {200, 17}, head_dim), kSplitted),
                StartsWith(fmt::format("mma f16 d{} ", kernel_dim)));
  }
}

// Many tasks take narrow kernels, few take wide ones: both are right on the same rows.
TEST_F(CudaKernels, FewAndManyTasks_AreBothRight) {
  const std::vector<std::int32_t> many(300, 33);
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const std::int32_t head_dim : {64, 128, 256}) {
      for (const std::int32_t group_size : {4, 16, 32}) {
        EXPECT_THAT(check(tensor_core_spec(dtype, {700}, head_dim, group_size), kSplitted), StartsWith(kMma));
        EXPECT_THAT(check(tensor_core_spec(dtype, many, head_dim, group_size), kSplitted), StartsWith(kMma));
      }
    }
  }
}

TEST_F(CudaKernels, EveryWidth_IsRight) {
  auto& backend = dynamic_cast<cuda::Backend&>(*backend_);
  // A third of the longest row is more than any ring holds: its stages are filled again.
  const std::vector<std::int32_t> lens = {2400, 0, 1, 33, 16, 300, 31};
  constexpr PlanOptions kTwoHeads{.route = Route::kSplit, .splits = 3, .kv_heads_per_task = 2};
  for (int i = 0; i < kNumKernelWidths; ++i) {
    backend.set_width(static_cast<KernelWidth>(i));
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      for (const std::int32_t head_dim : {64, 128, 256}) {
        for (const std::int32_t group_size : {1, 4, 12, 16, 20, 32}) {
          EXPECT_THAT(check(tensor_core_spec(dtype, lens, head_dim, group_size), kSplitted), StartsWith(kMma));
        }
        EXPECT_THAT(check(tensor_core_spec(dtype, lens, head_dim, 4), kTwoHeads), StartsWith(kMma));
      }
    }
  }
}

// In whole rows of half of the heads or more, narrow kernels agree on a scale before they join their states.
TEST_F(CudaKernels, WholeRowsOfEveryWidth_WithSinksAndWindows_AreRight) {
  auto& backend = dynamic_cast<cuda::Backend&>(*backend_);
  constexpr PlanOptions kRow{.route = Route::kRow};
  constexpr PlanOptions kTwoHeads{.route = Route::kWorkqueue, .splits = 1, .kv_heads_per_task = 2};
  for (int i = 0; i < kNumKernelWidths; ++i) {
    backend.set_width(static_cast<KernelWidth>(i));
    for (const std::int32_t head_dim : {80, 128, 136, 256}) {
      for (const std::int32_t group_size : {3, 4, 8, 9, 16, 24}) {
        CaseSpec spec = tensor_core_spec(DType::kBF16, {0, 1, 44, 333}, head_dim, group_size);
        spec.shape.sinks = Sinks::kPerQueryHead;
        EXPECT_THAT(check(spec, kRow), StartsWith(kMma));
        spec.shape.sliding_window_tokens = 45;
        EXPECT_THAT(check(spec, kTwoHeads), StartsWith(kMma));
      }
    }
  }
}

TEST_F(CudaKernels, EveryMerge_IsRight) {
  for (const std::int32_t head_dim : {40, 80, 136, 256}) {
    for (const std::int32_t splits : {3, 12, 40, 100}) {
      EXPECT_THAT(
          check(tensor_core_spec(DType::kF16, {7000, 0, 65}, head_dim), {.route = Route::kSplit, .splits = splits}),
          StartsWith(kMma));
    }
  }
}

// Beside many ranges a long one is merged in several rounds.
TEST_F(CudaKernels, OneLongRowAmongManySplitOnes_IsMerged) {
  std::vector<std::int32_t> lens(600, 130);
  lens[77] = 6000;
  EXPECT_THAT(check(tensor_core_spec(DType::kF16, lens, 64, 32), {.route = Route::kSplit, .splits = 93}),
              StartsWith(kMma));
}

TEST_F(CudaKernels, Float32Cache_RunsOnTheSimpleKernel) {
  EXPECT_EQ(check(tensor_core_spec(DType::kF32, {200, 17}), kSplitted), "simple f32");
}

TEST_F(CudaKernels, QueriesOfAnotherType_RunOnTheSimpleKernel) {
  CaseSpec spec = tensor_core_spec(DType::kF16, {200, 17});
  for (const DType q : {DType::kF32, DType::kBF16}) {
    spec.q_dtype = q;
    EXPECT_EQ(check(spec, kSplitted), "simple f16");
  }
}

TEST_F(CudaKernels, GroupsAbove32_RunOnTheSimpleKernel) {
  for (const std::int32_t group_size : {33, 48, 64}) {
    EXPECT_EQ(check(tensor_core_spec(DType::kBF16, {100, 17}, 64, group_size), kSplitted), "simple bf16");
  }
}

TEST_F(CudaKernels, HeadDimsAbove256_RunOnTheSimpleKernel) {
  for (const std::int32_t head_dim : {264, 320, 512}) {
    EXPECT_EQ(check(tensor_core_spec(DType::kF16, {100, 17}, head_dim), kSplitted), "simple f16");
  }
}

TEST_F(CudaKernels, VectorsOffSixteenBytes_RunOnTheSimpleKernel) {
  EXPECT_THAT(check(tensor_core_spec(DType::kF16, {100, 17}), kSplitted, 8), StartsWith(kMma));
  EXPECT_EQ(check(tensor_core_spec(DType::kF16, {100, 17}), kSplitted, 1), "simple f16");
  const PagedCase paged(tensor_core_spec(DType::kF16, {100, 17}));
  const Plan plan = make_plan(paged.batch(), kSplitted).value();
  RunArgs args = paged.args(nullptr, nullptr);
  args.kv.layout.k_strides.slot += 1;  // told by the strides alone: nothing is read
  EXPECT_EQ(backend_->kernel_name(plan, args), "simple f16");
}

// They are copied four bytes at a time then; an odd number of elements is too little for that.
TEST_F(CudaKernels, QueriesOffSixteenBytes_RunOnTensorCoresFromFour) {
  auto& backend = dynamic_cast<cuda::Backend&>(*backend_);
  for (int i = 0; i < kNumKernelWidths; ++i) {
    backend.set_width(static_cast<KernelWidth>(i));
    for (const std::int32_t head_dim : {64, 128, 256}) {
      for (const std::int32_t group_size : {3, 16, 32}) {
        EXPECT_THAT(check(tensor_core_spec(DType::kF16, {200, 17}, head_dim, group_size), kSplitted, 0, 2),
                    StartsWith(kMma));
      }
    }
  }
  EXPECT_EQ(check(tensor_core_spec(DType::kF16, {100, 17}), kSplitted, 0, 1), "simple f16");
}

// By one store of four elements where heads lie so, else one by one; whole rows and merged ones.
TEST_F(CudaKernels, EveryOutputType_IsWritten) {
  for (const DType out : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const DType dtype : {DType::kF16, DType::kF32}) {
      for (const std::int32_t padding : {0, 4, 2}) {
        CaseSpec spec = tensor_core_spec(dtype, {200, 0, 17});
        spec.out_dtype = out;
        spec.padding = padding;
        check(spec, kSplitted);
        check(spec, {.route = Route::kRow});
      }
    }
  }
}

// What the sanitizers run: every kind of kernel once, with a row whose halves fill most rings more than once, and with
// both KV heads in a task, the second in the place of the first.
void expect_small_cases_right(DType dtype, std::int32_t head_dim, std::int32_t group_size) {
  const std::unique_ptr<CudaBackend> backend = make_cuda();
  PagedCase paged(tensor_core_spec(dtype, {540, 0, 1, 17}, head_dim, group_size));
  DeviceRig rig(*backend, paged);
  for (int i = 0; i < kNumKernelWidths; ++i) {
    dynamic_cast<cuda::Backend&>(*backend).set_width(static_cast<KernelWidth>(i));
    for (const MergeMode merge : {MergeMode::kSeparate, MergeMode::kFused}) {
      const std::int32_t heads = merge == MergeMode::kSeparate ? 2 : 1;
      const PlanOptions options = {.route = Route::kWorkqueue, .splits = 2, .kv_heads_per_task = heads, .merge = merge};
      const Plan plan = make_plan(paged.batch(), options).value();
      paged.expect_agreement(run_on(*backend, rig, paged, plan), kTensorCores);
    }
  }
}

constexpr DType kTypes[] = {DType::kF16, DType::kBF16, DType::kF32};

TEST(CudaSmall, KernelsWithARingAWarp_AgreeWithTheOracle) {
  for (const DType dtype : kTypes) {
    for (const auto& [head_dim, group_size] : {std::pair{64, 4}, {64, 16}, {128, 4}, {128, 16}, {256, 4}}) {
      expect_small_cases_right(dtype, head_dim, group_size);
    }
  }
}

// Warps that share a ring meet at named barriers; racecheck then takes __syncthreads for no barrier, in these
// kernels only (it reports a flag that one thread writes ahead of __syncthreads and all read behind it).
TEST(CudaSmallNamedBarriers, KernelsWithSharedRings_AgreeWithTheOracle) {
  for (const DType dtype : kTypes) {
    for (const auto& [head_dim, group_size] : {std::pair{64, 32}, {128, 32}, {256, 16}, {256, 32}}) {
      expect_small_cases_right(dtype, head_dim, group_size);
    }
  }
}

}  // namespace
}  // namespace pkv::testing
