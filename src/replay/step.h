// One decode step from lengths, repeated by several routes side by side: `pkv run`.
// Not here: traces (replay.h).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "persistentkv/backend.h"
#include "persistentkv/result.h"
#include "replay/observer.h"
#include "replay/options.h"
#include "report/records.h"

namespace pkv {

struct StepOptions {
  RunOptions run;
  /// Tokens in the cache by row; 0 is an empty row. At least one row.
  std::vector<std::int32_t> seq_lens;
  std::int32_t page_size = 16;
  /// Share of physical pages that hold nothing, in [0, 1).
  double hole_fraction = 0.0;
  /// Seeds the permutation that deals physical pages out.
  std::uint64_t page_seed = 1;
  /// Measured repetitions of the step by every route.
  std::int32_t repeats = 20;
  /// Set: plan only, for that many workers (SMs).
  std::optional<std::int32_t> plan_only_workers;
};

/// Measures as replay() does, every repetition as a step of its own. With verification on, the first
/// repetition is verified (kSample), or all (kEvery). Errors: as replay(), and those of the lengths.
Result<RunRecords> run_step(const StepOptions& options, RunObserver& observer);
Result<RunRecords> run_step(const StepOptions& options, Backend& backend, RunObserver& observer);

}  // namespace pkv
