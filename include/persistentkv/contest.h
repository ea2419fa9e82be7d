// Contest: plans of nearly one price, and which of them layers show to be the fastest on this device.
// Not here: prices, and which plans are near enough to take part (decision.h).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "persistentkv/batch.h"
#include "persistentkv/plan.h"

namespace pkv {

/// Prices are surer of a plan's size than of the order of plans that are nearly equal, and that order differs from one
/// device to the next of its kind (docs/decisions/0007). So one layer of a step tries a plan that is priced nearly as
/// low as the chosen one and is compared with the layer after it, and a plan that is faster by more than the noise
/// takes the lead: the other layers run it from the next step on. All plans are exact, so a trial costs what planning
/// and copying it costs the host and the part of a layer by which it is slower. Trials are as far apart as keeps that
/// below kCost of all steps; a step has one at most. Deterministic for the same measurements.
///
/// The noise is what the leader's steps differ by from one to the next, as multiples of their price. It says how often
/// each plan is tried, to tell half a percent; above kMaxNoise nothing is tried, nor after a step that nobody measured.
/// A trial a tenth slower or faster than it should be was disturbed, or the layer after it was (a kernel's first launch
/// loads it); it is repeated, twice at most.
class Contest {
 public:
  static constexpr std::size_t kMaxPlans = 6;
  static constexpr double kCost = 0.002;
  static constexpr double kMaxNoise = 0.012;
  /// Of a step: one ahead of the trial, the trial, one after it.
  static constexpr std::int32_t kMinLayers = 3;

  struct Contender {
    PlanOptions options;
    /// In any unit, the same for all of them and from one start() to the next. Above 0.
    double price = 0.0;
  };

  /// The chosen one first, then others by price; at least one, at most kMaxPlans. What was learnt of plans cut alike
  /// (route, KV heads, splits within a tenth) in batches like this one (rows and tokens within a sixteenth) stays
  /// known, and their leader keeps the lead unless by it the chosen one should be faster or another is; else the chosen
  /// one leads.
  void start(std::span<const Contender> contenders, const BatchState& batch);
  /// No contenders, nothing known but the noise.
  void stop();
  [[nodiscard]] bool is_on() const { return num_plans_ > 0; }

  /// Ends the step before and gives the lead to what it has shown to be faster. Requires is_on().
  const PlanOptions& choose_leader();
  [[nodiscard]] const PlanOptions& leader() const { return plans_[leader_].options; }
  /// Begins a step, whose plan is the leader's and is run by so many layers, and chooses its trial, where it is time
  /// for one. Requires is_on().
  void begin_step(const BatchState& batch, std::int32_t num_layers);
  /// Null: no trial in this step.
  [[nodiscard]] const PlanOptions* trial() const { return has_trial_ ? &plans_[trial_].options : nullptr; }
  /// The trial of this step cannot run; it is not tried again in batches like this one.
  void drop_trial();

  /// What a layer of the step took with the leader's plan; of several layers the last of the first three
  /// counts, as the first may wait for the host. Requires ns > 0.
  void observe(double ns);
  /// What the trial's layer took, and the leader's right after it. Requires both above 0.
  void observe_trial(double ns, double leader_ns);

  /// Whether another than the chosen one leads.
  [[nodiscard]] bool overrules() const { return leader_ != 0; }
  /// How much longer the chosen one should take than the leader, a fraction, at least 0.
  [[nodiscard]] double lead() const;

 private:
  static constexpr std::size_t kMaxKnown = 8;
  static constexpr std::size_t kSamples = 7;
  struct Entry {
    PlanOptions options;
    double price = 0.0;
    // Time to price, in terms of the first leader's: the last samples, the newest first, and their median.
    std::array<double, kSamples> samples{};
    std::int32_t num_samples = 0;  // all of them, of which the last are kept
    double handicap = 1.0;
    std::int32_t num_odd = 0;  // disturbed trials
    std::int32_t num_not_run = 0;
    // Of the batch of the last sample.
    std::int64_t num_rows = 0;
    std::int64_t num_tokens = 0;

    [[nodiscard]] std::size_t kept() const { return std::min(kSamples, static_cast<std::size_t>(num_samples)); }
    [[nodiscard]] double expected() const { return price * handicap; }
  };
  struct Sample {
    double ns = 0.0;
    std::int32_t num_layers = 0;
  };
  /// Of entries, the one cut most nearly as `options`; end: none alike.
  static Entry* find_alike(Entry* begin, Entry* end, const PlanOptions& options);
  void keep_sample();
  void keep_known(std::span<const Contender> contenders);
  void choose_trial(std::int32_t num_layers);
  void add_sample(Entry& entry, double handicap) const;
  void count_not_run(std::int32_t times);
  /// Whether it should be faster than the leader by more than the noise of its samples.
  [[nodiscard]] bool beats_leader(const Entry& entry) const;

  std::array<Entry, kMaxPlans> plans_;
  std::array<Entry, kMaxKnown> known_;  // of plans that do not take part, the last ones first
  std::size_t num_plans_ = 0;
  std::size_t num_known_ = 0;
  std::size_t leader_ = 0;
  std::size_t trial_ = 0;
  bool has_trial_ = false;
  // Of the batch at start(), and the tokens of the step in progress.
  std::int64_t num_rows_ = 0;
  std::int64_t num_tokens_ = 0;
  std::int64_t step_tokens_ = 0;
  bool in_step_ = false;                // since begin_step()
  Sample sample_;                       // of the step in progress
  double layer_ns_ = 0.0;               // of the last step; 0: nobody measured it
  std::int32_t steps_since_trial_ = 0;  // measured ones
  // Relative, of one sample, from so many differences of two; kept from batch to batch.
  double noise_ = 0.0;
  std::int32_t num_differences_ = 0;
  double leader_ratio_ = 0.0;  // of the leader's last step to its price a token; 0: of none
};

}  // namespace pkv
