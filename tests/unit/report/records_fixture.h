// Hand-made records with figures that can be checked by head.
#pragma once

#include "report/records.h"

namespace pkv::testing {

inline StepRecord make_step(std::int64_t idx, Route route, std::int32_t rows, std::int64_t device_ns) {
  StepRecord step;
  step.step_idx = idx;
  step.route = route;
  step.num_rows = rows;
  step.counters = {.num_launches = 2,
                   .num_merge_launches = 1,
                   .num_tasks = 40,
                   .num_nonempty_tasks = 30,
                   .num_partial_slots = 8,
                   .attended_tokens = 1000,
                   .merge_state_bytes = 1 << 20};
  step.useful_kv_bytes = 4 << 20;
  step.plan_ns = 1000;
  step.run = {.total_ns = device_ns, .decode_ns = device_ns - 300, .merge_ns = 200, .dispatch_ns = 100};
  step.wall_ns = device_ns + 1000;
  return step;
}

/// Two routes over two steps of 4 rows; `row` takes 2 ms a step on the device, `workqueue` 1 ms.
inline RunRecords make_records() {
  RunRecords records;
  records.trace = "paper:bimodal";
  records.seed = 7;
  records.physical_pages = 123;
  records.num_workers = 2;
  records.backend = "test backend";
  records.routes = {{.name = "row", .splits = {}, .steps = {}, .errors = {}},
                    {.name = "workqueue", .splits = 20, .steps = {}, .errors = ErrorStats{1, 10, 2e-4, 1e-4}}};
  for (std::int64_t i = 0; i < 2; ++i) {
    records.routes[0].steps.push_back(make_step(i, Route::kRow, 4, 2000000));
    records.routes[1].steps.push_back(make_step(i, Route::kWorkqueue, 4, 1000000));
    records.probe.push_back({.bytes = 8 << 20, .elapsed_ns = 1000000});
  }
  return records;
}

inline RunRecords make_plan_only_records() {
  RunRecords records = make_records();
  records.mode = RunMode::kPlanOnly;
  records.num_workers = 28;
  records.worker_kind = WorkerKind::kUnknown;
  records.probe.clear();
  records.backend.clear();
  records.routes[1].errors.reset();
  for (RouteRecords& route : records.routes) {
    for (StepRecord& step : route.steps) {
      step.run = {};
      step.wall_ns = 0;
    }
  }
  return records;
}

}  // namespace pkv::testing
