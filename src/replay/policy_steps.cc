// Regret of one step.
#include "replay/policy_steps.h"

#include <algorithm>
#include <cmath>

namespace pkv {

std::optional<std::size_t> find_policy(const RunOptions& options) {
  const auto found =
      std::ranges::find_if(options.routes, [](const RouteChoice& choice) { return choice.policy.has_value(); });
  if (found == options.routes.end()) {
    return std::nullopt;
  }
  return static_cast<std::size_t>(found - options.routes.begin());
}

PolicyStep without_regret(const StepRecord& policy) {
  return {.route = policy.route,
          .max_splits = policy.max_splits,
          .predicted_ns = policy.predicted_ns.value_or(0.0),
          .measured_ns = static_cast<double>(policy.run.total_ns),
          .regret = std::nullopt,
          .noise = std::nullopt,
          .best_idx = std::nullopt};
}

PolicyStep with_regret(std::span<const StepRecord> participants, std::size_t policy_idx,
                       std::optional<std::int64_t> twin_ns) {
  const StepRecord& policy = participants[policy_idx];
  std::size_t best = policy_idx;
  for (std::size_t i = 0; i < participants.size(); ++i) {
    best = participants[i].wall_ns < participants[best].wall_ns ? i : best;
  }
  PolicyStep step = without_regret(policy);
  const auto policy_ns = static_cast<double>(policy.wall_ns);
  step.best_idx = best;
  step.regret = policy_ns / static_cast<double>(participants[best].wall_ns) - 1.0;
  if (twin_ns) {
    const auto other_ns = static_cast<double>(*twin_ns);
    step.noise = std::max(policy_ns, other_ns) / std::min(policy_ns, other_ns) - 1.0;
  }
  return step;
}

}  // namespace pkv
