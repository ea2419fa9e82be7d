// CpuBackend: workspace, determinism, clocks, errors, and that a run allocates nothing.
// Not here: numerical cases (decode_test.cc).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "support/count_allocations.h"
#include "support/cpu_backend.h"
#include "support/paged_case.h"

namespace pkv {
namespace {

using testing::CaseOutput;
using testing::CaseSpec;
using testing::PagedCase;

constexpr Isa kBest = Isa::kPortable;  // what these tests check does not depend on the instruction set

CaseSpec mixed_spec() {
  return {.shape = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64}, .lens = {300, 1, 0, 77, 500}};
}

TEST(CpuBackend, AnyNumberOfWorkers_GivesTheSameBits) {
  for (const Isa isa : supported_isas()) {
    const PagedCase paged(mixed_spec());
    for (const Route route : kAllRoutes) {
      std::vector<CaseOutput> outputs;
      for (const std::int32_t workers : {1, 2, 3, 7, 7}) {
        outputs.push_back(paged.run(*testing::make_backend(isa, workers), {.route = route, .num_workers = 4}));
      }
      for (const CaseOutput& output : outputs) {
        EXPECT_EQ(output.out, outputs[0].out);
        EXPECT_EQ(output.lse, outputs[0].lse);
      }
    }
  }
}

// The same states are merged in the same order, whether in a launch of their own or by the task that finishes last.
TEST(CpuBackend, FusedMerges_GiveTheBitsOfSeparateOnes) {
  const PagedCase paged(mixed_spec());
  for (const Isa isa : supported_isas()) {
    const std::unique_ptr<CpuBackend> backend = testing::make_backend(isa, 3);
    for (const Route route : {Route::kPadded, Route::kBucket, Route::kSplit, Route::kWorkqueue, Route::kPages}) {
      for (const std::int32_t heads : {1, 2}) {
        PlanOptions options = {.route = route, .splits = 5, .kv_heads_per_task = heads};
        const CaseOutput separate = paged.run(*backend, options);
        options.merge = MergeMode::kFused;
        const CaseOutput fused = paged.run(*backend, options);
        EXPECT_EQ(fused.out, separate.out) << route_name(route);
        EXPECT_EQ(fused.lse, separate.lse) << route_name(route);
      }
    }
  }
}

TEST(CpuBackend, FusedPlan_CountsItsMergePassAsMergeTime) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(kBest);
  const PagedCase paged(mixed_spec());
  std::vector<float> out(5 * 8 * 64);
  const Plan plan =
      make_plan(paged.batch(), {.route = Route::kWorkqueue, .splits = 4, .merge = MergeMode::kFused}).value();
  ASSERT_EQ(plan.counters().num_merge_launches, 0);
  ASSERT_TRUE(backend->reserve(plan).ok());
  const Result<RunTimes> times = backend->run(plan, paged.args(out.data(), nullptr));
  ASSERT_TRUE(times.ok());
  EXPECT_GT(times->merge_ns, 0);
}

TEST(CpuBackend, PlansOfOtherProjects_AreRefusedByName) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(kBest);
  const PagedCase paged(mixed_spec());
  std::vector<float> out(5 * 8 * 64);
  for (const Route route : kExternalRoutes) {
    EXPECT_FALSE(backend->supports(route));
    const Plan plan = make_plan(paged.batch(), {.route = route}).value();
    const Status reserved = backend->reserve(plan);
    const Result<RunTimes> times = backend->run(plan, paged.args(out.data(), nullptr));
    ASSERT_FALSE(reserved.ok());
    ASSERT_FALSE(times.ok());
    for (const Error& error : {reserved.error(), times.error()}) {
      EXPECT_EQ(error.code, ErrorCode::kUnsupported);
      EXPECT_THAT(error.to_string(), ::testing::HasSubstr(std::string(route_name(route))));
    }
  }
}

TEST(CpuBackend, GarbageInTheWorkspace_IsNotRead) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(supported_isas().back());
  // A run over NaN queries leaves NaN in every partial state and in all scratch.
  CaseSpec poison = mixed_spec();
  poison.q_scale = std::nanf("");
  poison.lens = {900, 900, 900};
  const PagedCase poisoned(poison);
  PagedCase paged(mixed_spec());
  for (const Route route : kAllRoutes) {
    const CaseOutput garbage = poisoned.run(*backend, {.route = Route::kPages, .splits = 9});
    ASSERT_TRUE(std::isnan(garbage.out[0]));
    paged.expect_correct(*backend, {.route = route, .num_workers = 4});
  }
}

TEST(CpuBackend, RunBeforeReserve_IsAnError) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(kBest);
  const PagedCase paged(mixed_spec());
  std::vector<float> out(5 * 8 * 64);
  for (const Route route : {Route::kRow, Route::kWorkqueue}) {
    const Result<Plan> plan = make_plan(paged.batch(), {.route = route});
    const Result<RunTimes> times = backend->run(*plan, paged.args(out.data(), nullptr));
    ASSERT_FALSE(times.ok());
    EXPECT_EQ(times.error().code, ErrorCode::kResourceExhausted);
  }
}

TEST(CpuBackend, ReserveForASmallPlan_DoesNotCoverALargeOne) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(kBest);
  const PagedCase paged(mixed_spec());
  std::vector<float> out(5 * 8 * 64);
  ASSERT_TRUE(backend->reserve(*make_plan(paged.batch(), {.route = Route::kRow})).ok());
  const Result<Plan> larger = make_plan(paged.batch(), {.route = Route::kWorkqueue, .splits = 8});
  EXPECT_FALSE(backend->run(*larger, paged.args(out.data(), nullptr)).ok());
  ASSERT_TRUE(backend->reserve(*larger).ok());
  EXPECT_TRUE(backend->run(*larger, paged.args(out.data(), nullptr)).ok());
  // ... and a large reservation serves a small plan.
  EXPECT_TRUE(backend->run(*make_plan(paged.batch(), {.route = Route::kRow}), paged.args(out.data(), nullptr)).ok());
}

TEST(CpuBackend, PlanOfAnotherBatch_IsAnError) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(kBest);
  const PagedCase paged(mixed_spec());
  CaseSpec other_spec = mixed_spec();
  other_spec.lens[0] += 1;
  const PagedCase other(other_spec);
  const Result<Plan> plan = make_plan(other.batch(), {.route = Route::kRow});
  ASSERT_TRUE(backend->reserve(*plan).ok());
  std::vector<float> out(5 * 8 * 64);
  const Result<RunTimes> times = backend->run(*plan, paged.args(out.data(), nullptr));
  ASSERT_FALSE(times.ok());
  EXPECT_EQ(times.error().code, ErrorCode::kInvalidArgument);
}

TEST(CpuBackend, Run_AllocatesNothing) {
  for (const Isa isa : supported_isas()) {
    const std::unique_ptr<CpuBackend> backend = testing::make_backend(isa, 3);
    const PagedCase paged(mixed_spec());
    std::vector<float> out(5 * 8 * 64), lse(5 * 8);
    for (const Route route : kAllRoutes) {
      const MergeMode merge = route == Route::kSplit ? MergeMode::kFused : MergeMode::kSeparate;
      const Result<Plan> plan = make_plan(paged.batch(), {.route = route, .num_workers = 3, .merge = merge});
      ASSERT_TRUE(backend->reserve(*plan).ok());
      const RunArgs args = paged.args(out.data(), lse.data());
      ASSERT_TRUE(backend->run(*plan, args).ok());
      const std::int64_t before = testing::num_allocations();
      for (std::int32_t i = 0; i < 10; ++i) {
        const bool ok = backend->run(*plan, args).ok();
        ASSERT_TRUE(ok);
      }
      EXPECT_EQ(testing::num_allocations(), before) << route_name(route);
    }
  }
}

TEST(CpuBackend, Times_AddUpToTheTotal) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(kBest);
  const PagedCase paged(mixed_spec());
  std::vector<float> out(5 * 8 * 64);
  const Result<Plan> plan = make_plan(paged.batch(), {.route = Route::kWorkqueue, .splits = 4});
  ASSERT_TRUE(backend->reserve(*plan).ok());
  const Result<RunTimes> times = backend->run(*plan, paged.args(out.data(), nullptr));
  ASSERT_TRUE(times.ok());
  EXPECT_GT(times->decode_ns, 0);
  EXPECT_GT(times->merge_ns, 0);
  EXPECT_GE(times->dispatch_ns, 0);
  EXPECT_EQ(times->total_ns, times->decode_ns + times->merge_ns + times->dispatch_ns);
}

TEST(CpuBackend, LseNotWanted_IsNotWritten) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(kBest);
  const PagedCase paged(mixed_spec());
  std::vector<float> out(5 * 8 * 64, std::nanf(""));
  const Result<Plan> plan = make_plan(paged.batch(), {.route = Route::kPages, .num_workers = 2});
  ASSERT_TRUE(backend->reserve(*plan).ok());
  ASSERT_TRUE(backend->run(*plan, paged.args(out.data(), nullptr)).ok());
  EXPECT_TRUE(std::none_of(out.begin(), out.end(), [](float x) { return std::isnan(x); }));
}

TEST(CpuBackend, ThreadCounts_AreValidated) {
  for (const std::int32_t threads : {-1, 0, kMaxWorkers + 1}) {
    const Result<std::unique_ptr<Backend>> backend = make_cpu_backend({.threads = threads});
    ASSERT_FALSE(backend.ok());
    EXPECT_EQ(backend.error().code, ErrorCode::kInvalidArgument);
  }
  const Result<std::unique_ptr<Backend>> backend = make_cpu_backend({.threads = 5});
  ASSERT_TRUE(backend.ok());
  EXPECT_EQ((*backend)->num_workers(), 5);
}

TEST(CpuBackend, Description_NamesWorkersAndIsa) {
  const Result<std::unique_ptr<Backend>> backend = make_cpu_backend({.threads = 3, .isa = Isa::kPortable});
  ASSERT_TRUE(backend.ok());
  EXPECT_EQ((*backend)->name(), "cpu");
  EXPECT_THAT((*backend)->describe(), ::testing::HasSubstr("3 workers"));
  EXPECT_THAT((*backend)->describe(), ::testing::HasSubstr("portable"));
}

TEST(CpuBackend, NoRows_RunsNothing) {
  const std::unique_ptr<CpuBackend> backend = testing::make_backend(kBest);
  const std::vector<std::int32_t> indptr = {0};
  const Result<BatchState> batch = BatchState::make(
      {.shape = {}, .page_size = 16, .seq_lens = {}, .block_table = *BlockTable::csr(indptr, {}), .num_pages = 1});
  if (!batch.ok()) {
    GTEST_SKIP() << "a batch without rows is refused: " << batch.error().to_string();
  }
  std::vector<std::uint16_t> kv(1 << 16);
  const Result<KvLayout> layout = KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, 16, batch->shape());
  for (const Route route : kAllRoutes) {
    const Result<Plan> plan = make_plan(*batch, {.route = route});
    ASSERT_TRUE(plan.ok());
    ASSERT_TRUE(backend->reserve(*plan).ok());
    EXPECT_TRUE(backend
                    ->run(*plan, {.batch = *batch,
                                  .q = {},
                                  .kv = {.k = kv.data(), .v = kv.data(), .layout = *layout, .num_pages = 1},
                                  .out = {}})
                    .ok());
  }
}

}  // namespace
}  // namespace pkv
