// StepRecord: what one executed step leaves behind. Reports read records and nothing else.
// Not here: statistics over records (src/report).
#pragma once

#include <cstdint>
#include <optional>

#include "persistentkv/backend.h"
#include "persistentkv/plan.h"

namespace pkv {

/// Of a step in which one layer tried another plan (Decision::trial).
struct TrialTimes {
  RunTimes before;  // the decision's plan
  RunTimes trial;   // the other
  RunTimes after;   // the decision's again
};

struct StepRecord {
  std::int64_t step_idx = 0;
  Route route = Route::kRow;
  std::int32_t num_rows = 0;
  std::int32_t max_splits = 1;
  PlanCounters counters = {};
  std::int64_t useful_kv_bytes = 0;
  /// Price of the plan that ran, if a policy priced it.
  std::optional<double> predicted_ns = std::nullopt;
  /// Validation, decision and plan construction.
  std::int64_t plan_ns = 0;
  /// Device clock: dispatch, decode, merge. Where one of the layers tried another plan, the total is that of an average
  /// layer, no less than that of the others.
  RunTimes run = {};
  /// Wall clock around planning and execution of a layer. Where several layers are known to run a plan
  /// (EngineOptions::num_layers) a layer has its part of planning.
  std::int64_t wall_ns = 0;
  /// Of a replay; Engine::run has a record a layer.
  std::optional<TrialTimes> trial = std::nullopt;
};

}  // namespace pkv
