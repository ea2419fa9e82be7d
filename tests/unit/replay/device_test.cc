// Replay and verification on a backend whose tensors lie in device memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "exec/staged_backend.h"
#include "replay/kv_pool.h"
#include "replay/replay.h"
#include "replay/verify.h"
#include "replay_fixture.h"
#include "test_backends.h"
#include "unit/exec/fake_device.h"

namespace pkv {
namespace {

using testing::CountingObserver;
using testing::FakeDeviceBackend;
using testing::FakeDeviceMemory;
using ::testing::HasSubstr;
using testing::OracleBackend;
using testing::SpoiledBackend;
using testing::tiny_options;
using testing::tiny_trace;

class DeviceReplay : public ::testing::Test {
 protected:
  Result<RunRecords> run(const ReplayOptions& options) { return run_on(device_, options); }
  Result<RunRecords> run_on(Backend& backend, const ReplayOptions& options) {
    return replay(tiny_trace(), options, backend, observer_);
  }
  std::string error_of(const ReplayOptions& options) {
    const auto records = run(options);
    return records.ok() ? std::string("no error") : records.error().to_string();
  }

  OracleBackend oracle_;
  FakeDeviceBackend device_{oracle_};
  CountingObserver observer_;
};

TEST_F(DeviceReplay, WholeTrace_IsMeasuredAndVerified) {
  const auto records = run(tiny_options());
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  ASSERT_FALSE(records->error.has_value()) << records->error->to_string();
  for (const RouteRecords& route : records->routes) {
    ASSERT_EQ(route.steps.size(), 6U);
    EXPECT_EQ(route.steps[0].run.total_ns, 1000);
    EXPECT_GE(route.steps[0].wall_ns, route.steps[0].plan_ns);
    EXPECT_EQ(route.errors->num_steps, 6);
    EXPECT_LT(route.errors->max_abs, 1e-6);
  }
  EXPECT_EQ(records->num_workers, 12);
  EXPECT_EQ(records->worker_kind, WorkerKind::kSm);
  EXPECT_EQ(records->backend, "fake device of the tests");
}

TEST_F(DeviceReplay, Probe_ReadsTheCopyOnTheDevice) {
  const auto records = run(tiny_options());
  ASSERT_TRUE(records.ok() && !records->error);
  ASSERT_EQ(records->probe.size(), 6U);
  EXPECT_EQ(records->probe[0].elapsed_ns, 500);
  EXPECT_EQ(records->probe[0].bytes, (40 + 5) * 2 * 16 * 2 * 2);
}

TEST_F(DeviceReplay, EveryLayoutAndType_PassesVerification) {
  for (const KvOrder order : {KvOrder::kHND, KvOrder::kNHD}) {
    for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
      for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
        ReplayOptions options = tiny_options();
        options.run.order = order;
        options.run.packing = packing;
        options.run.kv_dtype = dtype;
        options.run.shape.sinks = Sinks::kPerQueryHead;
        const auto records = run(options);
        ASSERT_TRUE(records.ok()) << records.error().to_string();
        EXPECT_FALSE(records->error.has_value()) << records->error->to_string();
        EXPECT_LT(records->routes[0].errors->max_abs, 1e-5);
      }
    }
  }
}

TEST_F(DeviceReplay, Outputs_HaveTheTypeOfTheQueries) {
  std::vector<DType> types;
  SpoiledBackend spy(oracle_, [&](std::int64_t, const Plan&, const RunArgs& args) -> Status {
    types.push_back(args.out.dtype);
    return {};
  });
  FakeDeviceBackend device(spy);
  ReplayOptions options = tiny_options();
  options.run.query_dtype = DType::kBF16;
  ASSERT_TRUE(run_on(device, options).ok());
  EXPECT_THAT(types, ::testing::Each(DType::kBF16));
  types.clear();
  ASSERT_TRUE(run_on(spy, options).ok());
  EXPECT_THAT(types, ::testing::Each(DType::kF32));
}

TEST_F(DeviceReplay, End_GivesTheMemoryBack) {
  ASSERT_TRUE(run(tiny_options()).ok());
  EXPECT_GT(device_.memory.num_allocations, 0);
  EXPECT_EQ(device_.memory.used_bytes(), 0);
}

TEST_F(DeviceReplay, WrongOutput_EndsTheRunAndNamesThePlace) {
  SpoiledBackend spoiled(oracle_, [](std::int64_t, const Plan& plan, const RunArgs& args) -> Status {
    if (plan.route() == Route::kWorkqueue) {
      const std::int64_t place = args.out.row_stride + 3 * args.out.head_stride + 5;
      store_element(args.out.data, args.out.dtype, place, load_element(args.out.data, args.out.dtype, place) + 0.25F);
    }
    return {};
  });
  FakeDeviceBackend device(spoiled);
  const auto records = run_on(device, tiny_options());
  ASSERT_TRUE(records.ok());
  ASSERT_TRUE(records->mismatch.has_value());
  EXPECT_THAT(records->error->to_string(), HasSubstr("step 0, route workqueue, row 1, query head 3, element 5"));
}

/// Claims to have run.
class IdleBackend final : public OracleBackend {
 public:
  Result<RunTimes> run(const Plan&, const RunArgs&) override { return RunTimes{.total_ns = 1}; }
};

TEST_F(DeviceReplay, UnwrittenOutput_FailsVerification) {
  IdleBackend idle;
  FakeDeviceBackend device(idle);
  const auto records = run_on(device, tiny_options());
  ASSERT_TRUE(records.ok());
  EXPECT_TRUE(records->mismatch.has_value());
}

TEST_F(DeviceReplay, Pool_HasEightCachesOfTheDevice) {
  device_.memory.last_level_cache_bytes = std::int64_t{3} << 20;
  const auto records = run(tiny_options());
  ASSERT_TRUE(records.ok() && !records->error);
  EXPECT_EQ(records->memory_bytes, std::int64_t{24} << 20);
  EXPECT_TRUE(records->notes.empty()) << records->notes[0];
}

TEST_F(DeviceReplay, SmallDevice_LimitsThePoolAndSaysSo) {
  device_.memory.last_level_cache_bytes = std::int64_t{16} << 20;
  device_.memory.total_bytes = std::int64_t{32} << 20;
  const auto records = run(tiny_options());
  ASSERT_TRUE(records.ok() && !records->error);
  EXPECT_LT(records->memory_bytes, std::int64_t{28} << 20);
  EXPECT_GT(records->memory_bytes, std::int64_t{24} << 20);
  EXPECT_THAT(records->notes, ::testing::Contains(HasSubstr("less than 4 times the last-level cache")));
}

TEST_F(DeviceReplay, DeviceTooSmallForTheTrace_IsRefusedBeforeAnythingIsAllocated) {
  device_.memory.total_bytes = 5000;
  const std::string error = error_of(tiny_options());
  EXPECT_THAT(error, HasSubstr("on the device needs"));
  EXPECT_THAT(error, HasSubstr("5000 bytes"));
  EXPECT_EQ(device_.memory.num_allocations, 0);
  EXPECT_TRUE(oracle_.routes.empty());
}

TEST_F(DeviceReplay, MemoryLimit_HoldsOnTheDeviceToo) {
  ReplayOptions options = tiny_options();
  options.run.verify = VerifyMode::kOff;
  options.run.memory_limit_bytes = std::int64_t{20} << 20;
  device_.memory.last_level_cache_bytes = std::int64_t{64} << 20;
  const auto records = run(options);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  EXPECT_LT(records->memory_bytes, std::int64_t{16} << 20);
}

TEST_F(DeviceReplay, CancelledWhilePreparing_MeasuresNothing) {
  CountingObserver stopped(0);
  const auto records = replay(tiny_trace(), tiny_options(), device_, stopped);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  EXPECT_TRUE(records->interrupted);
  EXPECT_TRUE(oracle_.routes.empty());
}

TEST_F(DeviceReplay, FusedMerges_HaveNoLaunchOfTheirOwn) {
  ReplayOptions options = tiny_options();
  options.run.routes[2].merge = MergeMode::kFused;
  const auto records = run(options);
  ASSERT_TRUE(records.ok() && !records->error);
  EXPECT_EQ(records->routes[2].merge, MergeMode::kFused);
  EXPECT_EQ(records->routes[2].steps[0].counters.num_merge_launches, 0);
  EXPECT_TRUE(run_on(oracle_, options).ok());
}

TEST_F(DeviceReplay, MergeThatARouteCannotFuse_IsNamed) {
  ReplayOptions options = tiny_options();
  options.run.routes = {{.route = Route::kPages, .splits = {}, .merge = MergeMode::kFused}};
  EXPECT_THAT(error_of(options), HasSubstr("route pages: merge is fused, which takes 1 KV head a task on the"));
  options.run.routes[0].kv_heads_per_task = 2;
  EXPECT_THAT(error_of(options), HasSubstr("not 2 KV heads"));
  options.run.routes[0].kv_heads_per_task = 1;
  EXPECT_EQ(error_of(options), "no error");
  options.run.routes = {{.route = Route::kRow, .splits = {}, .merge = MergeMode::kFused}};
  EXPECT_THAT(error_of(options), HasSubstr("must be separate"));
  options.run.routes = {{.route = Route::kFlashInferCore, .splits = 2}};
  EXPECT_THAT(error_of(options), HasSubstr("flashinfer-core: plans itself"));
}

TEST_F(DeviceReplay, ExternalRoute_RunsWhereItIsSupported) {
  ReplayOptions options = tiny_options();
  options.run.routes.push_back({.route = Route::kFlashInferCore, .splits = {}});
  const auto refused = run(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(refused.error().where, "route flashinfer-core");
  EXPECT_THAT(refused.error().message, HasSubstr("fake backend"));
  EXPECT_THAT(refused.error().message, HasSubstr("scripts/get-flashinfer"));
  device_.runs_external = true;
  const auto records = run(options);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  ASSERT_FALSE(records->error.has_value()) << records->error->to_string();
  EXPECT_EQ(records->routes[3].name, "flashinfer-core");
  EXPECT_EQ(records->routes[3].steps[0].counters.num_tasks, 0);
  EXPECT_EQ(records->routes[3].errors->num_steps, 6);
}

TEST_F(DeviceReplay, MlpProxy_NeedsCuda) {
  if (cuda_built()) {
    GTEST_SKIP() << "the fake device has no stream for cuBLAS";
  }
  ReplayOptions options = tiny_options();
  options.run.mlp = MlpProxy{.hidden = 64, .intermediate = 128};
  EXPECT_THAT(error_of(options), HasSubstr("mlp: this build has no CUDA"));
  device_.memory.total_bytes = std::int64_t{20} << 20;  // less than cuBLAS's workspace
  EXPECT_THAT(error_of(options), HasSubstr("and the MLP proxy on the device needs"));
}

TEST_F(DeviceReplay, CudaBackendWithoutCuda_IsUnsupported) {
  if (cuda_built()) {
    GTEST_SKIP() << "this build may find a GPU";
  }
  ReplayOptions options = tiny_options();
  options.run.backend = BackendKind::kCuda;
  const auto records = replay(tiny_trace(), options, observer_);
  ASSERT_FALSE(records.ok());
  EXPECT_EQ(records.error().code, ErrorCode::kUnsupported);
}

TEST(BackendKind, Names_AreReadBack) {
  EXPECT_EQ(*parse_backend_kind("cuda"), BackendKind::kCuda);
  EXPECT_EQ(*parse_backend_kind("cpu"), BackendKind::kCpu);
  EXPECT_THAT(parse_backend_kind("gpu").error().message, HasSubstr("cpu, cuda"));
}

class DevicePool : public ::testing::Test {
 protected:
  Result<KvPool> make(KvPacking packing) {
    layout_ = *KvLayout::make(KvOrder::kHND, packing, 16, kShape);
    return KvPool::make(layout_, DType::kF16, 3000, {block_, *crew_, [] { return false; }});
  }

  static constexpr AttentionShape kShape = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 16};
  RandomBlock block_{DType::kF16, 1};
  std::unique_ptr<Crew> crew_ = Crew::make().value();
  KvLayout layout_;
  FakeDeviceMemory memory_;
};

TEST_F(DevicePool, Mirror_HoldsTheSamePages) {
  for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
    KvPool pool = make(packing).value();
    EXPECT_EQ(pool.run_view().k, pool.view().k);
    ASSERT_TRUE(pool.mirror(memory_, [] { return false; }).ok());
    ASSERT_NE(pool.run_view().k, pool.view().k);
    EXPECT_EQ(memory_.used_bytes(), KvPool::allocated_bytes(layout_, DType::kF16, 3000));
    const std::int64_t bytes = (2999 * layout_.k_strides.page + 16 * 2 * 16) * 2;
    for (const auto& [host, device] :
         {std::pair{pool.view().k, pool.run_view().k}, {pool.view().v, pool.run_view().v}}) {
      const std::byte* copy = memory_.at(device, bytes);
      ASSERT_NE(copy, nullptr);
      EXPECT_EQ(std::memcmp(host, copy, static_cast<std::size_t>(bytes)), 0);
    }
  }
  EXPECT_EQ(memory_.used_bytes(), 0);
}

TEST_F(DevicePool, PaddingBytes_BoundTheAllocation) {
  for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
    const KvLayout layout = *KvLayout::make(KvOrder::kHND, packing, 16, kShape);
    for (const std::int64_t pages : {1, 1023, 1024, 1025, 100000}) {
      EXPECT_LE(KvPool::allocated_bytes(layout, DType::kF16, pages),
                pages * KvPool::page_bytes(layout, DType::kF16) + KvPool::kPaddingBytes);
    }
  }
}

TEST_F(DevicePool, Cancelled_StopsTheCopy) {
  KvPool pool = make(KvPacking::kSeparate).value();
  const Status status = pool.mirror(memory_, [] { return true; });
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(memory_.uploaded_bytes, 0);
  EXPECT_EQ(memory_.used_bytes(), 0);
}

TEST_F(DeviceReplay, VerifyOnStagedBackends_CoversFusedMergesAndRepeats) {
  const auto one = StagedBackend::make(device_).value();
  const auto other = StagedBackend::make(device_).value();
  Backend* const backends[] = {one.get(), other.get()};
  const auto records =
      verify({.num_cases = 60, .seed = 3, .only_case = {}, .fused_merges = FusedMerges::kOneHead}, backends, observer_);
  ASSERT_TRUE(records.ok());
  ASSERT_FALSE(records->failure.has_value()) << records->failure->description << "\n" << records->failure->message;
  const std::map<std::string, std::int64_t> coverage(records->coverage.begin(), records->coverage.end());
  EXPECT_GT(coverage.at("merge=fused"), 20);
  EXPECT_GT(coverage.at("repeated_bit_by_bit"), 0);
}

TEST_F(DeviceReplay, VerifyOnADeviceBackend_AsksForStaging) {
  Backend* const backends[] = {&device_};
  const auto records = verify({.num_cases = 1, .seed = 3, .only_case = {}}, backends, observer_);
  ASSERT_FALSE(records.ok());
  EXPECT_EQ(records.error().to_string(),
            "backends[0] fake: its tensors lie in device memory; wrap it in a StagedBackend");
}

}  // namespace
}  // namespace pkv
