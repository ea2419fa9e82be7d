// A plan by route, by the GPU rule or by a policy, and its record.
#include "replay/route_planner.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "persistentkv/layout.h"

namespace pkv {
namespace {

PriceInputs inputs_of(const RunOptions& options, std::int32_t page_size) {
  return {.shape = options.shape,
          .kv_dtype = options.kv_dtype,
          .order = options.order,
          .page_size = page_size,
          .num_layers = options.num_layers};
}

}  // namespace

Result<PriceModel> make_price_model(const RunOptions& options, std::int32_t page_size) {
  return PriceModel::make(*options.profile, inputs_of(options, page_size));
}

RoutePlanner::RoutePlanner(const RouteChoice& choice, const Setting& setting)
    : gpu_(setting.gpu),
      uses_gpu_rule_(setting.split_choice == SplitChoice::kGpuRule &&
                     (choice.route == Route::kSplit || choice.route == Route::kWorkqueue) && !choice.splits),
      uses_cpu_rule_(setting.split_choice == SplitChoice::kCpuRule && choice.route == Route::kPages && !choice.splits &&
                     !choice.kv_heads_per_task),
      layout_(setting.layout) {
  options_.route = choice.route;
  options_.splits = choice.splits;
  options_.kv_heads_per_task = choice.kv_heads_per_task;
  options_.merge = choice.merge;
  options_.num_workers = setting.num_workers;
}

Result<RoutePlanner> RoutePlanner::make(const RouteChoice& choice, const RunOptions& options, const Setting& setting) {
  RoutePlanner planner(choice, setting);
  if (!options.profile) {
    if (choice.policy) {
      return Error{ErrorCode::kInvalidArgument, "is not set; a policy needs prices", "profile"};
    }
    return planner;
  }
  if (!choice.policy) {
    auto model = make_price_model(options, setting.page_size);
    if (!model.ok()) {
      return model.error();
    }
    if (model->prices(choice.route)) {
      planner.model_ = *std::move(model);
    }
    return planner;
  }
  PolicyOptions policy_options{.kind = *choice.policy, .learning = options.learning};
  for (const Route route : setting.external) {
    const auto& known = options.profile->external;
    if (std::ranges::find(known, route, &ExternalKernel::route) != known.end()) {
      policy_options.routes.push_back(route);
    }
  }
  auto policy = Policy::make(*options.profile, inputs_of(options, setting.page_size), policy_options);
  if (!policy.ok()) {
    return policy.error();
  }
  planner.policy_ = *std::move(policy);
  return planner;
}

Result<std::vector<RoutePlanner>> make_planners(const RunOptions& options, const RoutePlanner::Setting& setting) {
  std::vector<RoutePlanner> planners;
  for (const RouteChoice& choice : options.routes) {
    auto planner = RoutePlanner::make(choice, options, setting);
    if (!planner.ok()) {
      return planner.error();
    }
    planners.push_back(*std::move(planner));
  }
  return planners;
}

PlanOptions RoutePlanner::options_for(const BatchState& batch, DType kv_dtype) const {
  if (uses_cpu_rule_) {
    PlanOptions options = cpu_rule(batch, layout_, kv_dtype, options_.num_workers);
    options.merge = options_.merge;
    return options;
  }
  if (!uses_gpu_rule_) {
    return options_;
  }
  PlanOptions options = gpu_rule(batch, gpu_, options_.route);
  options.kv_heads_per_task = options_.kv_heads_per_task;
  options.merge = options_.merge;
  return options;
}

Status RoutePlanner::make_current(const BatchState& batch, DType kv_dtype) {
  if (policy_) {
    auto decision = policy_->decide(batch, std::move(plan_));
    if (!decision.ok()) {
      return decision.error();
    }
    plan_ = std::move(decision->plan);
    price_ = decision->price;
    trial_ = std::move(decision->trial);
    return {};
  }
  auto plan = make_plan(batch, options_for(batch, kv_dtype), std::move(plan_));
  if (!plan.ok()) {
    return plan.error();
  }
  plan_ = *std::move(plan);
  return {};
}

Result<StepRecord> RoutePlanner::plan(const BatchState& batch, DType kv_dtype, std::int64_t step_idx,
                                      std::int64_t begin_ns) {
  PKV_RETURN_IF_ERROR(make_current(batch, kv_dtype));
  StepRecord record;
  record.plan_ns = now_ns() - begin_ns;
  if (model_) {  // not part of what planning this route costs
    price_ = model_->price(plan_);
  }
  record.step_idx = step_idx;
  record.route = plan_.route();
  record.num_rows = batch.num_rows();
  record.max_splits = plan_.max_splits();
  record.counters = plan_.counters();
  record.useful_kv_bytes = kv_bytes(batch.attended_tokens(), batch.shape(), kv_dtype);
  if (price_) {
    record.predicted_ns = price_->device_ns;
  }
  return record;
}

void RoutePlanner::observe(const StepRecord& measured) {
  if (!policy_ || !price_) {
    return;
  }
  policy_->observe(*price_, measured.trial ? measured.trial->before : measured.run);
  if (measured.trial) {
    policy_->observe_trial(measured.trial->trial, measured.trial->after);
  }
}

}  // namespace pkv
