// A run on a device that exists only as a profile: plans are made and priced, nothing is executed.
// Not here: prices (persistentkv/price.h), execution (measure.h).
#pragma once

#include "replay/observer.h"
#include "replay/options.h"
#include "replay/step_source.h"
#include "report/records.h"

namespace pkv {

/// Every step by every route; what would be measured is predicted: device times, and planning as the profile
/// prices it. Requires options.profile. Errors: those of PriceModel::make and Policy::make; kUnsupported for a route
/// that the profile does not price.
Result<RunRecords> simulate_steps(const RunOptions& options, StepSource& source, RunObserver& observer,
                                  RunRecords records);

}  // namespace pkv
