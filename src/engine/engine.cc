// Engine: the pipeline from a batch to a record.
// Not here: prices (src/cost), kernels (src/exec).
#include "persistentkv/engine.h"

#include <fmt/format.h>

#include <utility>

#include "base/clock.h"
#include "persistentkv/layout.h"

namespace pkv {
namespace {

Status check_route(const Backend& backend, Route route) {
  if (backend.supports(route)) {
    return {};
  }
  return Error{ErrorCode::kUnsupported,
               fmt::format("{} is not run by the {} backend", route_name(route), backend.name()), "routes"};
}

}  // namespace

Engine::Engine(std::unique_ptr<Backend> backend, const EngineOptions& options, std::optional<DeviceProfile> profile)
    : backend_(std::move(backend)),
      routes_(options.routes),
      read_curve_(options.read_curve),
      profile_(std::move(profile)),
      num_layers_(options.num_layers),
      learning_(options.learning) {}

Result<Engine> Engine::create(const EngineOptions& options) {
  Result<std::unique_ptr<Backend>> backend = make_cpu_backend(options.cpu);
  if (!backend.ok()) {
    return backend.error();
  }
  return create(*std::move(backend), options);
}

Result<Engine> Engine::create(std::unique_ptr<Backend> backend, const EngineOptions& options) {
  if (backend == nullptr) {
    return Error{ErrorCode::kInvalidArgument, "is null", "backend"};
  }
  if (options.num_layers < 1 || options.num_layers > kMaxLayers) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is outside 1 to {}", options.num_layers, kMaxLayers),
                 "num_layers"};
  }
  for (const Route route : options.routes) {
    PKV_RETURN_IF_ERROR(check_route(*backend, route));
  }
  const bool on_device = backend->device_memory() != nullptr;
  std::optional<DeviceProfile> profile = options.profile;
  if (!profile && !on_device) {
    auto shipped = shipped_profile("cpu");
    if (!shipped.ok()) {
      return shipped.error();
    }
    profile = *std::move(shipped);
  }
  if (profile) {
    profile->num_workers = backend->num_workers();
    PKV_RETURN_IF_ERROR(validate(*profile));
  } else if (!options.routes.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "is not set; a choice of routes on a device backend needs prices: shipped_profile(\"h100\")",
                 "profile"};
  }
  return Engine(std::move(backend), options, std::move(profile));
}

Result<Policy*> Engine::policy_for(const BatchState& batch, DType kv_dtype, KvOrder order) {
  if (policy_) {
    const PriceInputs& known = policy_->model().inputs();
    if (known.shape == batch.shape() && known.kv_dtype == kv_dtype && known.order == order &&
        known.page_size == batch.page_size()) {
      return &*policy_;
    }
  }
  PolicyOptions options{.kind = PolicyKind::kAuto, .routes = routes_, .learning = learning_};
  if (routes_.empty()) {
    options.routes.assign(std::begin(kAllRoutes), std::end(kAllRoutes));
  }
  auto policy = Policy::make(*profile_,
                             {.shape = batch.shape(),
                              .kv_dtype = kv_dtype,
                              .order = order,
                              .page_size = batch.page_size(),
                              .num_layers = num_layers_},
                             options);
  if (!policy.ok()) {
    return policy.error();
  }
  policy_ = *std::move(policy);
  return &*policy_;
}

Result<Decision> Engine::follow_rule(const BatchState& batch, DType kv_dtype, const KvLayout& layout) {
  const bool on_gpu = backend_->device_memory() != nullptr;
  const std::int32_t workers = backend_->num_workers();
  Result<Decision> ruled =
      plan(batch, kv_dtype,
           on_gpu ? gpu_rule(batch, backend_->gpu_machine()) : cpu_rule(batch, layout, kv_dtype, workers, read_curve_));
  if (!ruled.ok()) {
    return ruled;
  }
  ruled->basis = on_gpu ? DecisionBasis::kGpuRule : DecisionBasis::kCpuRule;
  ruled->basis_figure = workers;
  return ruled;
}

Result<Decision> Engine::decide(const BatchState& batch, DType kv_dtype) {
  const auto layout = KvLayout::make(KvOrder::kHND, KvPacking::kSeparate, batch.page_size(), batch.shape());
  return layout.ok() ? decide(batch, kv_dtype, *layout) : layout.error();
}

Result<Decision> Engine::decide(const BatchState& batch, DType kv_dtype, const KvLayout& layout) {
  const std::int64_t begin_ns = now_ns();
  layers_ = {};
  if (routes_.empty()) {
    return follow_rule(batch, kv_dtype, layout);
  }
  const bool is_hnd = layout.k_strides.slot == batch.shape().head_dim;
  Result<Policy*> policy = policy_for(batch, kv_dtype, is_hnd ? KvOrder::kHND : KvOrder::kNHD);
  if (!policy.ok()) {
    return policy.error();
  }
  Result<Decision> decision = (*policy)->decide(batch);
  if (!decision.ok()) {
    return decision;
  }
  PKV_RETURN_IF_ERROR(backend_->reserve(decision->plan));
  if (decision->trial && !backend_->reserve(decision->trial->plan).ok()) {
    decision->trial.reset();
    (*policy)->drop_trial();
    PKV_RETURN_IF_ERROR(backend_->reserve(decision->plan));  // which may be gone
  }
  decision->serial = ++num_decisions_;
  layers_ = {.serial = decision->serial};
  decision->plan_ns = now_ns() - begin_ns;
  return decision;
}

Result<Decision> Engine::plan(const BatchState& batch, DType kv_dtype, const PlanOptions& options) {
  const std::int64_t begin_ns = now_ns();
  PKV_RETURN_IF_ERROR(check_route(*backend_, options.route));
  PlanOptions sized = options;
  sized.num_workers = backend_->num_workers();
  Result<Plan> plan = make_plan(batch, sized);
  if (!plan.ok()) {
    return plan.error();
  }
  PKV_RETURN_IF_ERROR(backend_->reserve(*plan));
  Decision decision;
  if (profile_) {
    Result<Policy*> policy = policy_for(batch, kv_dtype, KvOrder::kHND);
    if (!policy.ok()) {
      return policy.error();
    }
    if ((*policy)->model().prices(plan->route())) {
      decision.price = (*policy)->model().price(*plan);
    }
  }
  decision.predicted_ns = decision.price.device_ns;
  decision.candidates = {{.route = plan->route(),
                          .max_splits = plan->max_splits(),
                          .kv_heads_per_task = plan->kv_heads_per_task(),
                          .predicted_ns = decision.price.total_ns()}};
  decision.plan = *std::move(plan);
  decision.plan_ns = now_ns() - begin_ns;
  return decision;
}

Result<StepRecord> Engine::run(const Decision& decision, const RunArgs& args) {
  const std::int64_t begin_ns = now_ns();
  const bool is_last = decision.serial > 0 && decision.serial == layers_.serial;
  const bool tries = is_last && decision.trial.has_value() && layers_.num_run == 1;
  layers_.num_run += is_last ? 1 : 0;
  const Plan& plan = tries ? decision.trial->plan : decision.plan;
  const Price& price = tries ? decision.trial->price : decision.price;
  Result<RunTimes> times = backend_->run(plan, args);
  if (!times.ok()) {
    return times.error();
  }
  const bool priced = price.device_ns > 0.0;
  if (tries) {
    layers_.trial = *times;
  } else if (priced && policy_) {
    policy_->observe(price, *times);
    if (is_last && layers_.trial) {
      policy_->observe_trial(*std::exchange(layers_.trial, std::nullopt), *times);
    }
  }
  return StepRecord{.step_idx = 0,
                    .route = plan.route(),
                    .num_rows = static_cast<std::int32_t>(plan.seq_lens().size()),
                    .max_splits = plan.max_splits(),
                    .counters = plan.counters(),
                    .useful_kv_bytes = kv_bytes(plan.counters().attended_tokens, plan.shape(), args.kv.dtype),
                    .predicted_ns = priced ? std::optional(price.device_ns) : std::nullopt,
                    .plan_ns = decision.plan_ns,
                    .run = *times,
                    .wall_ns = decision.plan_ns / num_layers_ + now_ns() - begin_ns};
}

}  // namespace pkv
