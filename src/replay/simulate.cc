// The loop over steps of a simulated run.
#include "replay/simulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "cost/gpu_kernels.h"
#include "replay/policy_steps.h"
#include "replay/route_planner.h"
#include "replay/session.h"

namespace pkv {
namespace {

std::int64_t to_ns(double ns) { return std::llround(ns); }

Status check_routes(const RunOptions& options, const PriceModel& model) {
  for (const RouteChoice& choice : options.routes) {
    if (!choice.policy && !model.prices(choice.route)) {
      return Error{ErrorCode::kUnsupported, fmt::format("profile {} has no price of it", model.profile().name),
                   fmt::format("route {}", route_name(choice.route))};
    }
  }
  return {};
}

void describe(const DeviceProfile& profile, RunRecords& records) {
  records.mode = RunMode::kSimulated;
  records.num_workers = profile.num_workers;
  records.worker_kind = profile.kind == DeviceKind::kGpu ? WorkerKind::kSm : WorkerKind::kThread;
  records.backend = fmt::format("sim:{}, {} {}", profile.name, profile.num_workers,
                                profile.kind == DeviceKind::kGpu ? "SMs" : "workers");
  records.notes.push_back(fmt::format("nothing was executed: all times are the profile's prices. {}", profile.source));
}

Status simulate_step(const RunOptions& options, const StepRows& rows, std::vector<RoutePlanner>& planners,
                     RunRecords& records) {
  const auto batch = make_batch(rows, rows.kv_indices, options.shape, records.page_size, records.physical_pages);
  if (!batch.ok()) {
    return batch.error();
  }
  std::vector<StepRecord> done;
  for (RoutePlanner& planner : planners) {
    auto record = planner.plan(*batch, options.kv_dtype, rows.step_idx, now_ns());
    if (!record.ok()) {
      return record.error();
    }
    const Price& price = *planner.price();
    record->run = {.total_ns = to_ns(price.device_ns),
                   .decode_ns = to_ns(price.decode_ns),
                   .merge_ns = to_ns(price.merge_ns),
                   .dispatch_ns = to_ns(price.launch_ns)};
    record->plan_ns = to_ns(price.plan_ns * options.num_layers);
    record->wall_ns = to_ns(price.plan_ns) + record->run.total_ns;
    done.push_back(*record);
  }
  if (const auto policy = find_policy(options)) {
    records.policy->steps.push_back(options.oracle_repeats > 0 ? with_regret(done, *policy)
                                                               : without_regret(done[*policy]));
  }
  for (std::size_t i = 0; i < planners.size(); ++i) {
    records.routes[i].steps.push_back(done[i]);
  }
  return {};
}

}  // namespace

Result<RunRecords> simulate_steps(const RunOptions& options, StepSource& source, RunObserver& observer,
                                  RunRecords records) {
  const DeviceProfile& profile = *options.profile;
  const auto model = make_price_model(options, records.page_size);
  if (!model.ok()) {
    return model.error();
  }
  PKV_RETURN_IF_ERROR(check_routes(options, *model));
  describe(profile, records);
  const auto layout = KvLayout::make(options.order, options.packing, records.page_size, options.shape);
  if (!layout.ok()) {
    return layout.error();
  }
  RoutePlanner::Setting setting{.num_workers = profile.num_workers,
                                .gpu = gpu_machine(profile),
                                .split_choice = profile.kind == DeviceKind::kGpu ? RoutePlanner::SplitChoice::kGpuRule
                                                                                 : RoutePlanner::SplitChoice::kCpuRule,
                                .page_size = records.page_size,
                                .external = {},
                                .layout = *layout};
  for (const ExternalKernel& kernel : profile.external) {
    setting.external.push_back(kernel.route);
  }
  auto planners = make_planners(options, setting);
  if (!planners.ok()) {
    return planners.error();
  }
  StepRows rows;
  for (std::int64_t done = 0;; ++done) {
    if (observer.cancelled()) {
      records.interrupted = true;
      return records;
    }
    const Result<bool> more = source.next(rows);
    const Status status = !more.ok() ? more.error()
                          : *more    ? simulate_step(options, rows, *planners, records)
                                     : Status{};
    if (!status.ok()) {
      records.error = status.error();
      return records;
    }
    if (!*more) {
      return records;
    }
    observer.on_progress({.phase = RunPhase::kMeasuring,
                          .done = done + 1,
                          .total = source.max_steps(),
                          .num_rows = static_cast<std::int32_t>(rows.seq_lens.size())});
  }
}

}  // namespace pkv
