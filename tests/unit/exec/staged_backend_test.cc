// Tensors reach the device and come back, whatever their strides; nothing of the host is seen there.
#include "exec/staged_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/cpu_backend.h"
#include "support/paged_case.h"
#include "unit/exec/fake_device.h"

namespace pkv {
namespace {

using testing::CaseSpec;
using testing::FakeDeviceBackend;
using ::testing::HasSubstr;
using testing::PagedCase;

class StagedBackendTest : public ::testing::Test {
 protected:
  std::unique_ptr<CpuBackend> cpu_ = testing::make_backend(Isa::kPortable);
  FakeDeviceBackend device_{*cpu_};
  std::unique_ptr<StagedBackend> staged_ = StagedBackend::make(device_).value();
};

TEST_F(StagedBackendTest, EveryLayoutAndType_GivesTheOraclesAnswer) {
  for (const KvOrder order : {KvOrder::kHND, KvOrder::kNHD}) {
    for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        CaseSpec spec;
        spec.lens = {70, 0, 1, 33};
        spec.order = order;
        spec.packing = packing;
        spec.kv_dtype = dtype;
        spec.q_dtype = dtype;
        spec.out_dtype = dtype;
        spec.padding = 8;
        spec.shape.sinks = Sinks::kPerQueryHead;
        PagedCase paged(spec);
        paged.expect_correct(*staged_, {.route = Route::kWorkqueue, .splits = 3});
        paged.expect_correct(*staged_, {.route = Route::kRow});
      }
    }
  }
}

TEST_F(StagedBackendTest, GapsBetweenHeadsAndRows_KeepTheirContent) {
  CaseSpec spec;
  spec.lens = {20, 40};
  spec.padding = 3;
  const PagedCase paged(spec);
  const Plan plan = make_plan(paged.batch(), {.route = Route::kRow}).value();
  ASSERT_TRUE(staged_->reserve(plan).ok());
  const RunArgs strides = paged.args(nullptr, nullptr);
  std::vector<float> out(static_cast<std::size_t>(2 * strides.out.row_stride), 7.0F);
  std::vector<float> lse(2 * 8 + 1, 7.0F);
  ASSERT_TRUE(staged_->run(plan, paged.args(out.data(), lse.data())).ok());
  EXPECT_EQ(lse.back(), 7.0F);
  for (std::int64_t row = 0; row < 2; ++row) {
    for (std::int64_t i = 0; i < strides.out.row_stride; ++i) {
      const bool gap = i >= 8 * strides.out.head_stride || i % strides.out.head_stride >= spec.shape.head_dim;
      const float value = out[static_cast<std::size_t>(row * strides.out.row_stride + i)];
      EXPECT_EQ(value == 7.0F, gap) << row << " " << i;
    }
  }
}

TEST_F(StagedBackendTest, SmallerStep_ReusesTheMemory) {
  CaseSpec spec;
  spec.lens = {300, 200};
  PagedCase large(spec);
  large.expect_correct(*staged_, {.route = Route::kSplit, .splits = 4});
  const int allocations = device_.memory.num_allocations;
  spec.lens = {100};
  spec.seed = 2;
  PagedCase small(spec);
  small.expect_correct(*staged_, {.route = Route::kSplit, .splits = 4});
  EXPECT_EQ(device_.memory.num_allocations, allocations);
  staged_.reset();
  EXPECT_EQ(device_.memory.used_bytes(), 0);
}

TEST_F(StagedBackendTest, NoLse_IsNotAskedOfTheDevice) {
  const PagedCase paged(CaseSpec{});
  std::vector<float> out(8 * 64);
  const Plan plan = make_plan(paged.batch(), {.route = Route::kRow}).value();
  ASSERT_TRUE(staged_->reserve(plan).ok());
  EXPECT_TRUE(staged_->run(plan, paged.args(out.data(), nullptr)).ok());
}

TEST_F(StagedBackendTest, HostPointerOnTheDevice_IsDetected) {
  CaseSpec spec;
  const PagedCase paged(spec);
  const Plan plan = make_plan(paged.batch(), {.route = Route::kRow}).value();
  std::vector<float> out(8 * 64);
  const auto times = device_.run(plan, paged.args(out.data(), nullptr));
  ASSERT_FALSE(times.ok());
  EXPECT_EQ(times.error().where, "k");
}

TEST_F(StagedBackendTest, TensorsThatDoNotFit_AreRefusedBeforeTheyAreCopied) {
  CaseSpec spec;
  const PagedCase paged(spec);
  const Plan plan = make_plan(paged.batch(), {.route = Route::kRow}).value();
  ASSERT_TRUE(staged_->reserve(plan).ok());
  RunArgs args = paged.args(nullptr, nullptr);
  EXPECT_EQ(staged_->run(plan, args).error().where, "out");
  EXPECT_EQ(device_.memory.uploaded_bytes, 0);
}

TEST_F(StagedBackendTest, DeviceTooSmall_SaysSo) {
  device_.memory.total_bytes = 1000;
  CaseSpec spec;
  const PagedCase paged(spec);
  const Plan plan = make_plan(paged.batch(), {.route = Route::kRow}).value();
  std::vector<float> out(8 * 64);
  const auto times = staged_->run(plan, paged.args(out.data(), nullptr));
  ASSERT_FALSE(times.ok());
  EXPECT_EQ(times.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(times.error().message, HasSubstr("1000 available"));
}

TEST_F(StagedBackendTest, Facts_AreTheInnerBackends) {
  device_.runs_external = true;
  EXPECT_EQ(staged_->name(), "fake");
  EXPECT_EQ(staged_->describe(), device_.describe());
  EXPECT_EQ(staged_->num_workers(), 12);
  EXPECT_TRUE(staged_->supports(Route::kFlashInferCore));
  EXPECT_EQ(staged_->device_memory(), nullptr);
}

TEST(StagedBackend, HostBackend_IsRefused) {
  const auto cpu = testing::make_backend(Isa::kPortable);
  const auto staged = StagedBackend::make(*cpu);
  ASSERT_FALSE(staged.ok());
  EXPECT_EQ(staged.error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace pkv
