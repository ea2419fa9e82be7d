// What a policy's step is judged by: its price, and the candidates beside it.
// Not here: quantiles over steps (src/report).
#pragma once

#include <optional>
#include <span>

#include "replay/options.h"
#include "report/records.h"

namespace pkv {

/// The participant that is a policy, if there is one.
std::optional<std::size_t> find_policy(const RunOptions& options);

PolicyStep without_regret(const StepRecord& policy);
/// Regret of the policy's wall time against the least of all participants (medians already), itself included;
/// `twin_ns`: the wall time of the same plan measured again, for the noise floor.
PolicyStep with_regret(std::span<const StepRecord> participants, std::size_t policy_idx,
                       std::optional<std::int64_t> twin_ns);

}  // namespace pkv
