// Which plan runs when several are nearly equal: how often another is tried, and what decides.
#include "persistentkv/contest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <utility>
#include <vector>

#include "cost/gpu_kernels.h"
#include "unit/cost/policy_fixture.h"

namespace pkv {
namespace {

/// All of one price.
std::vector<Contest::Contender> counts(std::initializer_list<std::int32_t> splits, double price = 100.0) {
  std::vector<Contest::Contender> plans;
  for (const std::int32_t it : splits) {
    plans.push_back({.options = {.route = Route::kWorkqueue, .splits = it}, .price = price});
  }
  return plans;
}

/// Splits of the plans that run, step by step; `ns` by splits, 0: not measured.
std::vector<std::int32_t> run(Contest& contest, const BatchState& batch, int steps,
                              const std::function<double(std::int32_t, int)>& ns) {
  std::vector<std::int32_t> ran;
  for (int step = 0; step < steps; ++step) {
    ran.push_back(*(step == 0 ? contest.running() : contest.next(batch)).splits);
    const double took = ns(ran.back(), step);
    if (took > 0.0) {
      contest.observe(took);
    }
  }
  return ran;
}

TEST(Contest, EachPlanRunsOnce_ThenTheFastest) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22, 31}), step.batch());
  EXPECT_FALSE(contest.overrules());
  const auto ran = run(contest, step.batch(), 10, [](std::int32_t splits, int) { return splits == 22 ? 98e3 : 100e3; });
  EXPECT_EQ(ran, (std::vector<std::int32_t>{16, 16, 22, 22, 22, 31, 22, 22, 22, 22}));
  EXPECT_TRUE(contest.overrules());
  EXPECT_NEAR(contest.lead(), 100.0 / 98.0 - 1.0, 1e-9);
}

TEST(Contest, NobodyMeasures_TheCheapestByPriceRuns) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22, 31}), step.batch());
  EXPECT_EQ(run(contest, step.batch(), 9, [](std::int32_t, int) { return 0.0; }), std::vector<std::int32_t>(9, 16));
  EXPECT_EQ(contest.lead(), 0.0);
}

// One step in three at most is a trial, however many plans there are.
TEST(Contest, TrialsAreApart) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22, 31, 47}), step.batch());
  const auto ran = run(contest, step.batch(), 14, [](std::int32_t splits, int) { return splits == 16 ? 1e5 : 1.05e5; });
  EXPECT_EQ(ran, (std::vector<std::int32_t>{16, 16, 22, 16, 16, 31, 16, 16, 47, 16, 16, 16, 16, 16}));
  EXPECT_FALSE(contest.overrules());
}

TEST(Contest, ADisturbedStep_ChangesNothingForLong) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  const auto ran = run(contest, step.batch(), 40, [](std::int32_t splits, int i) {
    return (splits == 16 ? 100e3 : 101e3) * (i % 7 == 4 ? 3.0 : 1.0);
  });
  EXPECT_EQ(std::ranges::count(ran, 22), 1);
}

// All become slower: every stale figure is tried again once, and the fastest leads on.
TEST(Contest, AChangeOfTheMachine_IsNotTakenForThePlans) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22, 31}), step.batch());
  const auto ran = run(contest, step.batch(), 60,
                       [](std::int32_t splits, int i) { return (splits == 22 ? 98e3 : 100e3) * (i < 20 ? 1.0 : 1.3); });
  EXPECT_EQ(std::count(ran.begin() + 30, ran.end(), 22), 30);
}

TEST(Contest, LayersOfOneStep_AreOneStep) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(contest.running().splits, 16);
    for (int layer = 0; layer < 32; ++layer) {
      contest.observe(100e3 + 1e3 * layer);
    }
    contest.next(step.batch());
  }
  EXPECT_EQ(contest.running().splits, 22);
  EXPECT_TRUE(contest.is_trial());
}

// Of a batch with a row less and other lengths, plans cut nearly alike: the one that was faster still is.
TEST(Contest, ALikeBatch_KeepsWhatIsKnown) {
  const testing::Step step = step_of(std::vector<std::int32_t>(16, 4000));
  const auto faster_with_many = [](std::int32_t splits, int) { return splits > 20 ? 98e3 : 100e3; };
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  run(contest, step.batch(), 6, faster_with_many);
  const testing::Step less = step_of(std::vector<std::int32_t>(15, 4100));
  contest.start(counts({17, 23}), less.batch());
  EXPECT_TRUE(contest.overrules());
  EXPECT_EQ(run(contest, less.batch(), 6, faster_with_many), std::vector<std::int32_t>(6, 23));
}

TEST(Contest, AnotherBatch_Forgets) {
  const testing::Step step = step_of(std::vector<std::int32_t>(16, 4000));
  for (const auto& [rows, len] : {std::pair{16, 5000}, std::pair{13, 4800}}) {
    Contest contest;
    contest.start(counts({16, 22}), step.batch());
    run(contest, step.batch(), 6, [](std::int32_t splits, int) { return splits > 20 ? 98e3 : 100e3; });
    contest.start(counts({16, 22}), step_of(std::vector<std::int32_t>(static_cast<std::size_t>(rows), len)).batch());
    EXPECT_FALSE(contest.overrules()) << rows;
    EXPECT_EQ(contest.running().splits, 16);
  }
}

// 3% below its price in one batch, 2% above the cheapest by price in the next: it should still be the faster.
TEST(Contest, WhatIsKnownIsWeighedAgainstThePrice) {
  const testing::Step step = step_of({50000, 4000});
  for (const double dearer : {1.02, 1.05}) {
    Contest contest;
    contest.start(counts({16, 22}), step.batch());
    run(contest, step.batch(), 6, [](std::int32_t splits, int) { return splits == 22 ? 97e3 : 100e3; });
    auto plans = counts({16, 22});
    plans[1].price *= dearer;
    contest.start(plans, step.batch());
    EXPECT_EQ(contest.overrules(), dearer == 1.02);
  }
}

TEST(Contest, APlanThatWasNotNearForAWhile_IsNotTriedAgain) {
  const testing::Step step = step_of({50000, 4000});
  const auto alike = [](std::int32_t, int) { return 100e3; };
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  run(contest, step.batch(), 6, alike);
  contest.start(counts({16, 31}), step.batch());
  run(contest, step.batch(), 6, alike);
  contest.start(counts({16, 22}), step.batch());
  EXPECT_EQ(run(contest, step.batch(), 9, alike), std::vector<std::int32_t>(9, 16));
}

TEST(Contest, LeaderThatIsNoLongerNear_LeavesTheChosenOne) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  run(contest, step.batch(), 6, [](std::int32_t splits, int) { return splits == 22 ? 98e3 : 100e3; });
  contest.start(counts({16, 40}), step.batch());
  EXPECT_EQ(contest.running().splits, 16);
  EXPECT_EQ(contest.lead(), 0.0);
}

// Its kernel's first launch takes three times as long; the second trial counts.
TEST(Contest, ATrialThatIsFarOff_IsRepeated) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  bool loaded = false;
  const auto ran = run(contest, step.batch(), 8, [&](std::int32_t splits, int) {
    if (splits == 16) return 100e3;
    return std::exchange(loaded, true) ? 98e3 : 300e3;
  });
  EXPECT_EQ(ran, (std::vector<std::int32_t>{16, 16, 22, 16, 16, 22, 22, 22}));
  Contest slow;
  slow.start(counts({16, 22}), step.batch());
  const auto again = run(slow, step.batch(), 40, [](std::int32_t splits, int) { return splits == 16 ? 1e5 : 3e5; });
  EXPECT_EQ(std::ranges::count(again, 22), 3);
}

/// A GPU whose plans take `factor` of what the policy's profile says.
std::vector<Decision> decide_on(Policy& policy, int steps, std::vector<std::int32_t> lens,
                                const std::function<double(const Plan&)>& factor) {
  const PriceModel truth = model_of(shipped("h100"));
  std::vector<Decision> decisions;
  for (int i = 0; i < steps; ++i) {
    const testing::Step step = step_of(lens);
    decisions.push_back(policy.decide(step.batch()).value());
    const Plan& plan = decisions.back().plan;
    policy.observe(decisions.back().price, {.total_ns = std::llround(truth.price(plan).device_ns * factor(plan))});
    for (std::int32_t& len : lens) {
      ++len;
    }
  }
  return decisions;
}

const std::vector<std::int32_t> kRagged = {54000, 31000, 24000, 17000, 14000, 9000, 6000, 3000};

TEST(PolicyContest, APlanThatIsFasterThanItsPrice_IsFound) {
  Policy fixed = policy_of(shipped("h100"));
  const std::int32_t usual = fixed.decide(step_of(kRagged).batch())->plan.max_splits();
  Policy policy = policy_of(shipped("h100"), {.learning = Learning::kOn});
  const auto decisions =
      decide_on(policy, 24, kRagged, [&](const Plan& plan) { return plan.max_splits() == usual ? 1.02 : 0.97; });
  EXPECT_EQ(decisions[0].plan.max_splits(), usual);
  EXPECT_EQ(decisions[0].basis, DecisionBasis::kCheapest);
  EXPECT_EQ(decisions[2].basis, DecisionBasis::kTried);
  EXPECT_THAT(decisions[2].reason(), ::testing::HasSubstr("tried for a step"));
  const Decision& last = decisions.back();
  EXPECT_NE(last.plan.max_splits(), usual);
  EXPECT_EQ(last.basis, DecisionBasis::kMeasured);
  EXPECT_GT(last.basis_figure, 0.01);
  EXPECT_THAT(last.reason(), ::testing::HasSubstr("fastest measured"));
  EXPECT_EQ(last.candidates.front().max_splits, last.plan.max_splits());
}

TEST(PolicyContest, PricesThatAreTrue_CostFewTrials) {
  Policy policy = policy_of(shipped("h100"), {.learning = Learning::kOn});
  const auto decisions = decide_on(policy, 24, kRagged, [](const Plan&) { return 1.0; });
  const auto trials = std::ranges::count(decisions, DecisionBasis::kTried, &Decision::basis);
  EXPECT_GE(trials, 1);
  EXPECT_LE(trials, 3);
  const PriceModel model = model_of(shipped("h100"));
  for (const Decision& decision : decisions) {
    EXPECT_LE(model.price(decision.plan).device_ns, 1.04 * model.price(decisions[0].plan).device_ns);
  }
}

TEST(PolicyContest, WithoutLearning_NothingIsTried) {
  Policy policy = policy_of(shipped("h100"));
  for (const Decision& decision : decide_on(policy, 24, kRagged, [](const Plan&) { return 1.0; })) {
    EXPECT_NE(decision.basis, DecisionBasis::kTried);
  }
}

// A caller's own plan, measured between two decisions, says nothing of theirs.
TEST(PolicyContest, AnotherPlansTime_IsNotTakenForTheRunningOnes) {
  Policy policy = policy_of(shipped("h100"), {.learning = Learning::kOn});
  const testing::Step step = step_of(kRagged);
  const Plan other = make_plan(step.batch(), {.route = Route::kRow}).value();
  for (int i = 0; i < 12; ++i) {
    EXPECT_NE(policy.decide(step.batch())->basis, DecisionBasis::kTried) << i;
    policy.observe(policy.model().price(other), {.total_ns = 1'000'000});
  }
}

TEST(GpuCuts, AreTheRulesAndThoseNearIt) {
  SplitMix64 random(11);
  for (int seed = 0; seed < 600; ++seed) {
    testing::Step step = testing::random_step(random);
    if (seed % 2 == 0) {
      for (std::int32_t& len : step.seq_lens) {
        len *= 40;  // as the GPU's steps are
      }
      step.make_table();
    }
    const GpuMachine machine(132);
    const GpuCuts cuts = gpu_cuts(step.batch(), machine, std::nullopt, 1.03);
    const PlanOptions rule = gpu_rule(step.batch(), machine);
    EXPECT_EQ(cuts.chosen.options.route, rule.route) << seed;
    EXPECT_EQ(cuts.chosen.options.splits, rule.splits) << seed;
    std::set<std::int64_t> tasks = {make_plan(step.batch(), rule)->counters().num_tasks};
    for (std::size_t i = 0; i < cuts.num_near; ++i) {
      const auto num_tasks = make_plan(step.batch(), cuts.near[i].options)->counters().num_tasks;
      // A window begins within a tile, of which the search does not know.
      EXPECT_TRUE(tasks.insert(num_tasks).second || step.shape.sliding_window_tokens) << seed;
    }
    EXPECT_EQ(gpu_cuts(step.batch(), machine, std::nullopt, 1.0).num_near, 0U);
  }
}

}  // namespace
}  // namespace pkv
