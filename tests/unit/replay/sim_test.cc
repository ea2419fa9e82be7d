// Replays on profiles: the paper's published figures out of its constants, and what a simulated run reports.
#include <gmock/gmock.h>

#include <cmath>
#include <string>
#include <vector>

#include "replay/replay.h"
#include "report/report.h"
#include "trace/generators.h"
#include "unit/replay/replay_fixture.h"

namespace pkv {
namespace {

/// The paper's serving traces (paper, "The traces").
struct Serving {
  PaperFamily family = PaperFamily::kBimodal;
  std::int32_t max_active = 8;
  std::int32_t num_requests = 24;
  std::int64_t steps = 48;
};
constexpr Serving kBimodal{};
constexpr Serving kUniform{.family = PaperFamily::kUniform};
constexpr Serving kZipf{.family = PaperFamily::kZipf};
constexpr Serving kBucketed{.family = PaperFamily::kBucketed, .max_active = 1, .num_requests = 16, .steps = 64};

RunSummary simulate(const Serving& serving, std::uint32_t seed, std::vector<RouteChoice> routes,
                    std::string_view profile = "rtx3060") {
  const Trace trace = make_paper_trace({.family = serving.family,
                                        .seed = seed,
                                        .num_requests = serving.num_requests,
                                        .max_active = serving.max_active})
                          .value();
  ReplayOptions options;
  options.run.routes = std::move(routes);
  options.run.baseline = Route::kFlashInferCore;
  options.run.backend = BackendKind::kSim;
  options.run.profile = shipped_profile(profile).value();
  options.run.learning = Learning::kOff;
  options.run.oracle_repeats = options.run.routes.back().policy ? 5 : 0;
  options.admission.max_active = serving.max_active;
  options.max_steps = serving.steps;
  RunObserver observer;
  const auto records = replay(trace, options, observer);
  EXPECT_TRUE(records.ok() && !records->error);
  return summarize(*records);
}

RouteChoice split_choice(Route route, std::int32_t splits) { return {.route = route, .splits = splits}; }
const RouteChoice kFlashInfer{.route = Route::kFlashInferCore, .splits = std::nullopt};

/// Means over the five held-out seeds.
struct Ratios {
  double device = 0.0;
  double wall = 0.0;
};
Ratios mean_ratios(const Serving& serving, const RouteChoice& choice) {
  Ratios mean;
  for (std::uint32_t seed = 20260623; seed <= 20260627; ++seed) {
    const RunSummary summary = simulate(serving, seed, {kFlashInfer, choice});
    mean.device += summary.routes[1].ratio_device.value() / 5.0;
    mean.wall += summary.routes[1].ratio_wall.value() / 5.0;
  }
  return mean;
}

TEST(SimulatedRtx3060, PublishedRatios_AreReproduced) {
  struct Row {
    Serving serving;
    RouteChoice choice;
    Ratios published;
  };
  const Row rows[] = {{kBucketed, split_choice(Route::kBucket, 32), {1.471, 1.403}},
                      {kBimodal, split_choice(Route::kWorkqueue, 20), {1.106, 1.080}},
                      {kUniform, split_choice(Route::kWorkqueue, 24), {1.076, 1.044}},
                      {kZipf, split_choice(Route::kWorkqueue, 28), {1.105, 1.068}}};
  for (const Row& row : rows) {
    const Ratios ratios = mean_ratios(row.serving, row.choice);
    EXPECT_NEAR(ratios.device, row.published.device, 0.05) << paper_family_name(row.serving.family);
    EXPECT_NEAR(ratios.wall, row.published.wall, 0.05) << paper_family_name(row.serving.family);
  }
}

// The workqueue before FlashInfer and before the buckets with eight rows, both before FlashInfer with one.
TEST(SimulatedRtx3060, RouteOrderOfTheWorkqueue_IsThePublishedOne) {
  for (std::uint32_t seed = 20260623; seed <= 20260627; ++seed) {
    for (const Serving& serving : {kBimodal, kUniform, kZipf}) {
      const RunSummary summary =
          simulate(serving, seed, {kFlashInfer, split_choice(Route::kBucket, 32), split_choice(Route::kWorkqueue, 24)});
      EXPECT_GT(summary.routes[2].ratio_device, 1.0) << seed;
      EXPECT_GT(summary.routes[2].ratio_device, summary.routes[1].ratio_device) << seed;
    }
    const RunSummary one =
        simulate(kBucketed, seed, {kFlashInfer, split_choice(Route::kBucket, 32), split_choice(Route::kWorkqueue, 24)});
    EXPECT_GT(one.routes[1].ratio_device, 1.0) << seed;
    EXPECT_GT(one.routes[2].ratio_device, 1.0) << seed;
  }
}

// FlashInfer against the buckets with eight rows, 13 of 15 orders. Of the others zipf with seed 20260624 is published
// as 1.003, where one configuration, measured four times, differs by 3.5% from itself; bimodal with seed 20260624 is
// wrong (decision 0007: what was tried).
TEST(SimulatedRtx3060, RouteOrderOfFlashInferAndBuckets_IsThePublishedOneButForTwoRows) {
  struct Row {
    Serving serving;
    std::uint32_t seed;
    double published;  // device, buckets to FlashInfer
  };
  const Row rows[] = {{kBimodal, 20260623, 1.021}, {kBimodal, 20260624, 0.945}, {kBimodal, 20260625, 0.979},
                      {kBimodal, 20260626, 0.986}, {kBimodal, 20260627, 0.930}, {kUniform, 20260623, 0.913},
                      {kUniform, 20260624, 0.916}, {kUniform, 20260625, 0.961}, {kUniform, 20260626, 0.971},
                      {kUniform, 20260627, 0.993}, {kZipf, 20260623, 0.974},    {kZipf, 20260624, 1.003},
                      {kZipf, 20260625, 0.969},    {kZipf, 20260626, 0.981},    {kZipf, 20260627, 0.978}};
  for (const Row& row : rows) {
    const RunSummary summary = simulate(row.serving, row.seed, {kFlashInfer, split_choice(Route::kBucket, 32)});
    const double ratio = summary.routes[1].ratio_device.value();
    EXPECT_NEAR(ratio, row.published, 0.09) << paper_family_name(row.serving.family) << ' ' << row.seed;
    const bool is_one_of_the_two = row.seed == 20260624 && row.serving.family != PaperFamily::kUniform;
    EXPECT_EQ(ratio > 1.0, (row.published > 1.0) != is_one_of_the_two)
        << paper_family_name(row.serving.family) << ' ' << row.seed;
  }
}

TEST(SimulatedRtx3060, SplitSweep_HasThePublishedShape) {
  const auto best = [](const Serving& serving, Route route, std::vector<std::int32_t> sweep) {
    std::vector<RouteChoice> choices;
    for (const std::int32_t splits : sweep) {
      choices.push_back(split_choice(route, splits));
    }
    const RunSummary summary = simulate(serving, 20260623, choices);
    std::size_t least = 0;
    for (std::size_t i = 0; i < sweep.size(); ++i) {
      least = summary.routes[i].tokens_per_s_device > summary.routes[least].tokens_per_s_device ? i : least;
    }
    return sweep[least];
  };
  EXPECT_EQ(best(kBimodal, Route::kWorkqueue, {16, 20, 24}), 16);
  EXPECT_EQ(best(kBucketed, Route::kBucket, {28, 32, 36}), 28);
}

TEST(SimulatedRun, Summary_SaysThatItWasPredicted) {
  const RunSummary summary = simulate({.steps = 6}, 20260623,
                                      {{.route = Route::kRow, .splits = std::nullopt},
                                       {.route = Route::kPages, .splits = std::nullopt},
                                       {.route = Route::kRow, .splits = std::nullopt, .policy = PolicyKind::kAuto}},
                                      "cpu");
  EXPECT_EQ(summary.mode, RunMode::kSimulated);
  EXPECT_EQ(summary.num_workers, 8);
  EXPECT_EQ(summary.routes[0].steps, 6);
  EXPECT_TRUE(summary.routes[0].decode_ms_p50.has_value());
  EXPECT_FALSE(summary.probe_gb_per_s.has_value());
  ASSERT_TRUE(summary.policy.has_value());
  EXPECT_EQ(summary.policy->name, "auto");
  EXPECT_LE(summary.policy->regret_max.value(), 0.02);
  EXPECT_FALSE(summary.policy->prediction_error_p50.has_value());  // nothing was measured
  EXPECT_THAT(run_table(summary, TextStyle::kPlain), ::testing::HasSubstr("predicted, nothing executed"));
  EXPECT_THAT(run_json(summary), ::testing::HasSubstr("\"mode\": \"simulated\""));
}

TEST(SimulatedRun, Layers_ShareThePlanningOfAStep) {
  const auto run = [](std::int32_t layers) {
    ReplayOptions options;
    options.run.routes = {split_choice(Route::kSplit, 8)};
    options.run.backend = BackendKind::kSim;
    options.run.profile = shipped_profile("h100").value();
    options.run.num_layers = layers;
    options.max_steps = 4;
    RunObserver observer;
    return replay(make_paper_trace({}).value(), options, observer);
  };
  const RunRecords one = run(1).value();
  const RunRecords all = run(32).value();
  for (std::size_t i = 0; i < 4; ++i) {
    const StepRecord& step = all.routes[0].steps[i];
    EXPECT_EQ(step.plan_ns, one.routes[0].steps[i].plan_ns);  // of the step
    EXPECT_EQ(step.run.total_ns, one.routes[0].steps[i].run.total_ns);
    EXPECT_NEAR(static_cast<double>(step.wall_ns - step.run.total_ns), static_cast<double>(step.plan_ns) / 32.0, 1.0);
  }
  EXPECT_THAT(run_json(summarize(all)), ::testing::HasSubstr("\"layers\": 32"));
  EXPECT_THAT(run_table(summarize(all), TextStyle::kPlain), ::testing::HasSubstr("wall times of one of 32 layers"));
  EXPECT_EQ(run(0).error().to_string(), "layers: 0 layers, must be 1 to 1024");
}

// By the GPU rule for the profile's SMs, not for one.
TEST(SimulatedRun, RoutesThatSplit_FillTheGpuOfTheProfile) {
  const RunSummary summary = simulate({.steps = 4}, 20260624,
                                      {{.route = Route::kRow, .splits = std::nullopt},
                                       {.route = Route::kSplit, .splits = std::nullopt},
                                       {.route = Route::kWorkqueue, .splits = std::nullopt}},
                                      "h100");
  EXPECT_GT(summary.routes[1].tokens_per_s_device.value(), 1.4 * summary.routes[0].tokens_per_s_device.value());
  EXPECT_GT(summary.routes[2].tokens_per_s_device.value(), 1.4 * summary.routes[0].tokens_per_s_device.value());
}

TEST(SimulatedRun, RouteWithoutAPrice_IsAnError) {
  ReplayOptions options;
  options.run.routes = {kFlashInfer};
  options.run.backend = BackendKind::kSim;
  options.run.profile = shipped_profile("cpu").value();
  RunObserver observer;
  const Trace trace = make_paper_trace({}).value();
  EXPECT_EQ(replay(trace, options, observer).error().to_string(),
            "route flashinfer-core: profile cpu has no price of it");
  options.run.profile.reset();
  EXPECT_EQ(replay(trace, options, observer).error().where, "profile");
}

}  // namespace
}  // namespace pkv
