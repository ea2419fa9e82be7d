// Contest: plans of nearly one price, and which of them layers show to be the fastest on this device.
// Not here: prices, and which plans are near enough to take part (decision.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "persistentkv/batch.h"
#include "persistentkv/plan.h"

namespace pkv {

/// Prices are surer of a plan's size than of the order of plans that are nearly equal, and that order differs from one
/// device to the next of its kind (docs/decisions/0007). So one layer of a step runs another plan that is priced nearly
/// as low as the one that leads, and what is faster by more than the noise leads on. All plans are exact, so a trial
/// costs what planning and copying it costs the host and the part of a layer by which it is slower. Trials are as far
/// apart as it takes to keep that below kCost of all steps; a step has one at most. Deterministic for the same
/// measurements.
///
/// A plan is judged by the median of its last samples, as a multiple of its price. The noise is what the leader's steps
/// differ by from one to the next; it says how often each plan must be tried to tell half a percent, and above
/// kMaxNoise nothing is tried, nor without measurements. A trial that takes a tenth longer than it should was disturbed
/// (a kernel's first launch loads it) and is repeated, twice at most.
class Contest {
 public:
  static constexpr std::size_t kMaxPlans = 6;
  static constexpr double kCost = 0.002;
  static constexpr double kMaxNoise = 0.012;

  struct Contender {
    PlanOptions options;
    /// In any unit, the same for all of them and from one start() to the next.
    double price = 0.0;
  };

  /// The chosen one first, then others by price; at least one, at most kMaxPlans. What was learnt
  /// of plans cut alike (route, KV heads, splits within a tenth) in batches like this one (rows and tokens within a
  /// sixteenth) stays known, and the leader leads on unless another beats it by its price; else the chosen one leads.
  void start(std::span<const Contender> contenders, const BatchState& batch);
  /// No contenders.
  void stop();
  [[nodiscard]] bool is_on() const { return num_plans_ > 0; }

  /// Of the next step, whose plan is run by so many layers: the leader's plan, and the trial where it is time for one.
  /// Requires is_on().
  const PlanOptions& next(const BatchState& batch, std::int32_t num_layers);
  [[nodiscard]] const PlanOptions& leader() const { return plans_[leader_].options; }
  /// Null: no trial in this step.
  [[nodiscard]] const PlanOptions* trial() const { return has_trial_ ? &plans_[trial_].options : nullptr; }
  /// The trial of next() cannot run, or is the leader's plan by another name; it counts as what it should take.
  void drop_trial();

  /// What a layer of the step of next(), or of start(), took with the leader's plan and with the trial's. Of the former
  /// the last of the first three counts, as the first one may wait for the host. A trial is compared with the leader's
  /// layer right after it, which nothing but another run is ahead of, either. Requires ns > 0.
  void observe(double ns);
  void observe_trial(double ns);

  /// Whether another than the cheapest by price leads.
  [[nodiscard]] bool overrules() const { return leader_ != 0; }
  /// How much longer the chosen one should take than the leader, a fraction.
  [[nodiscard]] double lead() const;
  /// The leader's price when it was first planned since start(), for whoever plans it; 0 before.
  double& leader_price_ns() { return plans_[leader_].planned_ns; }

 private:
  static constexpr std::size_t kMaxKnown = 8;
  static constexpr std::size_t kSamples = 7;
  struct Entry {
    PlanOptions options;
    double price_per_token = 0.0;
    double planned_ns = 0.0;
    std::array<double, kSamples> ratios{};  // of its samples to its price, the last one first
    std::int32_t num_samples = 0;           // all of them, of which the last are kept
    std::int32_t num_odd = 0;
    // Of the batch of the last sample.
    std::int64_t num_rows = 0;
    std::int64_t num_tokens = 0;

    /// The median; requires a sample.
    [[nodiscard]] double ratio() const;
  };
  struct Sample {
    double ns_per_token = 0.0;
    std::int32_t num_layers = 0;
  };
  void keep_samples();
  void keep_trial(double ns_per_token, double of_leader);
  /// A sample of the step in progress.
  void add(Entry& entry, double ns_per_token) const;
  void keep_known(std::span<const Contender> contenders);
  void choose_trial(std::int32_t num_layers);
  /// What a token should take; of plans that have not run by the mean ratio of those that have.
  [[nodiscard]] double expected(const Entry& entry) const;
  [[nodiscard]] double mean_ratio() const;
  /// Whether it should be faster by more than the standard error of their difference.
  [[nodiscard]] bool beats(const Entry& entry, const Entry& other) const;
  void add_to_leader(double ns_per_token);

  std::array<Entry, kMaxPlans> plans_;
  std::array<Entry, kMaxKnown> known_;  // of plans that do not take part, the last ones first
  std::size_t num_plans_ = 0;
  std::size_t num_known_ = 0;
  std::size_t leader_ = 0;
  std::size_t trial_ = 0;
  bool has_trial_ = false;
  // Of the batch at start().
  std::int64_t num_rows_ = 0;
  std::int64_t num_tokens_ = 0;
  // Of the step in progress.
  std::int64_t step_tokens_ = 0;
  Sample sample_;
  double trial_ns_per_token_ = 0.0;        // 0: not measured
  double after_trial_ns_per_token_ = 0.0;  // of the leader's
  std::int32_t steps_since_trial_ = 0;     // measured ones
  // Relative, of one sample, and how many differences it was learnt from; also of the batches before.
  double noise_ = 0.0;
  std::int32_t num_differences_ = 0;
};

}  // namespace pkv
