// The measurements of a calibration, and the fit.
#include "replay/calibrate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <utility>

#include "persistentkv/price.h"
#include "replay/cpu_probes.h"
#include "replay/step.h"
#include "report/statistics.h"

namespace pkv {
namespace {

constexpr std::int32_t kPageSize = 16;
constexpr std::int32_t kQueryHeads = 32;
constexpr int kFitRounds = 60;
constexpr double kRatioWeight = 4.0;
// Shares of 1, 2, 4 and 8 heads a task as cpu_rule knows them (ReadCurve, 2 cores of a Zen 4 server): what holds
// where a noisy machine cannot tell walks apart.
constexpr ChunkPoint kPriorChunks[] = {{4096, 0.70}, {8192, 0.82}, {16384, 0.89}, {32768, 0.95}};
constexpr double kPriorWeight = 2.0;
constexpr double kFirstStride = 1.3;
constexpr double kStrideShrinks = 0.92;

/// A step, run by row with so many KV heads a task, or by `pages` cut in as many splits.
struct Probe {
  std::vector<std::int32_t> lens;
  DType dtype = DType::kF16;
  std::int32_t num_kv_heads = 8;
  std::vector<std::int32_t> heads_per_task;
  std::int32_t splits = 16;
};

// Long steps for the walks, other groups and types for the overlap, short ones for starts and launches.
std::vector<Probe> steps_to_measure() {
  const std::vector<std::int32_t> long_rows(4, 12288);
  return {{long_rows, DType::kF16, 8, {1, 2, 4, 8}},
          {long_rows, DType::kF16, 32, {32}},
          {long_rows, DType::kF16, 4, {1, 4}},
          {long_rows, DType::kBF16, 8, {1, 8}},
          {{6144, 6144, 6144, 6144}, DType::kF32, 8, {8}},
          {{512}, DType::kF16, 8, {1, 8}, 2},
          {{2048}, DType::kF16, 8, {8}, 4},
          {{4096, 1024}, DType::kF16, 8, {8}, 8},
          {long_rows, DType::kF16, 8, {8}, 128}};
}

/// A measured plan.
struct Sample {
  std::string what;
  PriceInputs inputs;
  Plan plan;
  double measured_ns = 0.0;
  /// What the read probe reached beside it.
  double probe_bytes_per_ns = 0.0;
  /// Samples of one step were measured in turn: their ratios are surer than their times.
  std::size_t step_idx = 0;
};

/// Lets Ctrl-C through, keeps the inner progress to itself.
class InnerObserver final : public RunObserver {
 public:
  explicit InnerObserver(const RunObserver& outer) : outer_(outer) {}
  [[nodiscard]] bool cancelled() const override { return outer_.cancelled(); }

 private:
  const RunObserver& outer_;
};

AttentionShape shape_of(const Probe& probe) { return {.num_q_heads = kQueryHeads, .num_kv_heads = probe.num_kv_heads}; }

StepOptions step_options(const Probe& probe, const CalibrateOptions& options) {
  StepOptions step;
  step.run.shape = shape_of(probe);
  step.run.kv_dtype = probe.dtype;
  step.run.cpu = options.cpu;
  step.run.verify = VerifyMode::kOff;
  step.run.memory_limit_bytes = options.memory_limit_bytes;
  for (const std::int32_t heads : probe.heads_per_task) {
    step.run.routes.push_back(
        {.route = Route::kSplit, .splits = probe.splits, .kv_heads_per_task = heads, .merge = MergeMode::kFused});
  }
  step.seq_lens = probe.lens;
  step.page_size = kPageSize;
  step.repeats = options.repeats;
  return step;
}

/// The plan that a route of the step made.
Result<Plan> plan_again(const Probe& probe, const RouteChoice& choice, std::int32_t num_workers) {
  std::vector<std::int32_t> indptr = {0};
  for (const std::int32_t len : probe.lens) {
    indptr.push_back(indptr.back() + (len + kPageSize - 1) / kPageSize);
  }
  const std::vector<std::int32_t> pages(static_cast<std::size_t>(indptr.back()), 0);
  const auto table = BlockTable::csr(indptr, pages);
  if (!table.ok()) {
    return table.error();
  }
  const auto batch = BatchState::make({.shape = shape_of(probe),
                                       .page_size = kPageSize,
                                       .seq_lens = probe.lens,
                                       .block_table = *table,
                                       .num_pages = 1});
  if (!batch.ok()) {
    return batch.error();
  }
  return make_plan(*batch, {.route = choice.route,
                            .splits = choice.splits,
                            .num_workers = num_workers,
                            .kv_heads_per_task = choice.kv_heads_per_task,
                            .merge = choice.merge});
}

/// Times of the routes of one step, and the read rate that they belong to.
struct SteadyTimes {
  std::vector<double> ns;
  double probe_bytes_per_ns = 0.0;
};

/// The memory's state changes between repeats, and routes must be compared in the same one: each route's time is its
/// median part of the repeat's mean (geometric); the mean is the median of those, in bytes that the probe beside
/// read meanwhile.
SteadyTimes steady_times(const RunRecords& records) {
  const std::size_t num_routes = records.routes.size();
  const std::size_t num_repeats = records.probe.size();
  std::vector<std::vector<double>> parts(num_routes);
  std::vector<double> rates;
  std::vector<double> mean_bytes;
  for (std::size_t repeat = 0; repeat < num_repeats; ++repeat) {
    const ReadSample& read = records.probe[repeat];
    rates.push_back(static_cast<double>(read.bytes) / static_cast<double>(std::max<std::int64_t>(1, read.elapsed_ns)));
    double log_mean = 0.0;
    for (const RouteRecords& route : records.routes) {
      log_mean += std::log(static_cast<double>(std::max<std::int64_t>(1, route.steps[repeat].run.total_ns))) /
                  static_cast<double>(num_routes);
    }
    for (std::size_t route = 0; route < num_routes; ++route) {
      parts[route].push_back(static_cast<double>(records.routes[route].steps[repeat].run.total_ns) /
                             std::exp(log_mean));
    }
    mean_bytes.push_back(std::exp(log_mean) * rates.back());
  }
  SteadyTimes times;
  times.probe_bytes_per_ns = median(rates).value_or(1.0);
  for (const std::vector<double>& part : parts) {
    times.ns.push_back(median(part).value_or(0.0) * median(mean_bytes).value_or(0.0) / times.probe_bytes_per_ns);
  }
  return times;
}

Status add_samples(const Probe& probe, std::size_t step_idx, const CalibrateOptions& options, RunObserver& observer,
                   std::vector<Sample>& samples) {
  const StepOptions step = step_options(probe, options);
  InnerObserver inner(observer);
  const auto records = run_step(step, inner);
  if (!records.ok()) {
    return records.error();
  }
  if (records->error) {
    return *records->error;
  }
  if (records->interrupted) {
    return Error{ErrorCode::kCancelled, "stopped by the caller", "calibration"};
  }
  const SteadyTimes times = steady_times(*records);
  for (std::size_t i = 0; i < step.run.routes.size(); ++i) {
    auto plan = plan_again(probe, step.run.routes[i], records->num_workers);
    if (!plan.ok()) {
      return plan.error();
    }
    samples.push_back(
        {.what = fmt::format("{} {}, group {}, {} of {} KV heads a task, {} splits", fmt::join(probe.lens, ","),
                             dtype_name(probe.dtype), shape_of(probe).group_size(), probe.heads_per_task[i],
                             probe.num_kv_heads, plan->max_splits()),
         .inputs = {.shape = shape_of(probe), .kv_dtype = probe.dtype, .page_size = kPageSize},
         .plan = *std::move(plan),
         .measured_ns = times.ns[i],
         .probe_bytes_per_ns = times.probe_bytes_per_ns,
         .step_idx = step_idx});
  }
  return {};
}

/// From the probes alone: what the fit begins with.
DeviceProfile first_profile(const CpuProbes& probes, const CalibrateOptions& options) {
  DeviceProfile profile;
  profile.name = "calibrated";
  profile.kind = DeviceKind::kCpu;
  profile.source = fmt::format("pkv calibrate: probes and decode steps, medians of {}", options.repeats);
  profile.identity = options.identity;
  profile.num_workers = probes.num_workers;
  profile.cache_bytes = probes.l3_bytes * std::max(1, probes.num_l3);
  double one = 0.0;
  double all = 0.0;
  for (const ReadRate& read : probes.reads) {
    if (read.order == ReadOrder::kPages && read.workers == probes.num_workers && read.memory == MemoryPages::kHuge) {
      all = std::max(all, read.gb_per_s.median);
    }
    if (read.order == ReadOrder::kRandom && read.workers == 1 && read.memory == MemoryPages::kHuge) {
      one = std::max(one, read.gb_per_s.median);
    }
  }
  profile.bandwidth = {{probes.num_workers, all}};
  if (probes.num_workers > 1) {
    profile.bandwidth.insert(profile.bandwidth.begin(), {1, std::clamp(one, all / probes.num_workers, all)});
  }
  profile.chunks.assign(std::begin(kPriorChunks), std::end(kPriorChunks));
  profile.arithmetic.clear();
  for (const InCacheRate& rate : probes.in_cache) {
    if (rate.workers == probes.num_workers) {
      profile.arithmetic.push_back({.dtype = rate.dtype,
                                    .group_size = rate.group_size,
                                    .head_dim = rate.head_dim,
                                    .bytes_per_ns = rate.gb_per_s.median / rate.workers});
    }
  }
  profile.task_ns = 500.0;
  profile.launch_ns = 3000.0;
  profile.merge_launch_ns = 3000.0;
  profile.merge_bytes_per_ns = 10.0 * probes.num_workers;
  profile.plan_ns = 3000.0;
  profile.plan_task_ns = 10.0;
  profile.plan_page_ns = 0.7;
  profile.paper = {.read_bytes_per_ns = all, .min_tasks_per_worker = 1.0, .launch_ns = profile.launch_ns};
  return profile;
}

/// The fitted fields, with their limits.
struct Knob {
  double* value;
  double low;
  double high;
};
std::vector<Knob> knobs_of(DeviceProfile& profile) {
  std::vector<Knob> knobs = {{&profile.overlap_exponent, 1.0, 16.0},
                             {&profile.task_ns, 10.0, 2e4},
                             {&profile.launch_ns, 100.0, 1e5},
                             {&profile.merge_bytes_per_ns, 0.1, 1e3}};
  for (ChunkPoint& point : profile.chunks) {
    knobs.push_back({&point.share, 0.05, 1.0});
  }
  return knobs;
}

/// Predicted with the memory as fast as the probe beside the sample says.
Result<double> predict(const DeviceProfile& profile, const Sample& sample) {
  auto model = PriceModel::make(profile, sample.inputs);
  if (!model.ok()) {
    return model.error();
  }
  const double memory = sample.probe_bytes_per_ns > 0.0 && !profile.bandwidth.empty()
                            ? profile.bandwidth.back().bytes_per_ns / sample.probe_bytes_per_ns
                            : 1.0;
  model->set_correction({.memory = std::clamp(memory, 1.0 / kMaxCorrection, kMaxCorrection)});
  return model->price(sample.plan).device_ns;
}

/// Mean of squared logarithms, of times, kRatioWeight fold of ratios between neighbours of one step, and
/// kPriorWeight fold of what the shares of short pieces to long ones differ from the prior; infinite
/// for a profile that is not valid (shares that fall).
double misfit(const DeviceProfile& profile, std::span<const Sample> samples) {
  double sum = 0.0;
  double last_error = 0.0;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto predicted_ns = predict(profile, samples[i]);
    if (!predicted_ns.ok()) {
      return INFINITY;
    }
    const double error = std::log(*predicted_ns / samples[i].measured_ns);
    sum += error * error;
    if (i > 0 && samples[i].step_idx == samples[i - 1].step_idx) {
      sum += kRatioWeight * (error - last_error) * (error - last_error);
    }
    last_error = error;
  }
  const std::size_t last = profile.chunks.size() - 1;
  for (std::size_t i = 0; i < last; ++i) {
    const double prior = std::log(kPriorChunks[i].share / kPriorChunks[last].share);
    const double away = std::log(profile.chunks[i].share / profile.chunks[last].share) - prior;
    if (away > -0.5 * prior) {
      // On equal long rows 4 of 8 heads a task are as fast as 8; on mixed ones 8% slower (B8 bimodal, 2 cores).
      return INFINITY;
    }
    sum += kPriorWeight * away * away;
  }
  return sum / static_cast<double>(samples.size());
}

void fit(DeviceProfile& profile, std::span<const Sample> samples) {
  double best = misfit(profile, samples);
  double stride = kFirstStride;
  for (int round = 0; round < kFitRounds; ++round) {
    for (const Knob& knob : knobs_of(profile)) {
      for (const double factor : {stride, 1.0 / stride}) {
        const double old = *knob.value;
        *knob.value = std::clamp(old * factor, knob.low, knob.high);
        const double found = misfit(profile, samples);
        if (found < best) {
          best = found;
        } else {
          *knob.value = old;
        }
      }
    }
    stride = 1.0 + (stride - 1.0) * kStrideShrinks;
  }
  profile.merge_launch_ns = profile.launch_ns;
  profile.paper.launch_ns = profile.launch_ns;
}

}  // namespace

Result<Calibration> calibrate_cpu(const CalibrateOptions& options, RunObserver& observer) {
  if (options.repeats < 5 || options.repeats > 1000) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("{} repeats, must be 5 to 1000", options.repeats), "repeats"};
  }
  const std::vector<Probe> steps = steps_to_measure();
  const auto report = [&](std::size_t done) {
    observer.on_progress({.phase = RunPhase::kMeasuring,
                          .done = static_cast<std::int64_t>(done),
                          .total = static_cast<std::int64_t>(steps.size()) + 1,
                          .num_rows = 0});
  };
  report(0);
  Calibration calibration;
  {  // its workers must be gone before those of the steps are pinned to the same cores
    auto backend = CpuBackend::create(options.cpu);
    if (!backend.ok()) {
      return backend.error();
    }
    const auto probes = measure_cpu_probes(**backend, {.set = ProbeSet::kQuick, .passes = 5});
    if (!probes.ok()) {
      return probes.error();
    }
    calibration.profile = first_profile(*probes, options);
  }
  std::vector<Sample> samples;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    report(i + 1);
    if (observer.cancelled()) {
      return Error{ErrorCode::kCancelled, "stopped by the caller", "calibration"};
    }
    PKV_RETURN_IF_ERROR(add_samples(steps[i], i, options, observer, samples));
  }
  fit(calibration.profile, samples);
  PKV_RETURN_IF_ERROR(validate(calibration.profile));
  std::vector<double> errors;
  for (const Sample& sample : samples) {
    const auto predicted_ns = predict(calibration.profile, sample);
    if (!predicted_ns.ok()) {
      return predicted_ns.error();
    }
    errors.push_back(std::abs(*predicted_ns / sample.measured_ns - 1.0));
    calibration.steps.push_back({.what = sample.what,
                                 .measured_ns = sample.measured_ns,
                                 .predicted_ns = *predicted_ns,
                                 .probe_bytes_per_ns = sample.probe_bytes_per_ns});
  }
  calibration.median_error = median(errors).value_or(0.0);
  calibration.worst_error = quantile(errors, 1.0).value_or(0.0);
  return calibration;
}

}  // namespace pkv
