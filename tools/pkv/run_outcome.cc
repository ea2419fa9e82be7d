// Report first, then the reason for an early end: figures measured until then are never lost.
// Not here: measuring (src/replay).
#include "run_outcome.h"

#include <cstdio>

namespace pkv::cli {

int exit_code_of(const RunRecords& records) {
  if (records.error) return exit_code_of(*records.error);
  return records.interrupted ? kExitInterrupted : kExitOk;
}

std::int64_t num_steps(const RunRecords& records) {
  return records.routes.empty() ? 0 : static_cast<std::int64_t>(records.routes.front().steps.size());
}

void report_early_end(const RunRecords& records) {
  if (records.error) {
    std::fprintf(stderr, "%s\n", error_line(*records.error).c_str());
  } else if (records.interrupted) {
    std::fputs("pkv: interrupted\n", stderr);
  }
}

int finish_run(RunRecords records, const std::vector<std::string>& trace_notes, Output& output) {
  if (records.error && num_steps(records) == 0) throw Failure{*records.error};  // there is nothing to show
  records.notes.insert(records.notes.begin(), trace_notes.begin(), trace_notes.end());
  const RunSummary summary = summarize(records);
  output.json(run_json(summary));
  output.text(run_table(summary, output.style()));
  report_early_end(records);
  return exit_code_of(records);
}

}  // namespace pkv::cli
