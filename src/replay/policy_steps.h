// What a policy's step is judged by: its price, and the candidates beside it.
// Not here: quantiles over steps (src/report).
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "replay/options.h"
#include "report/records.h"

namespace pkv {

/// The participant that is a policy, if there is one.
std::optional<std::size_t> find_policy(const RunOptions& options);

/// What one of num_layers layers takes that run a step's plan, of which one was measured: the device's time, and a part
/// of what happens once a step, the rest of the wall clock.
std::int64_t layer_wall_ns(std::int64_t wall_ns, std::int64_t device_ns, std::int32_t num_layers);

PolicyStep without_regret(const StepRecord& policy);
/// Regret of the policy's wall time against the least of all participants, itself included: for times that have no
/// noise.
PolicyStep with_regret(std::span<const StepRecord> participants, std::size_t policy_idx);

/// Wall times of a step in ns, [participant][repeat]. The last is the policy's twin: the same plan measured again.
using RepeatedWalls = std::vector<std::vector<double>>;

/// Regret by two estimates between which the truth lies; `policy` is its median step. A repeat's times are divided by
/// their geometric mean, as the machine's state changes between repeats; then medians count.
/// regret: against the least median. The least of noisy medians is too low, so this is too high; so is `noise`, the
/// regret that the twin gives as the only other candidate.
/// cross_regret: the best by one half of the repeats (even, odd), scored by the other half, both ways. Noise does not
/// favour that choice, so nothing is too high, but it may choose wrongly, and be below 0.
/// Requires two repeats, all of the same number, and times above 0.
PolicyStep with_regret(const StepRecord& policy, const RepeatedWalls& walls, std::size_t policy_idx);

}  // namespace pkv
