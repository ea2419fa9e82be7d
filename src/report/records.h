// What a replay, a single step or a verification hands to a report: plain data, filled by src/replay.
// Not here: statistics and rendering (report.h), execution.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "persistentkv/dtype.h"
#include "persistentkv/layout.h"
#include "persistentkv/record.h"
#include "persistentkv/result.h"
#include "persistentkv/shape.h"

namespace pkv {

/// Whether the steps were executed, only planned (then nothing but plan times and counters is known), or priced
/// on a profile (then all times are predictions).
enum class RunMode : std::uint8_t { kExecuted, kPlanOnly, kSimulated };

/// What a plan's num_workers are.
enum class WorkerKind : std::uint8_t {
  kThread,   // of a CPU: decode, merge and dispatch are told apart in device times
  kSm,       // of a GPU: launches overlap, so they are not
  kUnknown,  // plans only: whatever the user asked for
};

/// Absolute errors against the float64 oracle over every checked output element.
struct ErrorStats {
  std::int64_t num_steps = 0;
  std::int64_t num_values = 0;
  double max_abs = 0.0;
  double sum_abs = 0.0;

  /// 0 when nothing was checked.
  [[nodiscard]] double mean_abs() const { return num_values > 0 ? sum_abs / static_cast<double>(num_values) : 0.0; }
};

/// One execution of the read probe: the pages of a step, read and not used.
struct ReadSample {
  std::int64_t bytes = 0;
  std::int64_t elapsed_ns = 0;
};

/// One route of a run. Element i of `steps` belongs to the same step in every route of the run.
struct RouteRecords {
  /// "row", "workqueue", ...
  std::string name;
  /// Splits that the user asked for; the route chose when not set.
  std::optional<std::int32_t> splits;
  MergeMode merge = MergeMode::kSeparate;
  std::vector<StepRecord> steps;
  /// Set when at least one step was verified.
  std::optional<ErrorStats> errors;
};

/// The first output element found beyond its tolerance.
struct Mismatch {
  std::int64_t step_idx = 0;
  std::string route;
  std::int32_t row = 0;
  std::int32_t q_head = 0;
  std::int32_t element = 0;
  double actual = 0.0;
  double expected = 0.0;
  double limit = 0.0;
};

/// One step of a policy.
struct PolicyStep {
  Route route = Route::kRow;
  std::int32_t max_splits = 1;
  /// Of the device, before and after.
  double predicted_ns = 0.0;
  double measured_ns = 0.0;
  /// Whether one of its layers tried another plan.
  bool tried = false;
  /// Wall time over that of the best participant, less 1; with the oracle only. Too high by the noise.
  std::optional<double> regret;
  /// The same estimate where the only other candidate is the same plan, measured again.
  std::optional<double> noise;
  /// Both with the best chosen by one half of the repeats and scored by the other: free of that bias.
  std::optional<double> cross_regret;
  std::optional<double> cross_noise;
  /// The participant that was fastest.
  std::optional<std::size_t> best_idx;
};

/// A policy among the participants.
struct PolicyRecords {
  /// Its index in RunRecords::routes.
  std::size_t route_idx = 0;
  /// The profile that its prices come from.
  std::string profile;
  bool learns = false;
  /// Repeats of every participant a step; 0: no regret was measured.
  std::int32_t oracle_repeats = 0;
  std::vector<PolicyStep> steps;
};

/// Everything measured by `pkv replay` or `pkv run`.
struct RunRecords {
  /// "paper:bimodal", a path, or the lengths of a single step.
  std::string trace;
  /// Seed of the trace, if it has one.
  std::optional<std::uint64_t> seed;
  RunMode mode = RunMode::kExecuted;
  AttentionShape shape;
  std::int32_t page_size = 16;
  KvOrder order = KvOrder::kHND;
  KvPacking packing = KvPacking::kSeparate;
  DType kv_dtype = DType::kF16;
  DType query_dtype = DType::kF16;
  /// Physical pages of the trace, holes included.
  std::int64_t physical_pages = 0;
  /// Pages of the pool that was filled: physical_pages, or more where these would have stayed in the cache.
  std::int64_t pool_pages = 0;
  /// Bytes allocated for K, V and, with the proxy, weights and activations, where the backend reads them.
  std::int64_t memory_bytes = 0;
  /// Workers or SMs of the backend, or what plans were made for: the divisor of tasks_per_worker_or_sm.
  std::int32_t num_workers = 1;
  WorkerKind worker_kind = WorkerKind::kThread;
  /// Backend::describe(), empty in plan-only mode.
  std::string backend;
  /// Layers that run each plan: of what a step takes beyond the device's time, wall times have one part in so many.
  std::int32_t num_layers = 1;
  std::vector<RouteRecords> routes;
  /// Index of the route that ratios are against.
  std::size_t baseline_idx = 0;
  /// One element a measured step; empty in plan-only mode.
  std::vector<ReadSample> probe;
  std::optional<PolicyRecords> policy;
  /// The step with K and V in the cache of every worker: useful bytes and time of the kernels without memory. One
  /// element a measured step; empty where the backend has no such measurement.
  std::vector<ReadSample> in_cache;
  /// One element a measured step; empty without the MLP proxy.
  std::vector<std::int64_t> mlp_ns;
  /// Facts a reader of the figures must know, one sentence each.
  std::vector<std::string> notes;
  /// The caller stopped the run; what was measured until then is here.
  bool interrupted = false;
  /// The run ended early with this error (kMismatch: see `mismatch`); what was measured until then is here.
  std::optional<Error> error;
  std::optional<Mismatch> mismatch;
};

/// One failed case of `pkv verify`.
struct VerifyFailure {
  std::int64_t case_idx = 0;
  /// The case in one line: shape, layout, lengths, route, backend.
  std::string description;
  /// What differed: place, both values, limit.
  std::string message;
};

/// Everything found by `pkv verify`.
struct VerifyRecords {
  std::uint64_t seed = 0;
  std::int64_t cases_asked = 0;
  std::int64_t cases_run = 0;
  /// Plans executed: several a case.
  std::int64_t runs = 0;
  double max_abs_error_16bit = 0.0;
  double mean_abs_error_16bit = 0.0;
  double max_abs_error_f32 = 0.0;
  double mean_abs_error_f32 = 0.0;
  double max_abs_error_lse = 0.0;
  std::int64_t elapsed_ns = 0;
  /// What was covered and how often, in a fixed order: ("route=row", 20000), ("window", 6021), ...
  /// Kinds that no case had are listed with 0.
  std::vector<std::pair<std::string, std::int64_t>> coverage;
  /// The first case that failed; the run stops there.
  std::optional<VerifyFailure> failure;
  bool interrupted = false;
  /// What a repetition needs beside seed and case: " --backend cuda".
  std::string repeat_arguments;

  /// Every case that was asked for ran, none failed: a run cut short has shown nothing about the rest.
  [[nodiscard]] bool passed() const { return !failure && !interrupted && cases_run == cases_asked; }
};

}  // namespace pkv
