// Which plan runs when several are nearly equal: how often another is tried, and what decides.
#include "persistentkv/contest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "cost/gpu_kernels.h"
#include "unit/cost/policy_fixture.h"

namespace pkv {
namespace {

using ::testing::HasSubstr;

/// All of one price.
std::vector<Contest::Contender> counts(std::initializer_list<std::int32_t> splits, double price = 100.0) {
  std::vector<Contest::Contender> plans;
  for (const std::int32_t it : splits) {
    plans.push_back({.options = {.route = Route::kWorkqueue, .splits = it}, .price = price});
  }
  return plans;
}

const PlanOptions& next(Contest& contest, const BatchState& batch, std::int32_t layers) {
  contest.choose_leader();
  contest.begin_step(batch, layers);
  return contest.leader();
}

/// What a layer takes, by splits and step; 0: not measured.
using LayerNs = std::function<double(std::int32_t, int)>;
constexpr std::int32_t kLayers = 32;

struct Ran {
  std::vector<std::int32_t> leaders;
  std::vector<std::int32_t> trials;  // 0: none in this step

  [[nodiscard]] auto num_trials() const {
    return std::ranges::count_if(trials, [](std::int32_t it) { return it > 0; });
  }
};

/// Splits of the plans that run, step by step.
Ran run(Contest& contest, const BatchState& batch, int steps, const LayerNs& ns, std::int32_t layers = kLayers) {
  Ran ran;
  for (int step = 0; step < steps; ++step) {
    ran.leaders.push_back(*next(contest, batch, layers).splits);
    ran.trials.push_back(contest.trial() == nullptr ? 0 : *contest.trial()->splits);
    const double took = ns(ran.leaders.back(), step);
    if (took > 0.0) {
      contest.observe(took);
    }
    if (ran.trials.back() > 0 && took > 0.0) {
      contest.observe_trial(ns(ran.trials.back(), step), took);
    }
  }
  return ran;
}

/// Of steps of which each is measured by measure(step).
int count_trials(Contest& contest, const BatchState& batch, int steps, const std::function<void(int)>& measure) {
  int trials = 0;
  for (int step = 0; step < steps; ++step) {
    next(contest, batch, kLayers);
    trials += contest.trial() != nullptr ? 1 : 0;
    measure(step);
  }
  return trials;
}

using Splits = std::vector<std::int32_t>;

TEST(Contest, OneLayerTriesEachPlan_TheFastestLeads) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22, 31}), step.batch());
  EXPECT_FALSE(contest.overrules());
  const Ran ran =
      run(contest, step.batch(), 14, [](std::int32_t splits, int) { return splits == 22 ? 980e3 : 1000e3; });
  EXPECT_EQ(ran.leaders, (Splits{16, 16, 16, 16, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22}));
  EXPECT_EQ(ran.trials, (Splits{0, 0, 0, 22, 31, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_TRUE(contest.overrules());
  EXPECT_NEAR(contest.lead(), 100.0 / 98.0 - 1.0, 1e-9);
}

// Of two equal plans each is tried some times where layers differ by 0.8% from step to step, what is clearly slower
// once; that never leads.
TEST(Contest, NoiseSaysHowOften) {
  const testing::Step step = step_of({50000, 4000});
  std::int64_t trials_of_equal = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SplitMix64 random(seed);
    Contest contest;
    contest.start(counts({16, 22, 31}), step.batch());
    const Ran ran = run(contest, step.batch(), 30, [&](std::int32_t splits, int) {
      return (splits == 31 ? 1060e3 : 1000e3) * (1.0 + 0.008 * random.normal());
    });
    EXPECT_EQ(std::ranges::count(ran.leaders, 31), 0) << seed;
    EXPECT_LE(std::ranges::count(ran.trials, 31), 1) << seed;
    trials_of_equal += ran.num_trials() - std::ranges::count(ran.trials, 31);
  }
  EXPECT_GE(trials_of_equal, 2 * 20);
}

TEST(Contest, TooMuchNoise_NothingIsTried) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22, 31}), step.batch());
  const Ran ran =
      run(contest, step.batch(), 50, [](std::int32_t, int i) { return 1000e3 * (i % 2 == 0 ? 1.02 : 0.98); });
  EXPECT_EQ(ran.num_trials(), 0);
}

TEST(Contest, NobodyMeasures_NothingIsTried) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22, 31}), step.batch());
  const Ran ran = run(contest, step.batch(), 9, [](std::int32_t, int) { return 0.0; });
  EXPECT_EQ(ran.leaders, Splits(9, 16));
  EXPECT_EQ(ran.num_trials(), 0);
  EXPECT_EQ(contest.lead(), 0.0);
}

// Who measures only the decision's plan is asked three times for each of the others.
TEST(Contest, TrialsThatNobodyRuns_End) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  EXPECT_EQ(count_trials(contest, step.batch(), 300, [&](int) { contest.observe(1000e3); }), 3);
  EXPECT_FALSE(contest.overrules());
}

// An engine that measures at first and then replays graphs: no plan is made for nothing.
TEST(Contest, AfterStepsThatNobodyMeasured_NothingIsTried) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22, 31, 47}), step.batch());
  run(contest, step.batch(), 4, [](std::int32_t, int) { return 1000e3; });
  next(contest, step.batch(), kLayers);
  for (int i = 0; i < 50; ++i) {
    next(contest, step.batch(), kLayers);
    EXPECT_EQ(contest.trial(), nullptr) << i;
  }
}

TEST(Contest, ATrialThatCannotRun_IsNotTriedAgain) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  const int trials = count_trials(contest, step.batch(), 300, [&](int) {
    contest.drop_trial();
    contest.observe(1000e3);
  });
  EXPECT_EQ(trials, 1);
}

// What a trial costs the host is 0.2% of all steps at most: of short layers and of few they are rare.
TEST(Contest, ShortLayersAndFew_TryRarely_OneNever) {
  const testing::Step step = step_of({50000, 4000});
  const auto trials = [&](std::int32_t layers, double ns) {
    Contest contest;
    contest.start(counts({16, 22, 31, 47}), step.batch());
    return run(
               contest, step.batch(), 40, [&](std::int32_t, int) { return ns; }, layers)
        .num_trials();
  };
  EXPECT_EQ(trials(1, 1e6), 0);
  EXPECT_EQ(trials(2, 1e6), 0);
  EXPECT_EQ(trials(32, 1e6), 3);
  EXPECT_EQ(trials(32, 20e3), 2);
  EXPECT_EQ(trials(4, 200e3), 2);
}

TEST(Contest, ADisturbedLayer_ChangesNothingForLong) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  const Ran ran = run(contest, step.batch(), 40, [](std::int32_t splits, int i) {
    return splits == 16 ? (i % 7 == 4 ? 3000e3 : 1000e3) : (i % 5 == 3 ? 3030e3 : 1010e3);
  });
  EXPECT_GE(std::ranges::count(ran.leaders, 16), 38);
}

// All become slower.
TEST(Contest, AChangeOfTheMachine_IsNotTakenForThePlans) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22, 31}), step.batch());
  const Ran ran = run(contest, step.batch(), 60, [](std::int32_t splits, int i) {
    return (splits == 22 ? 980e3 : 1000e3) * (i < 20 ? 1.0 : 1.3);
  });
  EXPECT_EQ(std::count(ran.leaders.begin() + 5, ran.leaders.end(), 22), 55);
}

// Which is the fastest changes: seen by a trial once in a while.
TEST(Contest, APlanThatBecomesFaster_IsFoundInTheEnd) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  const Ran ran = run(contest, step.batch(), 200,
                      [](std::int32_t splits, int i) { return splits == 22 && i > 30 ? 950e3 : 1000e3; });
  EXPECT_EQ(ran.leaders.back(), 22);
  EXPECT_LE(ran.num_trials(), 6);
}

// The noise is that of the third layer: the first waits for the host at times, here in every other step.
TEST(Contest, OfManyLayers_TheThirdCounts) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  const int trials = count_trials(contest, step.batch(), 8, [&](int i) {
    for (int layer = 0; layer < kLayers; ++layer) {
      contest.observe(layer < 2 && i % 2 == 0 ? 1300e3 : 1000e3 + (layer > 2 ? 1e5 * i : 0.0));
    }
  });
  EXPECT_GT(trials, 0);
}

// All layers of the step are slow, that of the trial less so: compared with its neighbour it is faster.
TEST(Contest, ATrialIsComparedWithTheLayerBesideIt) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  for (int i = 0; i < 6 && !contest.overrules(); ++i) {
    next(contest, step.batch(), kLayers);
    contest.observe(1000e3);
    if (contest.trial() != nullptr) {
      const bool is_22 = contest.trial()->splits == 22;
      contest.observe_trial(is_22 ? 1270e3 : 1300e3, is_22 ? 1300e3 : 1270e3);
    }
  }
  next(contest, step.batch(), kLayers);
  EXPECT_TRUE(contest.overrules());
  EXPECT_NEAR(contest.lead(), 130.0 / 127.0 - 1.0, 1e-9);
}

// Of a batch with a row less and other lengths, plans cut nearly alike: the one that was faster still is.
TEST(Contest, ALikeBatch_KeepsWhatIsKnown) {
  const testing::Step step = step_of(Splits(16, 4000));
  const LayerNs faster_with_many = [](std::int32_t splits, int) { return splits > 20 ? 980e3 : 1000e3; };
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  run(contest, step.batch(), 9, faster_with_many);
  const testing::Step less = step_of(Splits(15, 4150));
  contest.start(counts({17, 23}), less.batch());
  EXPECT_TRUE(contest.overrules());
  EXPECT_EQ(run(contest, less.batch(), 6, faster_with_many).leaders, Splits(6, 23));
}

TEST(Contest, AnotherBatch_Forgets) {
  const testing::Step step = step_of(Splits(16, 4000));
  for (const auto& [rows, len] : {std::pair{16, 4300}, std::pair{14, 4500}}) {
    Contest contest;
    contest.start(counts({16, 22}), step.batch());
    run(contest, step.batch(), 9, [](std::int32_t splits, int) { return splits > 20 ? 980e3 : 1000e3; });
    contest.start(counts({16, 22}), step_of(Splits(static_cast<std::size_t>(rows), len)).batch());
    EXPECT_FALSE(contest.overrules()) << rows;
    EXPECT_EQ(contest.leader().splits, 16);
  }
}

// 3% below its price in one batch, 2% above the cheapest by price in the next: it should still be the faster.
TEST(Contest, WhatIsKnown_IsWeighedAgainstThePrice) {
  const testing::Step step = step_of({50000, 4000});
  for (const double dearer : {1.02, 1.05}) {
    Contest contest;
    contest.start(counts({16, 22}), step.batch());
    run(contest, step.batch(), 9, [](std::int32_t splits, int) { return splits == 22 ? 970e3 : 1000e3; });
    auto plans = counts({16, 22});
    plans[1].price *= dearer;
    contest.start(plans, step.batch());
    EXPECT_EQ(contest.overrules(), dearer == 1.02);
  }
}

TEST(Contest, APlanThatWasNotNearForAWhile_IsKnown) {
  const testing::Step step = step_of({50000, 4000});
  const LayerNs alike = [](std::int32_t, int) { return 1000e3; };
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  run(contest, step.batch(), 9, alike);
  contest.start(counts({16, 31}), step.batch());
  run(contest, step.batch(), 9, alike);
  contest.start(counts({16, 22}), step.batch());
  EXPECT_EQ(run(contest, step.batch(), 9, alike).num_trials(), 0);
}

TEST(Contest, LeaderThatIsNoLongerNear_LeavesTheChosenOne) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  run(contest, step.batch(), 9, [](std::int32_t splits, int) { return splits == 22 ? 980e3 : 1000e3; });
  contest.start(counts({16, 40}), step.batch());
  EXPECT_EQ(contest.leader().splits, 16);
  EXPECT_EQ(contest.lead(), 0.0);
}

// Its kernel's first launch takes three times as long, or the layer beside it does.
TEST(Contest, ATrialThatIsFarOff_IsRepeated) {
  const testing::Step step = step_of({50000, 4000});
  for (const double far : {3.0, 1.0 / 3.0}) {
    Contest contest;
    contest.start(counts({16, 22}), step.batch());
    bool disturbed = false;
    const Ran ran = run(contest, step.batch(), 8, [&](std::int32_t splits, int) {
      if (splits == 16) return 1000e3;
      return std::exchange(disturbed, true) ? 980e3 : far * 1000e3;
    });
    EXPECT_EQ(ran.leaders, (Splits{16, 16, 16, 16, 16, 22, 22, 22})) << far;
  }
  Contest slow;
  slow.start(counts({16, 22}), step.batch());
  const LayerNs slow_with_22 = [](std::int32_t splits, int) { return splits == 16 ? 1e6 : 3e6; };
  EXPECT_EQ(run(slow, step.batch(), 40, slow_with_22).num_trials(), 3);
}

// Two contenders may be cut nearly alike: each keeps what it has shown itself.
TEST(Contest, OfPlansCutAlike_TheNearestIsMeant) {
  const testing::Step step = step_of({50000, 4000});
  const LayerNs faster_with_20 = [](std::int32_t splits, int) { return splits == 20 ? 980e3 : 1000e3; };
  for (const auto& order : {std::array{30, 19, 20}, std::array{30, 20, 19}}) {
    Contest contest;
    contest.start(counts({30, 19, 20}), step.batch());
    run(contest, step.batch(), 9, faster_with_20);
    EXPECT_EQ(contest.leader().splits, 20);
    contest.start(counts({order[0], order[1], order[2]}), step.batch());
    EXPECT_EQ(contest.leader().splits, 20);
  }
}

// 16 leads untried; what it was compared with and beat does not take its lead for being the cheapest in the next batch.
TEST(Contest, AFirstLeader_KeepsWhatItHasWon) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  run(contest, step.batch(), 9, [](std::int32_t splits, int) { return splits == 22 ? 1030e3 : 1000e3; });
  auto plans = counts({22, 16});
  plans[1].price *= 1.005;
  contest.start(plans, step.batch());
  EXPECT_EQ(contest.leader().splits, 16);
  EXPECT_NEAR(contest.lead(), 1.03 / 1.005 - 1.0, 1e-9);
}

// What 20 has shown is not taken for 19's, which has shown nothing of its own.
TEST(Contest, OfPlansCutAlike_EachKeepsItsOwn) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({19, 20}), step.batch());
  run(contest, step.batch(), 9, [](std::int32_t splits, int) { return splits == 20 ? 1030e3 : 1000e3; });
  auto plans = counts({19, 20, 30});
  plans[2].price *= 1.02;
  contest.start(plans, step.batch());
  EXPECT_EQ(contest.leader().splits, 19);
  EXPECT_EQ(contest.lead(), 0.0);
}

// A decision that was begun and then made anew: nothing is counted as not run.
TEST(Contest, ALeaderChosenTwice_IsOneStep) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  int trials = 0;
  for (int i = 0; i < 30 && !contest.overrules(); ++i) {
    contest.choose_leader();
    contest.start(counts({16, 22}), step.batch());
    contest.begin_step(step.batch(), kLayers);
    contest.observe(1000e3);
    if (contest.trial() != nullptr) {
      ++trials;
      contest.observe_trial(980e3, 1000e3);
    }
  }
  EXPECT_EQ(trials, 1);
}

// Nobody has tried it: a price alone does not make it the fastest measured.
TEST(Contest, AnUntriedPlan_LeadsOnlyAsTheCheapest) {
  const testing::Step step = step_of({50000, 4000});
  Contest contest;
  contest.start(counts({16, 22}), step.batch());
  run(contest, step.batch(), 9, [](std::int32_t splits, int) { return splits == 22 ? 1010e3 : 1000e3; });
  auto plans = counts({22, 31, 16});
  plans[2].price *= 1.03;
  contest.start(plans, step.batch());
  EXPECT_EQ(contest.leader().splits, 22);
}

constexpr std::int32_t kModelLayers = 32;

Policy learning_policy(std::int32_t layers = kModelLayers) {
  return Policy::make(shipped("h100"), {.num_layers = layers}, {.learning = Learning::kOn}).value();
}

/// A GPU whose plans take `factor` of what the profile says.
std::vector<Decision> decide_on(Policy& policy, int steps, std::vector<std::int32_t> lens,
                                const std::function<double(const Plan&)>& factor) {
  const PriceModel truth = model_of(shipped("h100"));
  const auto times = [&](const Plan& plan) {
    return RunTimes{.total_ns = std::llround(truth.price(plan).device_ns * factor(plan))};
  };
  std::vector<Decision> decisions;
  for (int i = 0; i < steps; ++i) {
    const testing::Step step = step_of(lens);
    decisions.push_back(policy.decide(step.batch()).value());
    const Decision& decision = decisions.back();
    policy.observe(decision.price, times(decision.plan));
    if (decision.trial) {
      policy.observe_trial(times(decision.trial->plan), times(decision.plan));
    }
    for (std::int32_t& len : lens) {
      ++len;
    }
  }
  return decisions;
}

auto num_trials(const std::vector<Decision>& decisions) {
  return std::ranges::count_if(decisions, [](const Decision& it) { return it.trial.has_value(); });
}

const std::vector<std::int32_t> kRagged = {54000, 31000, 24000, 17000, 14000, 9000, 6000, 3000};

TEST(PolicyContest, APlanThatIsFasterThanItsPrice_IsFound) {
  Policy fixed = Policy::make(shipped("h100"), {.num_layers = kModelLayers}, {}).value();
  const std::int32_t usual = fixed.decide(step_of(kRagged).batch())->plan.max_splits();
  Policy policy = learning_policy();
  const auto decisions =
      decide_on(policy, 24, kRagged, [&](const Plan& plan) { return plan.max_splits() == usual ? 1.02 : 0.97; });
  EXPECT_EQ(decisions[0].plan.max_splits(), usual);
  EXPECT_EQ(decisions[0].basis, DecisionBasis::kCheapest);
  const auto first = std::ranges::find_if(decisions, [](const Decision& it) { return it.trial.has_value(); });
  ASSERT_NE(first, decisions.end());
  EXPECT_NE(first->trial->plan.max_splits(), usual);
  EXPECT_THAT(first->reason(), HasSubstr("one layer tries"));
  const Decision& last = decisions.back();
  EXPECT_NE(last.plan.max_splits(), usual);
  EXPECT_EQ(last.basis, DecisionBasis::kMeasured);
  EXPECT_GT(last.basis_figure, 0.01);
  EXPECT_THAT(last.reason(), HasSubstr("fastest measured"));
  EXPECT_EQ(last.candidates.front().max_splits, last.plan.max_splits());
}

TEST(PolicyContest, PricesThatAreTrue_AreFollowed) {
  Policy policy = learning_policy();
  const auto decisions = decide_on(policy, 24, kRagged, [](const Plan&) { return 1.0; });
  EXPECT_GE(num_trials(decisions), 1);
  EXPECT_LE(num_trials(decisions), 10);
  const PriceModel model = model_of(shipped("h100"));
  for (const Decision& decision : decisions) {
    EXPECT_LE(model.price(decision.plan).device_ns, 1.005 * model.price(decisions[0].plan).device_ns);
    if (decision.trial) {
      EXPECT_LE(decision.trial->price.device_ns, 1.035 * decision.price.device_ns);
    }
  }
}

TEST(PolicyContest, WithoutLearning_OrLayers_NothingIsTried) {
  Policy policy = policy_of(shipped("h100"));
  Policy of_one_layer = learning_policy(1);
  for (Policy* it : {&policy, &of_one_layer}) {
    EXPECT_EQ(num_trials(decide_on(*it, 24, kRagged, [](const Plan&) { return 1.0; })), 0);
  }
}

/// A GPU on which plans take up to a few percent more or less than their price, each its own, and layers differ by
/// `noise` beside. What one layer takes of all steps of a batch that changes every so many steps, trials at a 32nd of a
/// layer and of 15 us of the host.
double layers_ns(Learning learning, std::uint64_t seed, double noise, int steps_a_batch) {
  const PriceModel truth = model_of(shipped("h100"));
  Policy policy = Policy::make(shipped("h100"), {.num_layers = kModelLayers}, {.learning = learning}).value();
  const auto clean_ns = [&](const Plan& plan) {
    const double cut = std::round(std::log(plan.max_splits()) / std::log(1.12));  // splits within a tenth
    SplitMix64 own(seed * 1000 + static_cast<std::uint64_t>(cut) * 7 + static_cast<std::uint64_t>(plan.route()));
    own();
    return truth.price(plan).device_ns * (1.0 + 0.012 * own.normal());
  };
  SplitMix64 random(seed);
  SplitMix64 disturbance(seed + 1000);
  const auto measured = [&](const Plan& plan) {
    return RunTimes{.total_ns = std::llround(clean_ns(plan) * (1.0 + noise * disturbance.normal()))};
  };
  const auto draw_len = [&] {
    return static_cast<std::int32_t>(random.below(4) == 0 ? 24576 + random.below(40000) : 2048 + random.below(10000));
  };
  std::vector<std::int32_t> lens(8);
  std::ranges::generate(lens, draw_len);
  double sum_ns = 0.0;
  for (int i = 0; i < 100; ++i) {
    const testing::Step step = step_of(lens);
    const Decision decision = policy.decide(step.batch()).value();
    policy.observe(decision.price, measured(decision.plan));
    sum_ns += clean_ns(decision.plan);
    if (decision.trial) {
      policy.observe_trial(measured(decision.trial->plan), measured(decision.plan));
      sum_ns += (clean_ns(decision.trial->plan) - clean_ns(decision.plan) + 15000.0) / kModelLayers;
    }
    for (std::int32_t& len : lens) {
      ++len;
    }
    if (i % steps_a_batch == steps_a_batch - 1) {
      lens[random.below(lens.size())] = draw_len();
    }
  }
  return sum_ns;
}

TEST(PolicyContest, PaysWherePlansAreNotAsPriced) {
  const auto share = [](double noise, int steps_a_batch) {
    double with_ns = 0.0;
    double without_ns = 0.0;
    for (std::uint64_t seed = 1; seed <= 12; ++seed) {
      with_ns += layers_ns(Learning::kOn, seed, noise, steps_a_batch);
      without_ns += layers_ns(Learning::kOff, seed, noise, steps_a_batch);
    }
    return with_ns / without_ns;
  };
  EXPECT_LT(share(0.002, 100), 0.997);  // a batch that lasts
  EXPECT_LT(share(0.005, 25), 0.999);
  EXPECT_LT(share(0.010, 25), 1.001);
  EXPECT_LT(share(0.002, 3), 1.002);  // one that does not
}

// A caller's own plan, measured between two decisions, says nothing of theirs.
TEST(PolicyContest, AnotherPlansTime_IsNotTakenForTheDecisions) {
  Policy policy = learning_policy();
  const testing::Step step = step_of(kRagged);
  const Plan other = make_plan(step.batch(), {.route = Route::kRow}).value();
  for (int i = 0; i < 12; ++i) {
    EXPECT_FALSE(policy.decide(step.batch())->trial.has_value()) << i;
    policy.observe(policy.model().price(other), {.total_ns = 1'000'000});
  }
}

TEST(GpuCuts, AreTheRulesAndThoseNearIt) {
  SplitMix64 random(11);
  std::size_t all_near = 0;
  for (int i = 0; i < 600; ++i) {
    testing::Step step = testing::random_step(random);
    if (i % 2 == 0) {
      for (std::int32_t& len : step.seq_lens) {
        len *= 40;  // as the GPU's steps are
      }
      step.make_table();
    }
    const GpuMachine machine(132);
    const GpuCuts cuts = gpu_cuts(step.batch(), machine, std::nullopt, 1.03);
    const PlanOptions rule = gpu_rule(step.batch(), machine);
    EXPECT_EQ(cuts.chosen.options.route, rule.route) << i;
    EXPECT_EQ(cuts.chosen.options.splits, rule.splits) << i;
    EXPECT_EQ(gpu_cuts(step.batch(), machine, std::nullopt, 1.0).num_near, 0U);
    std::vector<std::int32_t> num_tasks = {make_plan(step.batch(), rule)->counters().num_tasks};
    double last_us = 0.0;
    for (const GpuCuts::Cut& cut : std::span(cuts.near).first(cuts.num_near)) {
      EXPECT_LE(cut.us, 1.03 * cuts.chosen.us) << i;
      EXPECT_GE(cut.us, last_us) << i;
      last_us = cut.us;
      const std::int32_t tasks = make_plan(step.batch(), cut.options)->counters().num_tasks;
      if (!step.shape.sliding_window_tokens) {  // which begin within a tile, of which the search does not know
        for (const std::int32_t other : num_tasks) {
          EXPECT_GE(10 * std::abs(tasks - other), std::max(tasks, other)) << i;
        }
      }
      num_tasks.push_back(tasks);
    }
    all_near += cuts.num_near;
  }
  EXPECT_GT(all_near, 100U);
}

}  // namespace
}  // namespace pkv
