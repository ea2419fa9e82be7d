// Rounds to points, and their two forms.
#include "report/sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "unit/report/records_fixture.h"

namespace pkv {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

/// One route, three rounds of two steps, in ms.
SweepRun make_run(const std::string& group, const std::vector<std::vector<double>>& rounds) {
  SweepRun run;
  run.axes = {{"group", group}};
  run.records.routes = {{.name = "auto", .splits = {}, .steps = {}, .errors = {}}};
  run.records.trace = "lens:8x1024";
  std::int64_t steps = 0;
  for (const auto& round : rounds) {
    for (const double ms : round) {
      StepRecord step = testing::make_step(steps++, Route::kPages, 4, static_cast<std::int64_t>(ms * 1e6));
      step.predicted_ns = 1e6;
      step.max_splits = 6;
      run.records.routes[0].steps.push_back(step);
      run.records.probe.push_back({.bytes = 8 << 20, .elapsed_ns = 1000000});
    }
    run.round_ends.push_back(steps);
  }
  return run;
}

SweepRecords make_sweep() {
  SweepRecords records;
  records.kind = "groups";
  records.rounds = 3;
  // The machine is slower in the second round: both suffer, the ratio does not.
  records.runs = {make_run("1", {{2, 2}, {4, 4}, {2, 2}}), make_run("4", {{1, 1}, {2, 2}, {1, 1}})};
  return records;
}

TEST(Sweep, RatiosAreTakenWithinARound_SoASlowMinuteDoesNotCount) {
  const SweepSummary summary = summarize(make_sweep());
  ASSERT_EQ(summary.points.size(), 2U);
  EXPECT_DOUBLE_EQ(*summary.points[0].device_ms, 2.0);
  EXPECT_DOUBLE_EQ(*summary.points[0].ratio_device, 1.0);
  EXPECT_DOUBLE_EQ(*summary.points[1].device_ms, 1.0);
  EXPECT_DOUBLE_EQ(*summary.points[1].ratio_device, 2.0);
  EXPECT_DOUBLE_EQ(*summary.points[1].ratio_spread, 0.0);
  EXPECT_GT(*summary.points[1].spread, 0.0);
  EXPECT_EQ(summary.points[1].rounds, 3);
}

TEST(Sweep, Rates_AreThoseOfTheUsefulBytes) {
  const SweepPoint point = summarize(make_sweep()).points[1];
  EXPECT_NEAR(*point.gb_per_s, (4 << 20) / 1e6, 1e-9);
  EXPECT_NEAR(*point.probe_share, 0.5, 1e-9);
  EXPECT_DOUBLE_EQ(*point.predicted_ms, 1.0);
  EXPECT_NEAR(*point.prediction_error, 0.0, 1e-9);
  EXPECT_EQ(point.chosen_route, "pages");
  EXPECT_EQ(point.chosen_splits, 6);
}

TEST(Sweep, TraceCountsItsMean_OneStepItsMedian) {
  SweepRecords records;
  records.runs = {make_run("1", {{1, 1, 10}})};
  EXPECT_DOUBLE_EQ(*summarize(records).points[0].device_ms, 1.0);
  records.repeats_one_step = false;
  EXPECT_DOUBLE_EQ(*summarize(records).points[0].device_ms, 4.0);
}

TEST(Sweep, StoppedInItsFirstRound_KeepsThatPart) {
  SweepRecords records = make_sweep();
  for (SweepRun& run : records.runs) run.round_ends.clear();
  records.runs[1].records.interrupted = true;
  const SweepSummary summary = summarize(records);
  EXPECT_TRUE(summary.interrupted);
  EXPECT_TRUE(summary.points[1].device_ms.has_value());
  records.runs[1].records.routes[0].steps.clear();
  EXPECT_FALSE(summarize(records).points[1].device_ms.has_value());
  EXPECT_THAT(sweep_table(summarize(records), TextStyle::kPlain), HasSubstr("interrupted"));
}

TEST(Sweep, Json_HasEveryPointAndItsAxes) {
  const json record = json::parse(sweep_json(summarize(make_sweep()), {{"rounds", "3"}, {"groups", "1,4"}}));
  EXPECT_EQ(record.at("version"), 1);
  EXPECT_EQ(record.at("options").at("rounds"), 3);
  EXPECT_EQ(record.at("options").at("groups"), "1,4");
  EXPECT_EQ(record.at("points")[1].at("axes").at("group"), 4);
  EXPECT_EQ(record.at("points")[1].at("chosen").at("route"), "pages");
  EXPECT_TRUE(record.at("error").is_null());
}

TEST(Sweep, Table_MarksTheReference) {
  const std::string table = sweep_table(summarize(make_sweep()), TextStyle::kPlain);
  EXPECT_THAT(table, HasSubstr("1.000 ref"));
  EXPECT_THAT(table, HasSubstr("pages 6"));
  EXPECT_THAT(table, Not(HasSubstr("*")));  // points of unequal work have no fastest
}

TEST(Capacity, TokensAreThoseOfAllLayersAndOnePlan) {
  const CapacityPoint point{.batch = 8, .layer_ns = 1000.0, .plan_ns = 2000.0};
  EXPECT_DOUBLE_EQ(step_ns(point, 8), 10000.0);
  EXPECT_DOUBLE_EQ(tokens_per_s(point, 8), 8e9 / 10000.0);
  CapacityRecords records;
  records.points = {point};
  records.layers = 8;
  EXPECT_THAT(capacity_table(records, TextStyle::kPlain), HasSubstr("attention only"));
  EXPECT_EQ(json::parse(capacity_json(records, {})).at("points")[0].at("tokens_per_s"), 800000.0);
}

}  // namespace
}  // namespace pkv
