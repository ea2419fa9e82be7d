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

Engine::Engine(std::unique_ptr<Backend> backend, std::vector<Route> routes, DeviceProfile profile)
    : backend_(std::move(backend)), routes_(std::move(routes)), profile_(std::move(profile)) {}

bool Engine::uses_gpu_rule() const { return routes_.empty(); }

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
  for (const Route route : options.routes) {
    PKV_RETURN_IF_ERROR(check_route(*backend, route));
  }
  DeviceProfile profile = options.profile;
  profile.num_workers = backend->num_workers();
  PKV_RETURN_IF_ERROR(validate(profile));
  std::vector<Route> routes = options.routes;
  if (routes.empty() && backend->device_memory() == nullptr) {
    routes.assign(std::begin(kAllRoutes), std::end(kAllRoutes));
  }
  return Engine(std::move(backend), std::move(routes), std::move(profile));
}

Result<Decision> Engine::decide(const BatchState& batch, DType kv_dtype) {
  const std::int64_t begin_ns = now_ns();
  if (uses_gpu_rule()) {
    Result<Decision> ruled = plan(batch, kv_dtype, gpu_rule(batch, backend_->num_workers()));
    if (ruled.ok()) {
      ruled->reason = fmt::format("the rule for GPUs: split, at most {} splits a row, {} tasks for {} SMs",
                                  ruled->plan.max_splits(), ruled->plan.counters().num_tasks, backend_->num_workers());
    }
    return ruled;
  }
  Result<Decision> decision = pkv::decide(batch, kv_dtype, routes_, profile_);
  if (!decision.ok()) {
    return decision;
  }
  PKV_RETURN_IF_ERROR(backend_->reserve(decision->plan));
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
  decision.predicted_ns = predicted_ns(*plan, kv_dtype, profile_);
  decision.candidates = {
      {.route = plan->route(), .max_splits = plan->max_splits(), .predicted_ns = decision.predicted_ns}};
  decision.plan = *std::move(plan);
  decision.reason = "the caller named the route";
  decision.plan_ns = now_ns() - begin_ns;
  return decision;
}

Result<StepRecord> Engine::run(const Decision& decision, const RunArgs& args) {
  const std::int64_t begin_ns = now_ns();
  Result<RunTimes> times = backend_->run(decision.plan, args);
  if (!times.ok()) {
    return times.error();
  }
  const Plan& plan = decision.plan;
  return StepRecord{.step_idx = 0,
                    .route = plan.route(),
                    .num_rows = static_cast<std::int32_t>(plan.seq_lens().size()),
                    .max_splits = plan.max_splits(),
                    .counters = plan.counters(),
                    .useful_kv_bytes = kv_bytes(plan.counters().attended_tokens, plan.shape(), args.kv.dtype),
                    .predicted_ns = decision.predicted_ns,
                    .plan_ns = decision.plan_ns,
                    .run = *times,
                    .wall_ns = decision.plan_ns + now_ns() - begin_ns};
}

}  // namespace pkv
