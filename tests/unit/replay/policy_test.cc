// A policy among the participants of a replay: its choices, its prices, its regret.
#include <gmock/gmock.h>

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
