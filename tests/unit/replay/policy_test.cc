// A policy among the participants of a replay: its choices, its prices, its regret.
#include <gmock/gmock.h>

#include <cmath>

#include "base/random.h"
#include "replay/policy_steps.h"
#include "report/report.h"
#include "unit/replay/replay_fixture.h"
#include "unit/replay/test_backends.h"

namespace pkv::testing {
namespace {

ReplayOptions with_policy(std::int32_t oracle_repeats) {
  ReplayOptions options = tiny_options();
  options.run.profile = shipped_profile("cpu").value();
  options.run.oracle_repeats = oracle_repeats;
  options.run.routes.push_back({.route = Route::kRow, .splits = std::nullopt, .policy = PolicyKind::kAuto});
  return options;
}

TEST(ReplayPolicy, TakesPartAndIsVerified) {
  const Trace trace = tiny_trace();
  OracleBackend backend;
  CountingObserver observer;
  const RunRecords records = replay(trace, with_policy(0), backend, observer).value();
  ASSERT_FALSE(records.error.has_value());
  ASSERT_TRUE(records.policy.has_value());
  EXPECT_EQ(records.policy->route_idx, 3U);
  EXPECT_EQ(records.routes[3].name, "auto");
  EXPECT_EQ(records.routes[3].errors->num_steps, 6);
  ASSERT_EQ(records.policy->steps.size(), 6U);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(records.policy->steps[i].route, records.routes[3].steps[i].route);
    EXPECT_EQ(records.policy->steps[i].measured_ns, 1000.0);  // what this backend always says
    EXPECT_GT(records.policy->steps[i].predicted_ns, 0.0);
    EXPECT_FALSE(records.policy->steps[i].regret.has_value());
  }
  // It has learnt that everything takes 1 us.
  EXPECT_LT(records.policy->steps[5].predicted_ns, records.policy->steps[0].predicted_ns);
}

TEST(ReplayPolicy, Oracle_RepeatsEveryStepByAllAndReportsRegret) {
  const Trace trace = tiny_trace();
  OracleBackend backend;
  CountingObserver observer;
  const RunRecords records = replay(trace, with_policy(5), backend, observer).value();
  ASSERT_FALSE(records.error.has_value());
  ASSERT_EQ(records.policy->steps.size(), 6U);
  // Warm-up: 4 participants once; each step: 4 participants and the policy's twin, 5 times; verification: 4.
  EXPECT_EQ(backend.routes.size(), 4U + 6U * (5U * 5U + 4U));
  for (const PolicyStep& step : records.policy->steps) {
    EXPECT_GE(step.regret.value(), 0.0);
    EXPECT_GE(step.noise.value(), 0.0);
  }
  const RunSummary summary = summarize(records);
  EXPECT_GE(summary.policy->regret_max.value(), summary.policy->regret_mean.value());
  EXPECT_GE(summary.policy->prediction_error_p90.value(), summary.policy->prediction_error_p50.value());
  EXPECT_THAT(run_table(summary, TextStyle::kPlain), ::testing::HasSubstr("regret against the best of each step"));
}

StepRecord step_record() {
  StepRecord record;
  record.wall_ns = 1000;
  return record;
}

TEST(LayerWall, HasAPartOfWhatIsNotTheDevices) {
  EXPECT_EQ(layer_wall_ns(1000, 360, 1), 1000);
  EXPECT_EQ(layer_wall_ns(1000, 360, 32), 380);
  EXPECT_EQ(layer_wall_ns(350, 360, 32), 360);  // two clocks
}

// Participants: the policy, another plan, the policy's twin. The machine is three times slower in odd repeats.
TEST(Regret, StatesOfTheMachine_Cancel) {
  const RepeatedWalls walls = {{100, 300, 100, 300, 100}, {80, 240, 80, 240, 80}, {100, 300, 100, 300, 100}};
  const PolicyStep step = with_regret(step_record(), walls, 0);
  EXPECT_NEAR(step.regret.value(), 0.25, 1e-9);
  EXPECT_NEAR(step.cross_regret.value(), 0.25, 1e-9);
  EXPECT_NEAR(step.noise.value(), 0.0, 1e-9);
  EXPECT_EQ(step.best_idx, 1U);
}

TEST(Regret, OfThePolicyThatIsBest_IsZero) {
  const RepeatedWalls walls = {{100, 101, 99, 100, 102}, {130, 131, 129, 128, 130}, {99, 100, 101, 100, 100}};
  const PolicyStep step = with_regret(step_record(), walls, 0);
  EXPECT_EQ(step.regret.value(), 0.0);
  EXPECT_EQ(step.cross_regret.value(), 0.0);
}

// Five equal plans with 10% of noise: the least of five medians lies below all truth, a choice by other repeats does
// not.
TEST(Regret, OfEqualPlans_IsNoiseUnlessCrossed) {
  SplitMix64 random(3);
  double plain = 0.0;
  double crossed = 0.0;
  double crossed_noise = 0.0;
  constexpr int kSteps = 2000;
  for (int i = 0; i < kSteps; ++i) {
    RepeatedWalls walls(6);
    for (std::vector<double>& times : walls) {
      for (int repeat = 0; repeat < 7; ++repeat) {
        times.push_back(1000.0 * std::exp(0.1 * random.normal()));
      }
    }
    const PolicyStep step = with_regret(step_record(), walls, 0);
    plain += *step.regret / kSteps;
    crossed += *step.cross_regret / kSteps;
    crossed_noise += *step.cross_noise / kSteps;
  }
  EXPECT_GT(plain, 0.04);
  EXPECT_LT(std::abs(crossed), 0.01);
  EXPECT_LT(std::abs(crossed_noise), 0.01);
}

TEST(ReplayPolicy, SamePlansWithoutLearning) {
  const Trace trace = tiny_trace();
  CountingObserver observer;
  ReplayOptions options = with_policy(0);
  options.run.learning = Learning::kOff;
  OracleBackend first_backend;
  OracleBackend second_backend;
  const RunRecords first = replay(trace, options, first_backend, observer).value();
  CountingObserver again;
  const RunRecords second = replay(trace, options, second_backend, again).value();
  for (std::size_t i = 0; i < first.policy->steps.size(); ++i) {
    EXPECT_EQ(first.policy->steps[i].predicted_ns, second.policy->steps[i].predicted_ns);
    EXPECT_EQ(first.policy->steps[i].route, second.policy->steps[i].route);
  }
}

/// A layer takes 1 ms with the plan of the first, and 3.2% longer with any other.
class FirstPlanIsBestBackend final : public OracleBackend {
 public:
  Result<RunTimes> run(const Plan& plan, const RunArgs& args) override {
    PKV_RETURN_IF_ERROR(OracleBackend::run(plan, args));
    best_splits_ = best_splits_ == 0 ? plan.max_splits() : best_splits_;
    return RunTimes{.total_ns = plan.max_splits() == best_splits_ ? 1'000'000 : 1'032'000};
  }
  [[nodiscard]] std::int32_t num_workers() const override { return 132; }

 private:
  std::int32_t best_splits_ = 0;
};

// One layer of 32 is 32 us slower: 1 us of an average layer. Verified as the plan itself is.
TEST(ReplayPolicy, ATrial_CostsItsPartOfALayer) {
  Trace trace = tiny_trace();
  trace.requests = {{.arrival = 0, .prompt_len = 14000, .decode_len = 8},
                    {.arrival = 0, .prompt_len = 7000, .decode_len = 8}};
  for (const std::int32_t oracle_repeats : {0, 3}) {
    ReplayOptions options = with_policy(oracle_repeats);
    options.run.profile = shipped_profile("h100").value();
    options.run.routes.erase(options.run.routes.begin(), options.run.routes.end() - 1);
    options.run.baseline = Route::kRow;
    options.run.num_layers = 32;
    FirstPlanIsBestBackend backend;
    CountingObserver observer;
    const RunRecords records = replay(trace, options, backend, observer).value();
    ASSERT_FALSE(records.error.has_value()) << records.error->message;
    std::int64_t trials = 0;
    for (const StepRecord& step : records.routes[0].steps) {
      EXPECT_EQ(step.run.total_ns, step.trial ? 1'001'000 : 1'000'000);
      EXPECT_GE(step.wall_ns, step.run.total_ns);
      if (step.trial) {
        EXPECT_EQ(step.trial->before.total_ns, 1'000'000);
        EXPECT_EQ(step.trial->trial.total_ns, 1'032'000);
        EXPECT_EQ(step.trial->after.total_ns, 1'000'000);
        ++trials;
      }
    }
    EXPECT_GE(trials, 1);
    EXPECT_EQ(records.routes[0].errors->num_steps, 8);
    const RunSummary summary = summarize(records);
    EXPECT_EQ(summary.policy->trials, trials);
    EXPECT_THAT(run_table(summary, TextStyle::kPlain), ::testing::HasSubstr("one layer tried another plan in"));
  }
}

TEST(ReplayPolicy, OptionsThatCannotBe_AreErrors) {
  ReplayOptions options = with_policy(0);
  options.run.profile.reset();
  EXPECT_EQ(validate(options.run).error().where, "profile");
  options = with_policy(0);
  options.run.routes.push_back({.route = Route::kRow, .splits = std::nullopt, .policy = PolicyKind::kPaper});
  EXPECT_EQ(validate(options.run).error().to_string(), "policy: 2 policies, at most 1 can take part");
  options = tiny_options();
  options.run.oracle_repeats = 5;
  EXPECT_EQ(validate(options.run).error().where, "oracle");
  options = with_policy(-1);
  EXPECT_EQ(validate(options.run).error().where, "oracle");
}

}  // namespace
}  // namespace pkv::testing
