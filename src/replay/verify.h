// Random differential cases against the float64 oracle: `pkv verify`.
// Not here: verification of a replay's own steps (replay.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "persistentkv/backend.h"
#include "persistentkv/result.h"
#include "replay/observer.h"
#include "report/records.h"

namespace pkv {

/// Whether plans with fused merges are among the cases.
enum class FusedMerges : std::uint8_t {
  kNone,
  kOneHead,   // every second plan with one KV head a task: what GPUs run
  kAnyHeads,  // every second plan that splits rows
};

struct VerifyOptions {
  /// Cases 0 to num_cases - 1.
  std::int64_t num_cases = 1000;
  std::uint64_t seed = 1;
  /// Only this case, of any index: how a failing one is repeated.
  std::optional<std::int64_t> only_case;
  FusedMerges fused_merges = FusedMerges::kNone;
};

/// Everything of a case follows from (seed, case index): shape, layout, types, lengths, page table,
/// K, V, queries, sinks, splits. Each case runs every route once on one of the backends, with NaN in
/// page tails and unused pages and absurd ids in unused table entries. The first failing case ends it.
/// Backends: every supported ISA with 1, 2 and 3 workers.
/// Limits: max |error| < 2e-3 and mean |error| < 3e-4 for 16-bit, 1e-5 for fp32; LSE 2e-3 and 1e-4;
/// wider where a softmax scale makes logits large (Tolerance in oracle.h).
/// Errors: kInvalidArgument (counts). A failed case is not an Error: see VerifyRecords::failure.
Result<VerifyRecords> verify(const VerifyOptions& options, RunObserver& observer);

/// The same on backends of the caller's; at least one. Tensors are in host memory: a backend with device
/// memory is wrapped in a StagedBackend. Backends that describe themselves alike must agree bit by bit.
/// Errors: also kUnsupported for a backend with device memory.
Result<VerifyRecords> verify(const VerifyOptions& options, std::span<Backend* const> backends, RunObserver& observer);

}  // namespace pkv
