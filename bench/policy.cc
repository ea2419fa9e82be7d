// Time of deciding a step, by profile and rows: anew, and carried on from the last step; with warm caches and, as after
// other work, with cold ones. Google Benchmark.
// Not here: planning alone (planner.cc), execution (decode.cc).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "bench/mixed_step.h"
#include "persistentkv/decision.h"

namespace pkv {
namespace {

/// As an engine makes it for a model of 32 layers; nothing is measured, so nothing is tried.
Policy make_policy(const std::string& profile) {
  return Policy::make(shipped_profile(profile).value(), {.num_layers = 32}, {.learning = Learning::kOn}).value();
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

double quantile_us(std::vector<double>& us, double part) {
  std::ranges::sort(us);
  return us[static_cast<std::size_t>(part * static_cast<double>(us.size() - 1))];
}

/// Writes every line of a block that no L2 holds.
class OtherWork {
 public:
  void run() {
    for (std::size_t i = 0; i < block_.size(); i += 64) {
      ++block_[i];
    }
    benchmark::DoNotOptimize(block_.data());
  }

 private:
  std::vector<char> block_ = std::vector<char>(std::size_t{64} << 20, 1);
};

// Each decision right after other work, and the fifth of the same ones after it. The time is that of the cold one, the
// counters are quantiles of single decisions.
template <typename Prepare>
void decide_cold(benchmark::State& state, Policy& policy, const BatchState& batch, Prepare prepare) {
  OtherWork work;
  Plan plan;
  std::vector<double> cold;
  std::vector<double> warm;
  const auto decide_us = [&] {
    prepare();
    const std::int64_t begin_ns = now_ns();
    Decision decision = policy.decide(batch, std::move(plan)).value();
    benchmark::DoNotOptimize(decision);
    const std::int64_t end_ns = now_ns();
    plan = std::move(decision.plan);
    return static_cast<double>(end_ns - begin_ns) * 1e-3;
  };
  decide_us();
  for ([[maybe_unused]] const auto _ : state) {
    work.run();
    cold.push_back(decide_us());
    state.SetIterationTime(cold.back() * 1e-6);
    for (int i = 0; i < 4; ++i) {
      decide_us();
    }
    warm.push_back(decide_us());
  }
  state.counters["cold_p50_us"] = quantile_us(cold, 0.5);
  state.counters["cold_p90_us"] = quantile_us(cold, 0.9);
  state.counters["warm_p50_us"] = quantile_us(warm, 0.5);
}

void decide_anew_cold(benchmark::State& state, const std::string& profile) {
  const MixedStep step(state.range(0));
  Policy policy = make_policy(profile);
  decide_cold(state, policy, step.batch().value(), [&] { policy.forget_choice(); });
}

void carry_on_cold(benchmark::State& state, const std::string& profile) {
  const MixedStep step(state.range(0));
  Policy policy = make_policy(profile);
  decide_cold(state, policy, step.batch().value(), [] {});
}

#define PKV_POLICY_CASE(work, profile) \
  BENCHMARK_CAPTURE(work, profile, #profile)->Arg(1)->Arg(8)->Arg(32)->Arg(64)->Unit(benchmark::kMicrosecond)
#define PKV_COLD_CASE(work, profile)         \
  BENCHMARK_CAPTURE(work, profile, #profile) \
      ->Arg(1)                               \
      ->Arg(8)                               \
      ->Arg(32)                              \
      ->UseManualTime()                      \
      ->Iterations(100)                      \
      ->Unit(benchmark::kMicrosecond)
#define PKV_POLICY_BENCHMARK(profile)       \
  PKV_POLICY_CASE(decide_anew, profile);    \
  PKV_POLICY_CASE(carry_on, profile);       \
  PKV_POLICY_CASE(plan_only, profile);      \
  PKV_COLD_CASE(decide_anew_cold, profile); \
  PKV_COLD_CASE(carry_on_cold, profile)

PKV_POLICY_BENCHMARK(cpu);
PKV_POLICY_BENCHMARK(cpu96);
PKV_POLICY_BENCHMARK(h100);

}  // namespace
}  // namespace pkv

BENCHMARK_MAIN();
