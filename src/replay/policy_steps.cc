// Regret of one step.
#include "replay/policy_steps.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "report/statistics.h"

namespace pkv {

std::optional<std::size_t> find_policy(const RunOptions& options) {
  const auto found =
      std::ranges::find_if(options.routes, [](const RouteChoice& choice) { return choice.policy.has_value(); });
  if (found == options.routes.end()) {
    return std::nullopt;
  }
  return static_cast<std::size_t>(found - options.routes.begin());
}

std::int64_t layer_wall_ns(std::int64_t wall_ns, std::int64_t device_ns, std::int32_t num_layers) {
  return num_layers == 1 ? wall_ns : device_ns + std::max<std::int64_t>(0, wall_ns - device_ns) / num_layers;
}

PolicyStep without_regret(const StepRecord& policy) {
  return {.route = policy.route,
          .max_splits = policy.max_splits,
          .predicted_ns = policy.predicted_ns.value_or(0.0),
          .measured_ns = static_cast<double>(policy.run.total_ns),
          .tried = policy.trial.has_value(),
          .regret = std::nullopt,
          .noise = std::nullopt,
          .cross_regret = std::nullopt,
          .cross_noise = std::nullopt,
          .best_idx = std::nullopt};
}

PolicyStep with_regret(std::span<const StepRecord> participants, std::size_t policy_idx) {
  const StepRecord& policy = participants[policy_idx];
  const auto best = std::ranges::min_element(participants, {}, &StepRecord::wall_ns);
  PolicyStep step = without_regret(policy);
  step.best_idx = static_cast<std::size_t>(best - participants.begin());
  step.regret = static_cast<double>(policy.wall_ns) / static_cast<double>(best->wall_ns) - 1.0;
  return step;
}

namespace {

enum class Half : std::uint8_t { kAll, kEven, kOdd };

/// By participant: the median part of a repeat's geometric mean.
std::vector<double> median_parts(const RepeatedWalls& walls, Half half) {
  std::vector<std::vector<double>> parts(walls.size());
  for (std::size_t repeat = half == Half::kOdd ? 1 : 0; repeat < walls.front().size();
       repeat += half == Half::kAll ? 1 : 2) {
    double log_mean = 0.0;
    for (const std::vector<double>& times : walls) {
      log_mean += std::log(times[repeat]) / static_cast<double>(walls.size());
    }
    for (std::size_t i = 0; i < walls.size(); ++i) {
      parts[i].push_back(walls[i][repeat] / std::exp(log_mean));
    }
  }
  std::vector<double> medians;
  for (const std::vector<double>& part : parts) {
    medians.push_back(median(part).value_or(1.0));
  }
  return medians;
}

std::size_t least_of(const std::vector<double>& parts, std::span<const std::size_t> candidates) {
  return *std::ranges::min_element(candidates, {}, [&](std::size_t i) { return parts[i]; });
}

}  // namespace

PolicyStep with_regret(const StepRecord& policy, const RepeatedWalls& walls, std::size_t policy_idx) {
  const std::size_t twin = walls.size() - 1;
  std::vector<std::size_t> participants(twin);
  std::iota(participants.begin(), participants.end(), std::size_t{0});
  const std::size_t same_plan[] = {policy_idx, twin};
  const std::vector<double> all = median_parts(walls, Half::kAll);
  const std::vector<double> even = median_parts(walls, Half::kEven);
  const std::vector<double> odd = median_parts(walls, Half::kOdd);
  const auto regret = [&](std::span<const std::size_t> candidates, const std::vector<double>& chosen_by,
                          const std::vector<double>& scored_by) {
    return scored_by[policy_idx] / scored_by[least_of(chosen_by, candidates)] - 1.0;
  };
  const auto crossed = [&](std::span<const std::size_t> candidates) {
    return 0.5 * (regret(candidates, even, odd) + regret(candidates, odd, even));
  };
  PolicyStep step = without_regret(policy);
  step.best_idx = least_of(all, participants);
  step.regret = regret(participants, all, all);
  step.noise = regret(same_plan, all, all);
  step.cross_regret = crossed(participants);
  step.cross_noise = crossed(same_plan);
  return step;
}

}  // namespace pkv
