// Time of deciding a step, by profile and rows: anew, and carried on from the last step. Google Benchmark.
// Not here: planning alone (planner.cc), execution (decode.cc).
#include <benchmark/benchmark.h>

#include <string>
#include <utility>
#include <vector>

#include "base/math.h"
#include "base/random.h"
#include "persistentkv/decision.h"

namespace pkv {
namespace {

// Rows of 1,000 to 16,000 tokens; all pages are page 0, since deciding does not look at them.
struct Step {
  explicit Step(std::int64_t rows) {
    SplitMix64 random(1);
    indptr.push_back(0);
    for (std::int64_t row = 0; row < rows; ++row) {
      seq_lens.push_back(static_cast<std::int32_t>(1000 + random.below(15000)));
      indptr.push_back(indptr.back() + ceil_div(seq_lens.back(), 16));
    }
    indices.assign(static_cast<std::size_t>(indptr.back()), 0);
  }
  BatchState batch() const {
    return BatchState::make(
               {.seq_lens = seq_lens, .block_table = BlockTable::csr(indptr, indices).value(), .num_pages = 1})
        .value();
  }
  std::vector<std::int32_t> seq_lens, indptr, indices;
};

Policy make_policy(const std::string& profile) {
  return Policy::make(shipped_profile(profile).value(), {}, {}).value();
}

// Two steps in turn, of which one has a row less: nothing is carried on.
void decide_anew(benchmark::State& state, const std::string& profile) {
  const Step more(state.range(0));
  const Step fewer(state.range(0) - 1);
  const BatchState batches[] = {more.batch(), fewer.batch()};
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
  const Step step(state.range(0));
  const BatchState batch = step.batch();
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
