// Replay: pairing and order of routes, cancellation, errors before and in the middle, verification.
#include "replay/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <new>
#include <set>

#include "replay/session.h"
#include "replay_fixture.h"
#include "test_backends.h"

namespace pkv {
namespace {

using testing::CountingObserver;
using ::testing::HasSubstr;
using testing::OracleBackend;
using testing::SpoiledBackend;
using testing::tiny_options;
using testing::tiny_trace;
using ::testing::UnorderedElementsAre;

constexpr Route kR = Route::kRow;
constexpr Route kB = Route::kBucket;
constexpr Route kW = Route::kWorkqueue;

std::vector<Route> executed_routes(std::uint64_t seed) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.verify = VerifyMode::kOff;
  options.run.data_seed = seed;
  const auto records = replay(tiny_trace(), options, backend, observer);
  EXPECT_TRUE(records.ok() && !records->error);
  return backend.routes;
}

TEST(Replay, ThreeRoutes_ExecuteEachStepOnceInTheOrderOfTheSeed) {
  const std::vector<Route> routes = executed_routes(1);
  ASSERT_EQ(routes.size(), 3U * 7U);  // one warm-up round, then six steps
  EXPECT_EQ(std::vector<Route>(routes.begin(), routes.begin() + 3), (std::vector<Route>{kR, kB, kW}));
  for (std::size_t step = 1; step < 7; ++step) {
    const std::vector<Route> turn(routes.begin() + static_cast<std::ptrdiff_t>(3 * step),
                                  routes.begin() + static_cast<std::ptrdiff_t>(3 * step + 3));
    EXPECT_THAT(turn, UnorderedElementsAre(kR, kB, kW)) << step;
  }
  EXPECT_EQ(executed_routes(1), routes);
  EXPECT_NE(executed_routes(2), routes);
}

TEST(DrawOrder, ManySteps_EveryParticipantFollowsEveryOther) {
  std::set<std::pair<std::size_t, std::size_t>> followed;
  std::vector<int> firsts(4, 0);
  std::vector<std::size_t> order(4);
  for (std::int64_t step = 0; step < 400; ++step) {
    draw_order(9, step, order);
    EXPECT_THAT(order, UnorderedElementsAre(0, 1, 2, 3));
    ++firsts[order[0]];
    for (std::size_t i = 1; i < order.size(); ++i) {
      followed.insert({order[i - 1], order[i]});
    }
  }
  EXPECT_EQ(followed.size(), 12U);
  for (const int count : firsts) {
    EXPECT_NEAR(count, 100, 40);
  }
}

TEST(Replay, WholeTrace_RecordsEveryStepOfEveryRoute) {
  OracleBackend backend;
  CountingObserver observer;
  const auto records = replay(tiny_trace(), tiny_options(), backend, observer);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  ASSERT_EQ(records->routes.size(), 3U);
  for (const RouteRecords& route : records->routes) {
    ASSERT_EQ(route.steps.size(), 6U);
    EXPECT_EQ(route.steps[0].num_rows, 2);
    EXPECT_EQ(route.steps[5].num_rows, 1);  // the short request takes four steps
    EXPECT_EQ(route.steps[2].step_idx, 2);
    EXPECT_EQ(route.steps[0].run.total_ns, 1000);
    EXPECT_GE(route.steps[0].wall_ns, route.steps[0].plan_ns);
    EXPECT_EQ(route.steps[0].useful_kv_bytes, (40 + 5) * 2 * 16 * 2 * 2);
    EXPECT_EQ(route.errors->num_steps, 6);
    EXPECT_LT(route.errors->max_abs, 1e-6);
  }
  EXPECT_EQ(observer.last.done, 6);
  EXPECT_FALSE(records->interrupted || records->error);
}

TEST(Replay, Executions_ReadOtherPagesEachTime) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.verify = VerifyMode::kOff;
  const auto records = replay(tiny_trace(), options, backend, observer);
  ASSERT_TRUE(records.ok());
  const std::set<std::int32_t> distinct(backend.first_pages.begin(), backend.first_pages.end());
  EXPECT_EQ(distinct.size(), backend.first_pages.size());
  EXPECT_GT(records->pool_pages, records->physical_pages);
}

TEST(Replay, SampleMode_VerifiesTheFirstAndEveryStride) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.verify = VerifyMode::kSample;
  options.run.sample_stride = 4;
  const auto records = replay(tiny_trace(), options, backend, observer);
  ASSERT_TRUE(records.ok());
  EXPECT_EQ(records->routes[0].errors->num_steps, 2);  // steps 0 and 4
}

TEST(Replay, WrongOutput_EndsTheRunAndNamesThePlace) {
  OracleBackend inner;
  SpoiledBackend backend(inner, [](std::int64_t, const Plan& plan, const RunArgs& args) -> Status {
    if (plan.route() == kW && plan.seq_lens()[0] == 42) {  // step 2
      auto* out = static_cast<float*>(args.out.data);
      out[args.out.row_stride + 3 * args.out.head_stride + 5] += 0.01F;
    }
    return {};
  });
  CountingObserver observer;
  const auto records = replay(tiny_trace(), tiny_options(), backend, observer);
  ASSERT_TRUE(records.ok());
  ASSERT_TRUE(records->error && records->mismatch);
  EXPECT_EQ(records->error->code, ErrorCode::kMismatch);
  EXPECT_EQ(records->mismatch->step_idx, 2);
  EXPECT_EQ(records->mismatch->route, "workqueue");
  EXPECT_EQ(records->mismatch->row, 1);
  EXPECT_EQ(records->mismatch->q_head, 3);
  EXPECT_EQ(records->mismatch->element, 5);
  EXPECT_NEAR(records->mismatch->actual - records->mismatch->expected, 0.01, 1e-6);
  EXPECT_THAT(records->error->to_string(), HasSubstr("step 2, route workqueue, row 1, query head 3"));
  EXPECT_EQ(records->routes[0].steps.size(), 3U);
}

TEST(Replay, UnwrittenOutput_FailsVerification) {
  OracleBackend inner;
  SpoiledBackend backend(inner, [](std::int64_t, const Plan&, const RunArgs& args) -> Status {
    static_cast<float*>(args.out.data)[0] = std::numeric_limits<float>::quiet_NaN();
    return {};
  });
  CountingObserver observer;
  const auto records = replay(tiny_trace(), tiny_options(), backend, observer);
  ASSERT_TRUE(records.ok());
  EXPECT_TRUE(records->mismatch.has_value());
}

TEST(Replay, ErrorInTheMiddle_KeepsCompleteSteps) {
  OracleBackend inner;
  SpoiledBackend backend(inner, [](std::int64_t run_idx, const Plan&, const RunArgs&) -> Status {
    // Three warm-up runs, then two whole steps of three, then the second route of the third.
    return run_idx == 10 ? Status{Error{ErrorCode::kResourceExhausted, "out of luck", "test"}} : Status{};
  });
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.verify = VerifyMode::kOff;
  const auto records = replay(tiny_trace(), options, backend, observer);
  ASSERT_TRUE(records.ok());
  ASSERT_TRUE(records->error.has_value());
  EXPECT_EQ(records->error->message, "out of luck");
  for (const RouteRecords& route : records->routes) {
    EXPECT_EQ(route.steps.size(), 2U);
  }
}

TEST(Replay, OutOfMemoryInTheMiddle_IsAnErrorThatKeepsCompleteSteps) {
  OracleBackend inner;
  SpoiledBackend backend(inner, [](std::int64_t run_idx, const Plan&, const RunArgs&) -> Status {
    if (run_idx == 10) {
      throw std::bad_alloc();
    }
    return {};
  });
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.verify = VerifyMode::kOff;
  const auto records = replay(tiny_trace(), options, backend, observer);
  ASSERT_TRUE(records.ok());
  ASSERT_TRUE(records->error.has_value());
  EXPECT_EQ(records->error->code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(records->routes[0].steps.size(), 2U);
}

TEST(Replay, Cancelled_KeepsWhatWasMeasured) {
  OracleBackend backend;
  CountingObserver observer(3);
  const auto records = replay(tiny_trace(), tiny_options(), backend, observer);
  ASSERT_TRUE(records.ok());
  EXPECT_TRUE(records->interrupted);
  EXPECT_FALSE(records->error.has_value());
  EXPECT_EQ(records->routes[2].steps.size(), 3U);
}

TEST(Replay, CancelledWhilePreparing_MeasuresNothing) {
  OracleBackend backend;
  CountingObserver observer(0);
  const auto records = replay(tiny_trace(), tiny_options(), backend, observer);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  EXPECT_TRUE(records->interrupted);
  EXPECT_TRUE(backend.routes.empty());
  EXPECT_TRUE(records->routes[0].steps.empty());
  EXPECT_EQ(records->backend, "oracle backend of the tests");
}

TEST(Replay, SkipAndSteps_MeasureThoseSteps) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.skip_steps = 2;
  options.max_steps = 3;
  const auto records = replay(tiny_trace(), options, backend, observer);
  ASSERT_TRUE(records.ok());
  ASSERT_EQ(records->routes[0].steps.size(), 3U);
  EXPECT_EQ(records->routes[0].steps[0].step_idx, 2);
  EXPECT_EQ(observer.last.total, 3);
}

TEST(Replay, SkipBeyondTheEnd_MeasuresNothing) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.skip_steps = 100;
  const auto records = replay(tiny_trace(), options, backend, observer);
  ASSERT_TRUE(records.ok());
  EXPECT_TRUE(records->routes[0].steps.empty());
}

TEST(Replay, MoreMemoryThanAllowed_IsRefusedBeforeAnythingRuns) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.memory_limit_bytes = 1 << 20;
  const auto records = replay(tiny_trace(), options, backend, observer);
  ASSERT_FALSE(records.ok());
  EXPECT_EQ(records.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(records.error().message, HasSubstr("1048576 bytes"));
  EXPECT_TRUE(backend.routes.empty());
}

TEST(Replay, MoreMemoryThanThereIs_IsRefusedWithoutAllocating) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.memory_limit_bytes.reset();
  options.run.shape = {.num_q_heads = 4096, .num_kv_heads = 4096, .head_dim = 512};
  Trace trace = tiny_trace();
  trace.requests[0].prompt_len = 100000000;
  const auto records = replay(trace, options, backend, observer);
  ASSERT_FALSE(records.ok());
  EXPECT_EQ(records.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(records.error().message, HasSubstr("are available"));
}

TEST(Replay, FcfsTables_AreCountedBeforeTheyAreMade) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.admission.mode = AdmissionMode::kFcfs;
  options.admission.page_size = 1;
  options.plan_only_workers = 2;
  Trace trace = tiny_trace();
  trace.requests[0].prompt_len = 4'000'000;
  // 4 million pages: 3 copies in the pool and the step's own ids are 64 MB; half of them holes, 112 MB.
  options.run.memory_limit_bytes = 70'000'000;
  options.max_steps = 1;
  EXPECT_TRUE(replay(trace, options, observer).ok());
  options.admission.hole_fraction = 0.5;
  const auto with_holes = replay(trace, options, observer);
  ASSERT_FALSE(with_holes.ok());
  EXPECT_EQ(with_holes.error().code, ErrorCode::kResourceExhausted);
  options.admission.hole_fraction = 0.0;
  options.run.memory_limit_bytes = 60'000'000;
  const auto refused = replay(trace, options, observer);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("60000000 bytes"));
}

TEST(Replay, MlpActivations_AreCounted) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.mlp = MlpProxy{.hidden = 8, .intermediate = 1 << 20};
  options.run.verify = VerifyMode::kOff;
  options.run.memory_limit_bytes = std::int64_t{200} << 20;
  options.admission.max_active = 200;
  Trace trace = tiny_trace();
  trace.requests.assign(200, trace.requests[1]);
  const auto records = replay(trace, options, backend, observer);
  ASSERT_FALSE(records.ok());
  EXPECT_EQ(records.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(records.error().message, HasSubstr("MLP proxy"));
}

TEST(Replay, BadOptions_AreNamed) {
  OracleBackend backend;
  CountingObserver observer;
  const auto error_of = [&](auto change) {
    ReplayOptions options = tiny_options();
    change(options);
    const auto records = replay(tiny_trace(), options, backend, observer);
    return records.ok() ? std::string("no error") : records.error().to_string();
  };
  EXPECT_THAT(error_of([](auto& o) { o.run.routes.clear(); }), HasSubstr("routes"));
  EXPECT_THAT(error_of([](auto& o) { o.run.routes[1].splits = 0; }), HasSubstr("splits is 0"));
  EXPECT_THAT(error_of([](auto& o) { o.run.routes[0].splits = 4; }), HasSubstr("row"));
  EXPECT_THAT(error_of([](auto& o) { o.run.routes.push_back(o.run.routes[0]); }), HasSubstr("twice"));
  EXPECT_THAT(error_of([](auto& o) { o.run.warmup_steps = -1; }), HasSubstr("-1 warm-up"));
  EXPECT_THAT(error_of([](auto& o) { o.run.sample_stride = 0; }), HasSubstr("stride is 0"));
  EXPECT_THAT(error_of([](auto& o) { o.run.mlp = {.hidden = 0, .intermediate = 8}; }), HasSubstr("hidden is 0"));
  EXPECT_THAT(error_of([](auto& o) { o.run.mlp = {.hidden = 8, .intermediate = -2}; }), HasSubstr("-2"));
  EXPECT_THAT(error_of([](auto& o) { o.run.memory_limit_bytes = 0; }), HasSubstr("0 bytes"));
  EXPECT_THAT(error_of([](auto& o) { o.run.shape.num_kv_heads = 3; }), HasSubstr("3"));
  EXPECT_THAT(error_of([](auto& o) { o.max_steps = 0; }), HasSubstr("0 steps"));
  EXPECT_THAT(error_of([](auto& o) { o.skip_steps = -4; }), HasSubstr("-4"));
  EXPECT_THAT(error_of([](auto& o) { o.admission.page_size = 0; }), HasSubstr("page size is 0"));
  EXPECT_THAT(error_of([](auto& o) { o.admission.page_size = 512; }), HasSubstr("512"));
  EXPECT_TRUE(backend.routes.empty());
}

TEST(Replay, BaselineNotMeasured_FallsBackToTheFirstRoute) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.baseline = Route::kBucket;
  EXPECT_EQ(replay(tiny_trace(), options, backend, observer)->baseline_idx, 1U);
  options.run.baseline = Route::kPages;
  EXPECT_EQ(replay(tiny_trace(), options, backend, observer)->baseline_idx, 0U);
}

TEST(Replay, MlpProxy_IsTimedApart) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.mlp = MlpProxy{.hidden = 64, .intermediate = 128};
  const auto records = replay(tiny_trace(), options, backend, observer);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  ASSERT_EQ(records->mlp_ns.size(), 6U);
  EXPECT_GT(*std::min_element(records->mlp_ns.begin(), records->mlp_ns.end()), 0);
  EXPECT_EQ(records->routes[0].steps[0].run.total_ns, 1000);
}

TEST(Replay, EveryLayoutAndType_PassesVerification) {
  for (const KvOrder order : {KvOrder::kHND, KvOrder::kNHD}) {
    for (const KvPacking packing : {KvPacking::kSeparate, KvPacking::kPacked}) {
      for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
        OracleBackend backend;
        CountingObserver observer;
        ReplayOptions options = tiny_options();
        options.run.order = order;
        options.run.packing = packing;
        options.run.kv_dtype = dtype;
        options.run.query_dtype = DType::kF32;
        options.run.shape.sinks = Sinks::kPerQueryHead;
        const auto records = replay(tiny_trace(), options, backend, observer);
        ASSERT_TRUE(records.ok()) << records.error().to_string();
        EXPECT_FALSE(records->error.has_value()) << records->error->to_string();
      }
    }
  }
}

TEST(Replay, CpuBackend_MeasuresTheProbeInTheSameRun) {
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.cpu = {.threads = 2, .pin = false, .wait = WaitMode::kSleep, .isa = {}};
  const auto records = replay(tiny_trace(), options, observer);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  ASSERT_FALSE(records->error.has_value()) << records->error->to_string();
  ASSERT_EQ(records->probe.size(), 6U);
  EXPECT_GT(records->probe[0].bytes, 0);
  EXPECT_GT(records->probe[0].elapsed_ns, 0);
  EXPECT_EQ(records->num_workers, 2);
  EXPECT_FALSE(records->backend.empty());
}

TEST(Replay, LargeSoftmaxScale_PassesInFp32) {
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.run.cpu = {.threads = 2, .pin = false, .wait = WaitMode::kSleep, .isa = {}};
  options.run.kv_dtype = DType::kF32;
  options.run.shape.head_dim = 128;
  options.run.shape.softmax_scale = 10.0F;
  const auto records = replay(tiny_trace(), options, observer);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  ASSERT_FALSE(records->error.has_value()) << records->error->to_string();
  EXPECT_THAT(records->notes, ::testing::Contains(HasSubstr("softmax scale 10")));
}

TEST(Replay, FcfsAdmission_RunsToTheEnd) {
  OracleBackend backend;
  CountingObserver observer;
  ReplayOptions options = tiny_options();
  options.admission.mode = AdmissionMode::kFcfs;
  options.admission.max_active = 1;
  const auto records = replay(tiny_trace(), options, backend, observer);
  ASSERT_TRUE(records.ok()) << records.error().to_string();
  EXPECT_EQ(records->routes[0].steps.size(), 10U);  // one after the other
}

}  // namespace
}  // namespace pkv
