// Time of deciding a step, by profile and rows: anew, and carried on from the last step. Google Benchmark.
// Not here: planning alone (planner.cc), execution (decode.cc).
#include <benchmark/benchmark.h>

#include <string>
#include <utility>

#include "bench/mixed_step.h"
#include "persistentkv/decision.h"

namespace pkv {
namespace {

Policy make_policy(const std::string& profile) {
  return Policy::make(shipped_profile(profile).value(), {}, {}).value();
}

// Two steps in turn, of which one has a row more: nothing is carried on.
void decide_anew(benchmark::State& state, const std::string& profile) {
  const MixedStep fewer(state.range(0));
  const MixedStep more(state.range(0) + 1);
  const BatchState batches[] = {more.batch().value(), fewer.batch().value()};
  Policy policy = make_policy(profile);
  Plan plan;
  std::size_t i = 0;
  for ([[maybe_unused]] const auto _ : state) {
    Decision decision = policy.decide(batches[i ^= 1], std::move(plan)).value();
    benchmark::DoNotOptimize(decision);
    plan = std::move(decision.plan);
  }
}

void carry_on(benchmark::State& state, const std::string& profile) {
  const MixedStep step(state.range(0));
  const BatchState batch = step.batch().value();
  Policy policy = make_policy(profile);
  Plan plan = std::move(policy.decide(batch).value().plan);
  for ([[maybe_unused]] const auto _ : state) {
    Decision decision = policy.decide(batch, std::move(plan)).value();
    benchmark::DoNotOptimize(decision);
    plan = std::move(decision.plan);
  }
}

// Planning alone, by what the policy chose: the part of a decision that a fixed route has, too.
void plan_only(benchmark::State& state, const std::string& profile) {
  const MixedStep step(state.range(0));
  const BatchState batch = step.batch().value();
  const Decision decision = make_policy(profile).decide(batch).value();
  const PlanOptions options = {.route = decision.plan.route(),
                               .splits = decision.plan.max_splits(),
                               .tile_tokens = decision.plan.tile_tokens(),
                               .kv_heads_per_task = decision.plan.kv_heads_per_task(),
                               .merge = decision.plan.merge_mode()};
  Plan plan;
  for ([[maybe_unused]] const auto _ : state) {
    plan = make_plan(batch, options, std::move(plan)).value();
    benchmark::DoNotOptimize(plan);
  }
  state.counters["tasks"] = static_cast<double>(plan.tasks().size());
}

#define PKV_POLICY_CASE(work, profile) \
  BENCHMARK_CAPTURE(work, profile, #profile)->Arg(1)->Arg(8)->Arg(32)->Arg(64)->Unit(benchmark::kMicrosecond)
#define PKV_POLICY_BENCHMARK(profile)    \
  PKV_POLICY_CASE(decide_anew, profile); \
  PKV_POLICY_CASE(carry_on, profile);    \
  PKV_POLICY_CASE(plan_only, profile)

PKV_POLICY_BENCHMARK(cpu);
PKV_POLICY_BENCHMARK(cpu96);
PKV_POLICY_BENCHMARK(h100);

}  // namespace
}  // namespace pkv

BENCHMARK_MAIN();
