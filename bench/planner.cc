// Time of validating and planning a step, by rows, route and splits. Google Benchmark; JSON by
// --benchmark_format=json. Counter tasks_per_us shows that planning is linear: it stays level as tasks grow.
// Not here: execution (decode.cc).
#include <benchmark/benchmark.h>

#include <cstdint>
#include <utility>

#include "bench/mixed_step.h"
#include "cost/gpu_kernels.h"
#include "persistentkv/decision.h"
#include "persistentkv/plan.h"

namespace pkv {
namespace {

void set_counters(benchmark::State& state, const Plan& plan) {
  const auto tasks = static_cast<double>(plan.tasks().size());
  state.counters["tasks"] = tasks;
  state.counters["tasks_per_us"] = benchmark::Counter(tasks * 1e-6, benchmark::Counter::kIsIterationInvariantRate);
}

void validate_batch(benchmark::State& state) {
  const MixedStep step(state.range(0));
  for ([[maybe_unused]] const auto _ : state) {
    Result<BatchState> batch = step.batch();
    benchmark::DoNotOptimize(batch);
  }
  state.counters["page_ids"] = static_cast<double>(step.indices.size());
}

// Arguments: rows, splits (0: the route chooses).
void plan_step(benchmark::State& state, Route route) {
  const MixedStep step(state.range(0));
  const BatchState batch = step.batch().value();
  PlanOptions options{.route = route, .num_workers = 2};
  if (state.range(1) > 0 && route != Route::kRow) {
    options.splits = static_cast<std::int32_t>(state.range(1));
  }
  Plan plan = make_plan(batch, options).value();
  for ([[maybe_unused]] const auto _ : state) {
    plan = make_plan(batch, options, std::move(plan)).value();
    benchmark::DoNotOptimize(plan);
  }
  set_counters(state, plan);
}

// Deciding, planning and the kernel's width, as a step on an H100 needs them.
void plan_for_gpu(benchmark::State& state) {
  constexpr std::int32_t kSms = 132;
  const MixedStep step(state.range(0));
  const BatchState batch = step.batch().value();
  Plan plan = make_plan(batch, gpu_rule(batch, kSms)).value();
  for ([[maybe_unused]] const auto _ : state) {
    plan = make_plan(batch, gpu_rule(batch, kSms), std::move(plan)).value();
    benchmark::DoNotOptimize(plan);
    KernelWidth width = width_for(plan, kSms);
    benchmark::DoNotOptimize(width);
  }
  set_counters(state, plan);
}

BENCHMARK(plan_for_gpu)->Arg(8)->Arg(64)->Arg(256)->Unit(benchmark::kMicrosecond);
BENCHMARK(validate_batch)->Arg(8)->Arg(64)->Arg(256)->Unit(benchmark::kMicrosecond);

#define PKV_PLAN_BENCHMARK(route)                      \
  BENCHMARK_CAPTURE(plan_step, route, Route::k##route) \
      ->ArgsProduct({{8, 64, 256}, {0, 4, 16, 64}})    \
      ->ArgNames({"rows", "splits"})                   \
      ->Unit(benchmark::kMicrosecond)

BENCHMARK_CAPTURE(plan_step, Row, Route::kRow)
    ->ArgsProduct({{8, 64, 256}, {0}})
    ->ArgNames({"rows", "splits"})
    ->Unit(benchmark::kMicrosecond);
PKV_PLAN_BENCHMARK(Padded);
PKV_PLAN_BENCHMARK(Bucket);
PKV_PLAN_BENCHMARK(Split);
PKV_PLAN_BENCHMARK(Workqueue);
PKV_PLAN_BENCHMARK(Pages);

}  // namespace
}  // namespace pkv

BENCHMARK_MAIN();
