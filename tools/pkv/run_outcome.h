// What happens after a measured run, whichever command made it: report, then exit code.
// Not here: measuring (src/replay).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "failure.h"
#include "output.h"
#include "progress.h"
#include "report/records.h"

namespace pkv::cli {

/// Runs `measure(observer)` with progress and Ctrl-C; the bar is gone when it returns.
template <typename Measure>
auto observed(Measure measure, std::string label = {}) {
  const InterruptGuard guard;
  ProgressObserver observer(std::move(label));
  return unwrap(measure(observer));
}

/// Measured steps.
std::int64_t num_steps(const RunRecords& records);

/// 0, or the code of what ended the run early.
int exit_code_of(const RunRecords& records);

/// Prints table and JSON of what was measured; an error of the run follows on standard error.
int finish_run(RunRecords records, const std::vector<std::string>& trace_notes, Output& output);

/// The line on standard error for a run that ended early.
void report_early_end(const RunRecords& records);

}  // namespace pkv::cli
