// What replay and run_step share: records of a run are begun, memory is checked and filled, steps run.
// Not here: the loop over steps (session.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

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

/// One of several runs that take turns: its own shape, layout, routes and steps.
struct Turn {
  RunOptions options;
  /// A new source of the same steps for every round.
  std::function<Result<std::unique_ptr<StepSource>>()> make_source;
  /// Begun; every round adds its steps.
  RunRecords records;
  /// Steps in the records after each complete round.
  std::vector<std::int64_t> round_ends = {};
};

/// Rounds in which every run takes its steps once, in an order drawn anew, in one memory and on one backend: a
/// machine that slows down slows all of them. Backend, types, memory limit and seed are those of the first turn and
/// must be the same in all; no turn may have the MLP proxy. A simulated device takes one round.
///
/// Errors before anything is executed are returned, as by replay(); those in the middle are in the records of their
/// turn. Both, and cancellation (RunRecords::interrupted of all turns), end the rounds.
Status take_turns(std::vector<Turn>& turns, std::int32_t rounds, RunObserver& observer);

}  // namespace pkv
