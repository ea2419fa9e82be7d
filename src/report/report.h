// Reports: records in, statistics, JSON and terminal tables out, as strings.
// Not here: measuring (src/replay), printing and files (tools/pkv).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "report/records.h"

namespace pkv {

/// Statistics of one route over the measured steps. A field that the run did not measure is not set.
/// Throughputs are sum of rows / sum of time; ratios are ratios of throughputs to the baseline route,
/// whose own ratio is 1. The wall clock includes planning, for every route.
struct RouteSummary {
  std::string name;
  std::optional<std::int32_t> splits;
  MergeMode merge = MergeMode::kSeparate;
  std::int64_t steps = 0;
  std::int64_t rows = 0;
  std::optional<double> useful_kv_mib_per_step;
  std::optional<double> launches_per_step;
  /// Sum of non-empty tasks / sum of tasks.
  std::optional<double> nonempty_share;
  std::optional<double> tasks_per_step;
  /// Tasks a step / workers (CPU) or SMs (GPU, or plan-only with --sms).
  std::optional<double> tasks_per_worker_or_sm;
  std::optional<double> merge_state_mib_per_step;
  std::optional<double> merge_launches_per_step;
  std::optional<double> plan_us_p50;
  std::optional<double> plan_us_p99;
  std::optional<double> device_ms_p50, device_ms_p95, device_ms_p99;
  std::optional<double> wall_ms_p50, wall_ms_p95, wall_ms_p99;
  /// Medians of the parts of device time; not set where the backend does not tell them apart.
  std::optional<double> decode_ms_p50, merge_ms_p50, dispatch_ms_p50;
  std::optional<double> tokens_per_s_device, tokens_per_s_wall;
  std::optional<double> ratio_device, ratio_wall;
  std::optional<double> max_abs_error, mean_abs_error;
  std::optional<std::int64_t> verified_steps;
  /// Useful K,V bytes / device time, sums over steps, 1e9 bytes.
  std::optional<double> gb_per_s;
  /// gb_per_s / probe_gb_per_s of the same run.
  std::optional<double> probe_share;
  /// Attention plus MLP proxy, device time: tokens of one layer a second, and its ratio to the baseline.
  std::optional<double> layer_tokens_per_s, layer_ratio;
};

/// A policy's steps. Errors of prices and regrets are fractions.
struct PolicySummary {
  /// "auto", "paper".
  std::string name;
  std::string profile;
  bool learns = false;
  std::int32_t oracle_repeats = 0;
  /// Against the fastest participant of each step by the wall clock, planning and deciding included; not set
  /// without the oracle.
  std::optional<double> regret_mean, regret_p95, regret_max;
  /// The same plan against itself in the same run and by the same estimate: regrets below it are noise.
  std::optional<double> noise_mean, noise_p95;
  /// Both by the estimate without bias: the best chosen by one half of the repeats, scored by the other.
  std::optional<double> cross_regret_mean, cross_noise_mean;
  /// |predicted - measured| / measured of device times; not set where nothing was executed.
  std::optional<double> prediction_error_p50, prediction_error_p90;
  /// Mean of (predicted - measured) / measured: the sign of the errors.
  std::optional<double> prediction_bias;
  /// Wall time over that of the best single route, less 1; not set without another route.
  std::optional<double> over_best_route;
  std::string best_route;
  /// Steps by chosen route, most first.
  std::vector<std::pair<std::string, std::int64_t>> choices;
  /// Steps of which one layer tried another plan.
  std::int64_t trials = 0;
};

struct RunSummary {
  std::string trace;
  std::optional<std::uint64_t> seed;
  RunMode mode = RunMode::kExecuted;
  std::int64_t steps = 0;
  std::int64_t physical_pages = 0;
  std::vector<RouteSummary> routes;
  std::string baseline;
  /// Route with the highest throughput by the wall clock; not set in plan-only mode.
  std::optional<std::size_t> best_idx;
  std::optional<double> probe_gb_per_s;
  /// Useful K,V bytes / device time of the steps whose K and V stay in the cache, all workers together.
  std::optional<double> in_cache_gb_per_s;
  std::optional<double> mlp_ms_p50;
  std::optional<PolicySummary> policy;
  std::string backend;
  std::int32_t num_workers = 1;
  WorkerKind worker_kind = WorkerKind::kThread;
  /// RunRecords::num_layers.
  std::int32_t num_layers = 1;
  std::string shape;
  std::string layout;
  std::int64_t memory_bytes = 0;
  std::vector<std::string> notes;
  bool interrupted = false;
  /// One line; empty when the run went to its end.
  std::string error;
};

RunSummary summarize(const RunRecords& records);

/// One of several runs in the main job's table.
struct SuiteEntry {
  /// First column, e.g. "bimodal 8".
  std::string label;
  RunSummary summary;
  /// Arguments of `pkv replay` that repeat this run; empty when no command does.
  std::string arguments = {};
};

/// The JSON object of the command line contract: trace, seed, steps, physical_pages,
/// routes [{name, steps, rows, ...}] with null for what was not measured; further fields
/// (probe_gb_per_s, ...) after those. Ends without a newline.
std::string run_json(const RunSummary& summary);
/// {"runs": [{"label", and the fields of run_json}, ...]}.
std::string suite_json(std::span<const SuiteEntry> entries);
std::string verify_json(const VerifyRecords& records);

/// Whether a table may use ANSI colours: the caller knows whether it writes to a terminal.
enum class TextStyle : std::uint8_t { kPlain, kAnsi };

/// Head lines (trace, shape, backend, probe), one table row a route, notes. Ends with a newline.
std::string run_table(const RunSummary& summary, TextStyle style);
/// One table row a run and route: ratio to the baseline, tokens/s, GB/s, share of the read probe,
/// merge MiB; the best route of each run is marked with '*'. Ends with a newline.
std::string suite_table(std::span<const SuiteEntry> entries, TextStyle style);
/// One line: which route won how often, and the command that repeats the run with the widest gap.
std::string suite_advice(std::span<const SuiteEntry> entries);
std::string verify_table(const VerifyRecords& records, TextStyle style);

}  // namespace pkv
