// Sweeps: many points of one axis or two, each measured in rounds; and capacity, a grid of predicted points.
// Not here: measuring (src/replay/measure.h), which points there are (tools/pkv).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report/report.h"

namespace pkv {

/// ("page_size", "16"): what sets a point apart, in the order of the table's columns.
using SweepAxes = std::vector<std::pair<std::string, std::string>>;

/// One run of a sweep: all its routes are points.
struct SweepRun {
  SweepAxes axes;
  RunRecords records;
  /// Steps in the records after each complete round.
  std::vector<std::int64_t> round_ends;
};

struct SweepRecords {
  /// "splits", "groups", ...
  std::string kind;
  std::vector<SweepRun> runs;
  std::int32_t rounds = 0;
  /// Whether the steps of a run repeat one step (the median counts) or are those of a trace (their mean counts).
  bool repeats_one_step = true;
  /// Index of the point that ratios are against, counted over runs, then routes.
  std::size_t reference_idx = 0;
};

/// One row of a sweep. What was not measured is not set.
struct SweepPoint {
  SweepAxes axes;
  /// "workqueue", "auto"; splits that were asked for.
  std::string route;
  std::optional<std::int32_t> splits;
  /// Complete rounds, and steps in them.
  std::int64_t rounds = 0;
  std::int64_t steps = 0;
  /// Of a step: median over rounds of the round's median (one step) or mean (a trace).
  std::optional<double> device_ms, wall_ms;
  /// Half the distance between the quartiles of the rounds' times, as a part of the median; with three rounds or more.
  std::optional<double> spread;
  /// Time of the reference point over this one's, in the same round; above 1 is faster. Medians over rounds.
  std::optional<double> ratio_device, ratio_wall, ratio_spread;
  std::optional<double> tokens_per_s_wall;
  /// Useful K,V bytes a second of device time; share of the read probe, median over rounds.
  std::optional<double> gb_per_s, probe_share;
  /// The price before the step ran, and (predicted - measured) / measured.
  std::optional<double> predicted_ms, prediction_error;
  /// What ran most often, and in which part of the steps.
  std::string chosen_route;
  std::int32_t chosen_splits = 1;
  double chosen_share = 1.0;
  std::optional<double> max_abs_error;
};

struct SweepSummary {
  std::string kind;
  std::vector<SweepPoint> points;
  std::size_t reference_idx = 0;
  std::int32_t rounds = 0;
  bool repeats_one_step = true;
  RunMode mode = RunMode::kExecuted;
  std::string workload, backend, shape, layout, profile;
  std::int32_t num_workers = 1;
  WorkerKind worker_kind = WorkerKind::kThread;
  std::optional<double> probe_gb_per_s;
  std::int64_t memory_bytes = 0;
  std::vector<std::string> notes;
  bool interrupted = false;
  std::string error;
};

/// Requires at least one run.
SweepSummary summarize(const SweepRecords& records);

/// Options of a command with their values, as reports echo them.
using OptionEcho = std::vector<std::pair<std::string, std::string>>;

/// {"format": "persistentkv-sweep", "version": 1, ...}. Without a newline at the end.
std::string sweep_json(const SweepSummary& summary, const OptionEcho& options);
/// Head lines, one row a point, the fastest of each run marked with '*', notes. Ends with a newline.
std::string sweep_table(const SweepSummary& summary, TextStyle style);

/// Attention of a whole model: one plan, `layers` times the device's time of a layer.
struct CapacityPoint {
  std::int32_t batch = 1;
  std::int32_t context_tokens = 1;
  std::int32_t group_size = 1;
  /// "split", "flashinfer-tensor"; its splits.
  std::string route = {};
  std::int32_t splits = 1;
  /// Of one layer, and of planning once a step.
  double layer_ns = 0.0;
  double plan_ns = 0.0;
  /// Useful K,V bytes of a layer, and what all layers hold.
  std::int64_t layer_kv_bytes = 0;
};

struct CapacityRecords {
  std::vector<CapacityPoint> points;
  std::int32_t layers = 1;
  std::string profile, source, backend, shape, layout;
  bool interrupted = false;
};

/// Of all layers.
double step_ns(const CapacityPoint& point, std::int32_t layers);
double tokens_per_s(const CapacityPoint& point, std::int32_t layers);

/// {"format": "persistentkv-capacity", "version": 1, ...}.
std::string capacity_json(const CapacityRecords& records, const OptionEcho& options);
/// One table a group size: contexts by batches, tokens a second; and one row a point.
std::string capacity_table(const CapacityRecords& records, TextStyle style);

}  // namespace pkv
