// What happens after a measured run, whichever command made it: report, then exit code.
// Not here: measuring (src/replay).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "failure.h"
#include "output.h"
#include "progress.h"
#include "report/records.h"

namespace pkv::cli {

/// What a command adds to a measurement.
struct ObservedText {
  /// Begins every line of progress.
  std::string label = {};
  /// What a user can do when memory does not suffice: "lower --max-active".
  std::string memory_hint = {};
};

/// The error with `hint` at its end if memory did not suffice.
Error with_memory_hint(Error error, std::string_view hint);

/// Runs `measure(observer)` with progress and Ctrl-C; the bar is gone when it returns.
template <typename Measure>
auto observed(Measure measure, const ObservedText& text = {}) {
  const InterruptGuard guard;
  ProgressObserver observer(text.label);
  auto result = measure(observer);
  if (!result.ok()) throw Failure{with_memory_hint(result.error(), text.memory_hint)};
  return std::move(result).value();
}

/// Measured steps.
std::int64_t num_steps(const RunRecords& records);

/// 0, or the code of what ended the run early.
int exit_code_of(const RunRecords& records);

/// Prints table and JSON of what was measured; an error of the run follows on standard error.
int finish_run(const RunRecords& records, Output& output);

/// The line on standard error for a run that ended early.
void report_early_end(const RunRecords& records);

/// The end of a command whose result was shown: tells what could not be written. A failed verification
/// outranks that, an interruption does not.
int conclude(int exit_code, const Status& shown);

}  // namespace pkv::cli
