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

// Two steps in turn, of which one has a row less: nothing is carried on.
void decide_anew(benchmark::State& state, const std::string& profile) {
  const MixedStep more(state.range(0));
  const MixedStep fewer(state.range(0) - 1);
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

#define PKV_POLICY_BENCHMARK(profile)                                                                        \
  BENCHMARK_CAPTURE(decide_anew, profile, #profile)->Arg(2)->Arg(8)->Arg(64)->Unit(benchmark::kMicrosecond); \
  BENCHMARK_CAPTURE(carry_on, profile, #profile)->Arg(8)->Arg(64)->Unit(benchmark::kMicrosecond)

PKV_POLICY_BENCHMARK(cpu);
PKV_POLICY_BENCHMARK(cpu96);
PKV_POLICY_BENCHMARK(h100);

}  // namespace
}  // namespace pkv

BENCHMARK_MAIN();
