// Contest: plans of nearly one price, and which of them steps show to be the fastest on this device.
// Not here: prices, and which plans are near enough to take part (decision.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "persistentkv/batch.h"
#include "persistentkv/plan.h"

namespace pkv {

/// Prices are surer of a plan's size than of the order of plans that are nearly equal, and that order differs from one
/// device to the next of its kind (docs/decisions/0007). So while a batch lasts, each plan that is priced nearly as low
/// as the chosen one runs one step in its place, and what was fastest runs on. A batch that lasts 2 steps or less runs
/// no trial, at most one step in 3 is one, and without measurements there is none. Deterministic for the same
/// measurements.
///
/// A plan is judged by the better of its last two steps, as a multiple of its price: a step is disturbed at times,
/// never hastened. A trial that takes a tenth longer than it should was disturbed (a kernel's first launch loads it)
/// and is repeated, twice at most.
class Contest {
 public:
  static constexpr std::size_t kMaxPlans = 4;

  struct Contender {
    PlanOptions options;
    /// In any unit, the same for all of them and from one start() to the next.
    double price = 0.0;
  };

  /// The chosen one first, then others by price; at least one, at most kMaxPlans. For a batch like the last (an eighth
  /// of its rows and tokens more or less) what is known of plans cut alike (route, KV heads, splits within a tenth)
  /// stays known, and the plan that should be fastest by it leads; else the chosen one does.
  void start(std::span<const Contender> contenders, const BatchState& batch);
  /// No contenders.
  void stop();
  [[nodiscard]] bool is_on() const { return num_plans_ > 0; }

  /// The plan of the next step: the leader, or one that has not run yet in its place. Requires is_on().
  const PlanOptions& next(const BatchState& batch);
  /// What a layer of the step of next(), or of start(), took, with its part of planning; of several layers the fastest
  /// counts. Requires ns > 0.
  void observe(double ns);

  /// Of the plan that runs; requires is_on().
  [[nodiscard]] const PlanOptions& running() const { return plans_[running_].options; }
  [[nodiscard]] bool is_trial() const { return running_ != leader_; }
  /// Whether another than the cheapest by price leads.
  [[nodiscard]] bool overrules() const { return leader_ != 0; }
  /// How much longer the chosen one should take than the leader, a fraction.
  [[nodiscard]] double lead() const;
  /// Its price when it was first planned since start(), for whoever plans it; 0 before.
  double& running_price_ns() { return plans_[running_].planned_ns; }

 private:
  static constexpr std::size_t kMaxKnown = 8;
  struct Entry {
    PlanOptions options;
    double price_per_token = 0.0;
    double planned_ns = 0.0;
    std::array<double, 2> ratios{};  // of its steps to its price, the last one first
    std::int32_t num_steps = 0;
    std::int32_t num_odd = 0;

    /// The better of the last two; requires a step.
    [[nodiscard]] double ratio() const;
  };
  void keep_sample();
  void keep_known(std::span<const Contender> contenders);
  /// What a token should take; of plans that have not run by the mean ratio of those that have.
  [[nodiscard]] double expected(const Entry& entry) const;
  [[nodiscard]] double mean_ratio() const;
  [[nodiscard]] std::size_t fastest(bool measured_only) const;

  std::array<Entry, kMaxPlans> plans_;
  std::array<Entry, kMaxKnown> known_;  // of plans that do not take part, the last ones first
  std::size_t num_plans_ = 0;
  std::size_t num_known_ = 0;
  std::size_t leader_ = 0;
  std::size_t running_ = 0;
  // Of the batch at start().
  std::int64_t num_rows_ = 0;
  std::int64_t num_tokens_ = 0;
  // Of the step in progress.
  std::int64_t step_tokens_ = 0;
  double sample_ = 0.0;  // ns a token; 0: not measured
  std::int32_t steps_since_trial_ = 0;
};

}  // namespace pkv
