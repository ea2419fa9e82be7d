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
/// as the chosen one runs one step in its place, and what was fastest runs on. A batch that lasts 3 steps or less
/// always runs the cheapest by price, no two trials are in 3 steps that follow each other, and without measurements
/// there is none. Deterministic for the same measurements.
///
/// A plan is judged by the better of its last two steps, in ns a token: a step is disturbed at times, never hastened.
class Contest {
 public:
  static constexpr std::size_t kMaxPlans = 4;

  /// `plans`: the chosen one first, then others by price; at most kMaxPlans. For a batch like the last (as many rows,
  /// and 1/kOtherPart of its tokens more or less) what is known of plans cut alike (route, KV heads, splits within a
  /// tenth) stays known, and the fastest of them is the leader; else the chosen one is.
  void start(std::span<const PlanOptions> plans, const BatchState& batch);
  /// No plans.
  void stop() { num_plans_ = 0; }
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
  /// How much longer the chosen one took than the leader, a fraction; 0 where one of them was not measured.
  [[nodiscard]] double lead() const;
  /// Its price when it was first planned since start(), for whoever plans it; 0 before.
  double& running_price_ns() { return plans_[running_].price_ns; }

 private:
  static constexpr std::int64_t kOtherPart = 64;
  struct Entry {
    PlanOptions options;
    double price_ns = 0.0;
    std::array<double, 2> ns_per_token{};  // the last first
    std::int32_t num_steps = 0;

    [[nodiscard]] double best() const;
  };
  void keep_sample();
  [[nodiscard]] std::size_t fastest() const;

  std::array<Entry, kMaxPlans> plans_;
  std::size_t num_plans_ = 0;
  std::size_t leader_ = 0;
  std::size_t running_ = 0;
  std::int32_t num_rows_ = 0;
  std::int64_t tokens_ = 0;     // of the step in progress
  double sample_ = 0.0;         // of the step in progress, ns a token; 0: not measured
  std::int64_t num_steps_ = 0;  // measured ones
  std::int64_t num_trials_ = 0;
};

}  // namespace pkv
