// Report first, then the reason for an early end: figures measured until then are never lost.
// Not here: measuring (src/replay).
#include "run_outcome.h"

#include <fmt/format.h>

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

int finish_run(const RunRecords& records, Output& output) {
  if (records.error && num_steps(records) == 0) throw Failure{*records.error};  // there is nothing to show
  const RunSummary summary = summarize(records);
  const Status shown = output.show(run_table(summary, output.style()), run_json(summary));
  report_early_end(records);
  return conclude(exit_code_of(records), shown);
}

int conclude(int exit_code, const Status& shown) {
  if (shown.ok()) return exit_code;
  std::fprintf(stderr, "%s\n", error_line(shown.error()).c_str());
  return exit_code == kExitVerificationFailed ? exit_code : exit_code_of(shown.error());
}

Error with_memory_hint(Error error, std::string_view hint) {
  if (error.code == ErrorCode::kResourceExhausted && error.where == "memory" && !hint.empty()) {
    error.message += fmt::format("; {}", hint);
  }
  return error;
}

}  // namespace pkv::cli
