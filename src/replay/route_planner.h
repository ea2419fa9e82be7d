// RoutePlanner: one participant's plans, step after step: a route's own, or whatever a policy chooses.
// Not here: execution (session.h), prices (persistentkv/price.h).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "persistentkv/decision.h"
#include "replay/options.h"
#include "report/records.h"

namespace pkv {

class RoutePlanner {
 public:
  /// What `split` and `workqueue` do when the user gives no splits.
  enum class SplitChoice : std::uint8_t {
    kByWorkers,  // as make_plan: a few tasks a worker
    kGpuRule,    // the best of the route by gpu_rule
    kCpuRule,    // `pages` follows cpu_rule, where the user gives neither splits nor heads a task
  };

  /// What all participants of a run have in common.
  struct Setting {
    std::int32_t num_workers = 1;
    GpuMachine gpu{1};  // what kGpuRule looks at
    SplitChoice split_choice = SplitChoice::kByWorkers;
    std::int32_t page_size = 16;
    /// External routes that a policy may choose: those that the backend runs.
    std::vector<Route> external = {};
    /// Of K and V: what cpu_rule looks at.
    KvLayout layout = {};
  };

  /// Without prices and policy.
  RoutePlanner(const RouteChoice& choice, const Setting& setting);

  /// A planner for one of options.routes. Errors: those of Policy::make; kInvalidArgument for a policy or prices
  /// without options.profile.
  static Result<RoutePlanner> make(const RouteChoice& choice, const RunOptions& options, const Setting& setting);

  /// Plans a step and fills in step, route, rows, counters, bytes, price and plan_ns. `begin_ns` is when
  /// validation of the batch began.
  Result<StepRecord> plan(const BatchState& batch, DType kv_dtype, std::int64_t step_idx, std::int64_t begin_ns);
  /// What the last plan took, and its trial. A policy that learns, learns from it.
  void observe(const StepRecord& measured);
  [[nodiscard]] const Plan& current() const { return plan_; }
  /// What one layer tries beside the last plan; null: nothing.
  [[nodiscard]] const Plan* trial() const { return trial_ ? &trial_->plan : nullptr; }
  /// Of the last plan; not set where nothing is priced.
  [[nodiscard]] const std::optional<Price>& price() const { return price_; }
  [[nodiscard]] bool is_policy() const { return policy_.has_value(); }

 private:
  [[nodiscard]] PlanOptions options_for(const BatchState& batch, DType kv_dtype) const;
  Status make_current(const BatchState& batch, DType kv_dtype);

  PlanOptions options_;
  GpuMachine gpu_;
  bool uses_gpu_rule_ = false;
  bool uses_cpu_rule_ = false;
  KvLayout layout_;
  std::optional<Policy> policy_;
  std::optional<PriceModel> model_;
  Plan plan_;
  std::optional<Price> price_;
  std::optional<Decision::Trial> trial_;
};

/// One planner a route of the options. Errors: those of RoutePlanner::make.
Result<std::vector<RoutePlanner>> make_planners(const RunOptions& options, const RoutePlanner::Setting& setting);

/// The model of a run's prices. Requires options.profile.
Result<PriceModel> make_price_model(const RunOptions& options, std::int32_t page_size);

}  // namespace pkv
