// Replay: every step of a trace, planned and executed by several routes side by side.
// Not here: statistics and tables (src/report), where traces come from (src/trace).
#pragma once

#include <cstdint>
#include <optional>

#include "persistentkv/backend.h"
#include "persistentkv/result.h"
#include "replay/observer.h"
#include "replay/options.h"
#include "report/records.h"
#include "trace/admission.h"
#include "trace/trace.h"

namespace pkv {

struct ReplayOptions {
  RunOptions run;
  /// admission.page_size is the page size of everything.
  AdmissionOptions admission;
  /// Seed of a generated trace: echoed in the records.
  std::optional<std::uint64_t> trace_seed;
  /// Measured steps at most; all when not set.
  std::optional<std::int64_t> max_steps;
  /// Steps passed over before the first measured one.
  std::int64_t skip_steps = 0;
  /// Set: nothing is executed and no K,V memory is allocated; plans are made for that many workers (SMs).
  std::optional<std::int32_t> plan_only_workers;
};

/// How it measures:
/// - All routes execute a step before the next one begins, in an order drawn anew for every step from the
///   data seed, so that no route always follows the same one; the read probe is one more participant, so that its
///   figure comes from the same minutes.
/// - plan_ns: validation of the batch and planning. device (run.total_ns): the backend's own clock.
///   wall_ns: plan, workspace and execution by the wall clock. Queries lie where the backend reads them before
///   a clock starts.
/// - K and V are random (normal, unit variance) in every physical page. Each execution adds another
///   shift to all page ids, modulo the pool's pages, made outside the timed part; the pool has at least
///   8 times the last-level cache (larger than the trace needs where necessary), so that what a pass
///   reads was last read several caches ago. On a device the pool is a copy of the one in host memory, which
///   the oracle reads, and the cache is the device's.
/// - Verified steps run once more, untimed, and are compared with the float64 oracle: max |error| < 2e-3
///   and mean |error| < 3e-4 for 16-bit K,V or queries, 1e-5 for fp32; wider, with a note, where a softmax
///   scale makes logits large (Tolerance in oracle.h). Half a unit in the last place of a 16-bit output is not
///   counted.
///
/// Errors before anything is executed are returned: kInvalidArgument (options), kUnsupported (the backend
/// lacks the shape, a route or, in this build, exists not), kResourceExhausted (memory needed and available,
/// in the host or on the device, before any allocation). Errors in
/// the middle, failed verification among them, are in RunRecords::error beside what was measured until
/// then; cancellation likewise sets RunRecords::interrupted.
Result<RunRecords> replay(const Trace& trace, const ReplayOptions& options, RunObserver& observer);

/// The same on a backend of the caller's; run.backend, cpu and cuda are not used and the read probe is measured
/// only on backends that have one. Not with plan_only_workers.
Result<RunRecords> replay(const Trace& trace, const ReplayOptions& options, Backend& backend, RunObserver& observer);

}  // namespace pkv
