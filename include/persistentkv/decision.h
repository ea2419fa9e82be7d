// Decision: the plan that runs, every candidate's price, and the reason.
// Not here: measuring a device (src/cost/calibration), running (backend.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "persistentkv/batch.h"
#include "persistentkv/dtype.h"
#include "persistentkv/layout.h"
#include "persistentkv/plan.h"
#include "persistentkv/result.h"

namespace pkv {

/// The terms of the paper's roofline formula for one device. Facts of a machine, never literals in code.
struct DeviceProfile {
  std::string name = "unmeasured";
  /// Workers (CPU) or SMs (GPU).
  std::int32_t num_workers = 1;
  /// beta: streaming read bandwidth.
  double read_bytes_per_ns = 10.0;
  /// Cmin: tasks a worker below which bandwidth is not reached.
  double min_tasks_per_worker = 1.0;
  /// lambda: a kernel launch or a fork-join of the pool.
  double launch_ns = 5000.0;
};

/// Checks that every field is finite and positive. Errors: kInvalidArgument naming the field.
Status validate(const DeviceProfile& profile);

/// Price of a plan (paper, "The policy"), with C = tasks / num_workers:
///   KVBytes / beta * max(1, Cmin / C) + launches * lambda + MergeBytes / beta
/// in nanoseconds. Merge bytes are counted once, as in the paper.
double predicted_ns(const Plan& plan, DType kv_dtype, const DeviceProfile& profile);

/// How a step is divided on a GPU with `num_sms` SMs: a rule in place of a calibrated policy. Splits rows so
/// that few long tasks or many short ones alike keep every SM reading until the end, and no row more than
/// that. For AttentionShape and lengths of any kind; measured on an H100 (docs/performance.md).
PlanOptions gpu_rule(const BatchState& batch, std::int32_t num_sms);

/// Read bandwidth of all workers together by the bytes of K (or V) that a task reads in one go, as the decode
/// kernel reads them. Facts of a machine; the defaults are 2 cores of a Zen 4 server (docs/decisions/0006).
struct ReadCurve {
  struct Point {
    std::int64_t bytes = 0;
    double bytes_per_ns = 0.0;
  };
  /// Ascending by bytes; between two points bandwidth is linear, outside it is that of the nearest.
  std::array<Point, 6> points = {
      {{2048, 18.0}, {4096, 21.0}, {8192, 24.0}, {16384, 28.0}, {32768, 30.5}, {65536, 32.5}}};

  [[nodiscard]] double bytes_per_ns(std::int64_t bytes) const;
};

/// How a step is divided on a CPU: route pages with one KV head, a run of heads or all heads a task, chosen by
/// layout, page size, lengths and the bandwidth by chunk size; splits that level the workers; fused merges.
PlanOptions cpu_rule(const BatchState& batch, const KvLayout& layout, DType kv_dtype, std::int32_t num_workers,
                     const ReadCurve& curve = {});

struct Candidate {
  Route route = Route::kRow;
  std::int32_t max_splits = 1;
  double predicted_ns = 0.0;
};

/// The plan that was priced is the plan that runs.
struct Decision {
  Plan plan;
  double predicted_ns = 0.0;
  std::vector<Candidate> candidates;
  std::string reason;
  /// Time that deciding and planning took; 0 when nobody measured it.
  std::int64_t plan_ns = 0;
};

/// Plans every route, prices each plan and keeps the cheapest; the first of `routes` wins a tie. A route
/// that cannot plan this step (a grid above the limit of tasks) is left out and named in the reason.
/// Errors: kInvalidArgument (no routes, bad profile), and those of make_plan when no route is left.
Result<Decision> decide(const BatchState& batch, DType kv_dtype, std::span<const Route> routes,
                        const DeviceProfile& profile);

}  // namespace pkv
