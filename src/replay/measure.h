// What replay and run_step share: records of a run are begun, memory is checked and filled, steps run.
// Not here: the loop over steps (session.h).
#pragma once

#include "persistentkv/backend.h"
#include "replay/observer.h"
#include "replay/options.h"
#include "replay/step_source.h"
#include "report/records.h"

namespace pkv {

/// Records without steps: shape, layout, routes, baseline. `head` brings trace and seed.
RunRecords begin_records(const RunOptions& options, std::int32_t page_size, const StepSource& source, RunRecords head);

/// Plans every step by every route; executes nothing.
Result<RunRecords> plan_steps(const RunOptions& options, StepSource& source, std::int32_t num_workers,
                              RunObserver& observer, RunRecords records);

/// Makes the backend that the options name and executes on it.
Result<RunRecords> execute_steps(const RunOptions& options, StepSource& source, RunObserver& observer,
                                 RunRecords records);
/// Executes on a backend of the caller's.
Result<RunRecords> execute_steps(const RunOptions& options, StepSource& source, Backend& backend, RunObserver& observer,
                                 RunRecords records);

}  // namespace pkv
