// The paper's roofline price of a plan, and the choice of the cheapest route.
// Not here: calibration of a profile.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "persistentkv/decision.h"
#include "persistentkv/layout.h"

namespace pkv {
namespace {

Status validate_positive(std::string_view field, double value) {
  if (!(std::isfinite(value) && value > 0.0)) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} is not finite and above 0", value),
                 fmt::format("profile.{}", field)};
  }
  return {};
}

}  // namespace

Status validate(const DeviceProfile& profile) {
  PKV_RETURN_IF_ERROR(validate_positive("num_workers", profile.num_workers));
  PKV_RETURN_IF_ERROR(validate_positive("read_bytes_per_ns", profile.read_bytes_per_ns));
  PKV_RETURN_IF_ERROR(validate_positive("min_tasks_per_worker", profile.min_tasks_per_worker));
  return validate_positive("launch_ns", profile.launch_ns);
}

double predicted_ns(const Plan& plan, DType kv_dtype, const DeviceProfile& profile) {
  const PlanCounters& counters = plan.counters();
  const auto bytes = static_cast<double>(kv_bytes(counters.attended_tokens, plan.shape(), kv_dtype));
  const double tasks_per_worker = static_cast<double>(counters.num_nonempty_tasks) / profile.num_workers;
  const double starvation =
      counters.num_nonempty_tasks == 0 ? 1.0 : std::max(1.0, profile.min_tasks_per_worker / tasks_per_worker);
  return bytes / profile.read_bytes_per_ns * starvation + counters.num_launches * profile.launch_ns +
         static_cast<double>(counters.merge_state_bytes) / profile.read_bytes_per_ns;
}

Result<Decision> decide(const BatchState& batch, DType kv_dtype, std::span<const Route> routes,
                        const DeviceProfile& profile) {
  PKV_RETURN_IF_ERROR(validate(profile));
  if (routes.empty()) {
    return Error{ErrorCode::kInvalidArgument, "is empty; at least 1 route is needed", "routes"};
  }
  Decision decision;
  std::string left_out;
  Error last_error;
  for (const Route route : routes) {
    Result<Plan> plan = make_plan(batch, {.route = route, .num_workers = profile.num_workers});
    if (!plan.ok()) {  // one route's grid may be too large for a step that another route runs well
      last_error = plan.error();
      left_out += fmt::format("; {} left out: {}", route_name(route), last_error.message);
      continue;
    }
    const double price = predicted_ns(*plan, kv_dtype, profile);
    const bool is_first = decision.candidates.empty();
    decision.candidates.push_back({.route = route, .max_splits = plan->max_splits(), .predicted_ns = price});
    if (is_first || price < decision.predicted_ns) {
      decision.predicted_ns = price;
      decision.plan = *std::move(plan);
    }
  }
  if (decision.candidates.empty()) {
    return last_error;
  }
  decision.reason = fmt::format("{} is cheapest of {} routes: {:.1f} us ({} launches, {} tasks for {} workers){}",
                                route_name(decision.plan.route()), decision.candidates.size(),
                                decision.predicted_ns * 1e-3, decision.plan.counters().num_launches,
                                decision.plan.counters().num_nonempty_tasks, profile.num_workers, left_out);
  return decision;
}

}  // namespace pkv
