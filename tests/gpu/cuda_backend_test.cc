// CudaBackend's contract: determinism, merge modes, what is refused, streams, and that a run allocates nothing.
// Not here: kernels (cuda_kernel_test.cc), graphs (cuda_graph_test.cc).
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/math.h"
#include "gpu/device_rig.h"
#include "persistentkv/decision.h"
#include "support/count_allocations.h"

namespace pkv::testing {
namespace {

using ::testing::HasSubstr;

const std::vector<std::int32_t> kMixedLens = {900, 1, 0, 77, 500, 16};

class CudaBackendTest : public ::testing::Test {
 protected:
  [[nodiscard]] Plan plan_of(const PlanOptions& options) const { return make_plan(paged_.batch(), options).value(); }

  std::unique_ptr<CudaBackend> backend_ = make_cuda();
  PagedCase paged_{tensor_core_spec(DType::kF16, kMixedLens)};
  DeviceRig rig_{*backend_, paged_};
};

std::vector<PlanOptions> every_plan() {
  std::vector<PlanOptions> plans;
  for (const Route route : kAllRoutes) {
    plans.push_back({.route = route, .num_workers = 40});
    if (route != Route::kRow) {
      plans.push_back({.route = route, .splits = 7, .kv_heads_per_task = 1, .merge = MergeMode::kFused});
    }
  }
  return plans;
}

TEST_F(CudaBackendTest, SamePlanTwice_GivesTheSameBits) {
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    const PagedCase paged(tensor_core_spec(dtype, kMixedLens));
    DeviceRig rig(*backend_, paged);
    for (const PlanOptions& options : every_plan()) {
      const Plan plan = make_plan(paged.batch(), options).value();
      const CaseOutput first = run_on(*backend_, rig, paged, plan);
      for (int i = 0; i < 3; ++i) {
        const CaseOutput again = run_on(*backend_, rig, paged, plan);
        ASSERT_EQ(again.out, first.out) << plan.to_string(0);
        ASSERT_EQ(again.lse, first.lse) << plan.to_string(0);
      }
    }
  }
}

TEST_F(CudaBackendTest, EveryPlan_AgreesWithTheOracle) {
  for (const PlanOptions& options : every_plan()) {
    const Plan plan = plan_of(options);
    SCOPED_TRACE(plan.to_string(0));
    paged_.expect_agreement(run_on(*backend_, rig_, paged_, plan), kTensorCores);
  }
}

TEST_F(CudaBackendTest, FusedMerges_AgreeWithSeparateOnes) {
  for (const std::int32_t splits : {2, 8, 60}) {
    PlanOptions options = {.route = Route::kSplit, .splits = splits};
    const CaseOutput separate = run_on(*backend_, rig_, paged_, plan_of(options));
    options.merge = MergeMode::kFused;
    const CaseOutput fused = run_on(*backend_, rig_, paged_, plan_of(options));
    for (std::size_t i = 0; i < fused.out.size(); ++i) {
      ASSERT_NEAR(fused.out[i], separate.out[i], 1e-5) << splits << " splits, element " << i;
    }
    for (std::size_t i = 0; i < fused.lse.size(); ++i) {
      ASSERT_TRUE(fused.lse[i] == separate.lse[i] || std::abs(fused.lse[i] - separate.lse[i]) < 1e-5) << i;
    }
  }
}

TEST_F(CudaBackendTest, TheRulesPlans_AgreeWithTheOracle) {
  for (const auto& lens : {std::vector<std::int32_t>{5000}, {3000, 10, 0, 1}, std::vector<std::int32_t>(200, 40)}) {
    PagedCase paged(tensor_core_spec(DType::kBF16, lens));
    DeviceRig rig(*backend_, paged);
    const Plan plan = make_plan(paged.batch(), gpu_rule(paged.batch(), backend_->gpu_machine())).value();
    paged.expect_agreement(run_on(*backend_, rig, paged, plan), kTensorCores);
  }
}

TEST_F(CudaBackendTest, OneStepManyLayers_AreLoadedOnce) {
  const Plan plan = plan_of({.route = Route::kSplit, .splits = 5});
  expect_ok(backend_->reserve(plan));
  expect_ok(backend_->load_step(plan, paged_.batch()));
  for (int layer = 0; layer < 20; ++layer) {
    expect_ok(backend_->enqueue(plan, rig_.args(paged_)));
  }
  expect_ok(backend_->synchronize());
  paged_.expect_agreement(rig_.read(paged_), kTensorCores);
}

// More loads than copies in flight, without a wait between them: each step finds its own tasks.
TEST_F(CudaBackendTest, StepsInFlight_KeepTheirOwnTasks) {
  const Plan first = plan_of({.route = Route::kSplit, .splits = 5});
  const Plan last = plan_of({.route = Route::kWorkqueue, .splits = 3});
  expect_ok(backend_->reserve(first));
  expect_ok(backend_->reserve(last));
  for (int step = 0; step < 9; ++step) {
    expect_ok(backend_->load_step(first, paged_.batch()));
    expect_ok(backend_->enqueue(first, rig_.args(paged_)));
    expect_ok(backend_->load_step(last, paged_.batch()));
    expect_ok(backend_->enqueue(last, rig_.args(paged_)));
  }
  expect_ok(backend_->synchronize());
  paged_.expect_agreement(rig_.read(paged_), kTensorCores);
}

void expect_error(const Status& status, ErrorCode code, const std::string& text) {
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, code) << status.error().to_string();
  EXPECT_THAT(status.error().to_string(), HasSubstr(text));
}

TEST_F(CudaBackendTest, EnqueueOfAPlanThatIsNotLoaded_IsAnError) {
  const Plan plan = plan_of({.route = Route::kSplit, .splits = 4});
  const Plan other = plan_of({.route = Route::kSplit, .splits = 2});
  expect_ok(backend_->reserve(plan));
  expect_error(backend_->enqueue(plan, rig_.args(paged_)), ErrorCode::kInvalidArgument, "load_step()");
  expect_ok(backend_->load_step(other, paged_.batch()));
  expect_error(backend_->enqueue(plan, rig_.args(paged_)), ErrorCode::kInvalidArgument, "load_step()");
}

TEST_F(CudaBackendTest, LoadWithoutReserve_IsAnError) {
  const Plan plan = plan_of({.route = Route::kSplit, .splits = 4});
  expect_error(backend_->load_step(plan, paged_.batch()), ErrorCode::kResourceExhausted, "reserve()");
  const Result<RunTimes> times = backend_->run(plan, rig_.args(paged_));
  ASSERT_FALSE(times.ok());
  EXPECT_EQ(times.error().code, ErrorCode::kResourceExhausted);
  expect_ok(backend_->reserve(plan_of({.route = Route::kRow})));  // smaller
  expect_error(backend_->load_step(plan, paged_.batch()), ErrorCode::kResourceExhausted, "reserve()");
}

TEST_F(CudaBackendTest, PlanOfOtherLengths_IsAnError) {
  const PagedCase other(tensor_core_spec(DType::kF16, {900, 2, 0, 77, 500, 16}));
  const Plan plan = make_plan(other.batch(), {.route = Route::kSplit, .splits = 4}).value();
  expect_ok(backend_->reserve(plan));
  expect_error(backend_->load_step(plan, paged_.batch()), ErrorCode::kInvalidArgument, "other lengths");
}

TEST_F(CudaBackendTest, RoutesOfOtherProjects_AreRefusedWhereTheyWereNotBuiltIn) {
  for (const Route route : kExternalRoutes) {
    if (backend_->supports(route)) {
      GTEST_SKIP() << "built with FlashInfer";
    }
    expect_error(backend_->reserve(plan_of({.route = route})), ErrorCode::kUnsupported, std::string(route_name(route)));
  }
}

TEST(CudaBackendCreate, DeviceThatIsNotThere_IsAnErrorWithTheRange) {
  const auto backend = CudaBackend::create({.device = 1000});
  ASSERT_FALSE(backend.ok());
  EXPECT_EQ(backend.error().code, ErrorCode::kOutOfRange);
  EXPECT_THAT(backend.error().to_string(), HasSubstr("1000 is outside 0 to"));
}

TEST_F(CudaBackendTest, RunAndEnqueue_AllocateNothing) {
  const DeviceMemory& memory = *backend_->device_memory();
  for (const PlanOptions& options : every_plan()) {
    const Plan plan = plan_of(options);
    const RunArgs args = rig_.args(paged_);
    expect_ok(backend_->reserve(plan));
    ASSERT_TRUE(backend_->run(plan, args).ok());  // CUDA loads a kernel's code with its first launch
    const std::int64_t device_bytes = memory.available_bytes();
    const std::int64_t allocations = num_allocations();
    bool ok = true;
    for (int i = 0; i < 10; ++i) {
      ok = ok && backend_->run(plan, args).ok();
      ok = ok && backend_->load_step(plan, args.batch).ok() && backend_->enqueue(plan, args).ok();
    }
    ok = ok && backend_->synchronize().ok();
    EXPECT_EQ(num_allocations(), allocations) << plan.to_string(0);
    EXPECT_EQ(memory.available_bytes(), device_bytes) << plan.to_string(0);
    ASSERT_TRUE(ok);
  }
}

/// A stream whose work waits until release(), or for five seconds.
class BlockedStream {
 public:
  BlockedStream() { EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess); }
  ~BlockedStream() {
    release();
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  BlockedStream(const BlockedStream&) = delete;
  BlockedStream& operator=(const BlockedStream&) = delete;

  void block() {
    released_ = false;
    EXPECT_EQ(cudaLaunchHostFunc(stream_, &wait, &released_), cudaSuccess);
  }
  void release() { released_ = true; }
  [[nodiscard]] cudaStream_t get() const { return stream_; }
  [[nodiscard]] bool is_busy() const { return cudaStreamQuery(stream_) == cudaErrorNotReady; }

 private:
  static void wait(void* released) {
    for (int i = 0; i < 500 && !*static_cast<std::atomic<bool>*>(released); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  cudaStream_t stream_ = nullptr;
  std::atomic<bool> released_{true};
};

/// Enqueues a layer on the blocked stream: nothing may be written until it is released.
void expect_work_waits_for(BlockedStream& stream, CudaBackend& backend, PagedCase& paged, DeviceRig& rig) {
  const Plan plan = make_plan(paged.batch(), {.route = Route::kSplit, .splits = 4}).value();
  run_on(backend, rig, paged, plan);  // CUDA loads code with the first launch, which a blocked stream would stop
  rig.poison();
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  stream.block();
  expect_ok(backend.load_step(plan, paged.batch()));
  expect_ok(backend.enqueue(plan, rig.args(paged)));
  EXPECT_TRUE(stream.is_busy());
  EXPECT_TRUE(std::isnan(rig.read(paged).out[0]));
  stream.release();
  expect_ok(backend.synchronize());
  EXPECT_FALSE(stream.is_busy());
  paged.expect_agreement(rig.read(paged), kTensorCores);
}

TEST_F(CudaBackendTest, CallersStream_CarriesAllWork) {
  BlockedStream stream;
  const std::unique_ptr<CudaBackend> backend = make_cuda({.stream = stream.get()});
  EXPECT_EQ(backend->stream(), stream.get());
  expect_work_waits_for(stream, *backend, paged_, rig_);
}

TEST_F(CudaBackendTest, AnotherStreamSetLater_CarriesAllWork) {
  BlockedStream stream;
  void* const own = backend_->stream();
  EXPECT_NE(own, stream.get());
  backend_->set_stream(stream.get());
  EXPECT_EQ(backend_->stream(), stream.get());
  expect_work_waits_for(stream, *backend_, paged_, rig_);
  backend_->set_stream(own);  // the other one ends before the backend
}

TEST_F(CudaBackendTest, ReadPages_CountsWholePagesOfAttendedTokens) {
  const Result<PageRead> read = backend_->read_pages(paged_.batch(), rig_.args(paged_).kv);
  ASSERT_TRUE(read.ok()) << read.error().to_string();
  std::int64_t pages = 0;
  for (const std::int32_t len : kMixedLens) {
    pages += ceil_div(len, paged_.spec().page_size);
  }
  EXPECT_EQ(read->bytes, pages * 2 * 16 * 2 * 128 * 2);  // K and V, 16 tokens, 2 heads, 128 halves
  EXPECT_GT(read->elapsed_ns, 0);
}

TEST_F(CudaBackendTest, RunTimes_AreThoseOfTheDevice) {
  const Plan plan = plan_of({.route = Route::kSplit, .splits = 4});
  expect_ok(backend_->reserve(plan));
  const Result<RunTimes> times = backend_->run(plan, rig_.args(paged_));
  ASSERT_TRUE(times.ok());
  EXPECT_GT(times->total_ns, 0);
  EXPECT_EQ(times->total_ns, times->decode_ns);
  EXPECT_EQ(times->merge_ns, 0);
}

}  // namespace
}  // namespace pkv::testing
