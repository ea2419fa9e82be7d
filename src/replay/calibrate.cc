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
// Plans of one step run side by side, so their ratios are surer than their times.
constexpr double kRatioWeight = 4.0;
// Of what the shares of short pieces are by the probe of random chunks: holds the shares where noise hides the walks.
constexpr double kPriorWeight = 2.0;
// Errors (logarithms) above it count linearly: one odd step must not bend the fit of all others.
constexpr double kOutlier = 0.08;
constexpr double kFirstStride = 1.3;
constexpr double kStrideShrinks = 0.92;
constexpr double kLeastPriceError = 0.02;
constexpr double kMostPriceError = 0.2;

/// How a step is cut: KV heads a task, splits of the longest row.
struct Cut {
  std::int32_t heads = 1;
  std::int32_t splits = 1;
};

/// A step, run by every cut in turn.
struct Probe {
  std::vector<std::int32_t> lens;
  DType dtype = DType::kF16;
  std::int32_t num_kv_heads = 8;
  std::vector<Cut> cuts;
};

// Long steps for the walks, other groups and types for the overlap, short ones for starts, launches and merges: what
// a policy chooses between. None is of a trace.
std::vector<Probe> steps_to_measure() {
  const std::vector<std::int32_t> long_rows(4, 12288);
  return {{long_rows, DType::kF16, 8, {{1, 16}, {2, 16}, {4, 16}, {8, 16}, {8, 64}}},
          {{24576, 4096, 4096, 4096, 1024}, DType::kF16, 8, {{2, 16}, {4, 16}, {8, 16}}},
          {long_rows, DType::kF16, 32, {{32, 16}}},
          {long_rows, DType::kF16, 16, {{16, 16}}},
          {long_rows, DType::kF16, 4, {{1, 16}, {4, 16}}},
          {long_rows, DType::kBF16, 8, {{1, 16}, {8, 16}}},
          {{6144, 6144, 6144, 6144}, DType::kF32, 8, {{8, 16}}},
          {{512}, DType::kF16, 8, {{1, 1}, {8, 2}, {8, 8}}},
          {{2048}, DType::kF16, 8, {{1, 1}, {4, 2}, {8, 4}, {8, 16}}},
          {{3000, 1500, 800}, DType::kF16, 8, {{1, 1}, {2, 4}, {8, 4}, {8, 16}}}};
}

/// What ran beside a plan in one repeat: the state that the machine was in.
struct Beside {
  ReadSample read;      // the step's pages, read without arithmetic
  ReadSample in_cache;  // the step, its pages in the L2
};

/// A measured plan.
struct Sample {
  std::string what;
  PriceInputs inputs;
  Plan plan;
  /// By repeat.
  std::vector<double> measured_ns;
  std::vector<Beside> beside;
  /// Samples of one step ran in turn.
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
  for (const Cut& cut : probe.cuts) {
    step.run.routes.push_back(
        {.route = Route::kSplit, .splits = cut.splits, .kv_heads_per_task = cut.heads, .merge = MergeMode::kFused});
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
  std::vector<Beside> beside;
  for (std::size_t repeat = 0; repeat < records->probe.size(); ++repeat) {
    beside.push_back({.read = records->probe[repeat], .in_cache = records->in_cache[repeat]});
  }
  for (std::size_t i = 0; i < step.run.routes.size(); ++i) {
    auto plan = plan_again(probe, step.run.routes[i], records->num_workers);
    if (!plan.ok()) {
      return plan.error();
    }
    std::vector<double> measured_ns;
    for (const StepRecord& run : records->routes[i].steps) {
      measured_ns.push_back(static_cast<double>(std::max<std::int64_t>(1, run.run.total_ns)));
    }
    samples.push_back(
        {.what = fmt::format("{} {}, group {}, {} of {} KV heads a task, {} splits", fmt::join(probe.lens, ","),
                             dtype_name(probe.dtype), shape_of(probe).group_size(), probe.cuts[i].heads,
                             probe.num_kv_heads, plan->max_splits()),
         .inputs = {.shape = shape_of(probe), .kv_dtype = probe.dtype, .page_size = kPageSize},
         .plan = *std::move(plan),
         .measured_ns = std::move(measured_ns),
         .beside = beside,
         .step_idx = step_idx});
  }
  return {};
}

/// Shares of short chunks by the probe that reads random ones, up to the 32 KiB that 8 heads of a page are.
std::vector<ChunkPoint> chunk_shares(const CpuProbes& probes) {
  constexpr std::int64_t kWholePage = 32768;
  std::vector<ChunkPoint> chunks;
  for (const ReadRate& read : probes.reads) {
    if (read.order == ReadOrder::kRandom && read.workers == probes.num_workers && read.memory == MemoryPages::kHuge &&
        read.chunk_bytes.value_or(kWholePage + 1) <= kWholePage) {
      chunks.push_back({.bytes = *read.chunk_bytes, .share = read.gb_per_s.median});
    }
  }
  std::ranges::sort(chunks, {}, &ChunkPoint::bytes);
  const double whole = chunks.empty() ? 1.0 : chunks.back().share;
  double longest = 1.0;  // from the longest down, so that noise in short ones is cut
  for (auto point = chunks.rbegin(); point != chunks.rend(); ++point) {
    longest = std::clamp(point->share / std::max(whole, 1e-9), 0.05, longest);
    point->share = longest;
  }
  return chunks.empty() ? std::vector<ChunkPoint>{{kWholePage, 1.0}} : chunks;
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
  profile.chunks = chunk_shares(probes);
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

/// What is fitted: a profile, and what the read probe takes beyond its bytes (waking workers, its own start), which is
/// not what a launch of the kernels takes: with one figure for both the probe's 40 us went into every price.
struct Fit {
  DeviceProfile profile;
  double probe_ns = 20e3;
};

/// The fitted fields, with their limits.
struct Knob {
  double* value;
  double low;
  double high;
};
std::vector<Knob> knobs_of(Fit& fit) {
  DeviceProfile& profile = fit.profile;
  std::vector<Knob> knobs = {{&profile.overlap_exponent, 1.0, 16.0},
                             {&fit.probe_ns, 100.0, 2e5},
                             {&profile.task_ns, 10.0, 2e4},
                             {&profile.launch_ns, 100.0, 1e5},
                             {&profile.merge_bytes_per_ns, 0.1, 1e3}};
  for (ChunkPoint& point : profile.chunks) {
    knobs.push_back({&point.share, 0.05, 1.0});
  }
  return knobs;
}

/// Bytes a ns of a sample, without the fork-join that it also took.
double rate_of(const ReadSample& sample, double launch_ns) {
  const auto ns = static_cast<double>(std::max<std::int64_t>(1, sample.elapsed_ns));
  return static_cast<double>(sample.bytes) / std::max(ns - launch_ns, 0.5 * ns);
}

double bounded_correction(double factor) { return std::clamp(factor, 1.0 / kMaxCorrection, kMaxCorrection); }

/// ln(predicted / measured) by repeat, memory and kernels as fast as what ran beside says.
Result<std::vector<double>> log_errors(const Fit& fit, const Sample& sample) {
  const DeviceProfile& profile = fit.profile;
  auto model = PriceModel::make(profile, sample.inputs);
  if (!model.ok()) {
    return model.error();
  }
  const double bandwidth = profile.bandwidth.back().bytes_per_ns;
  const double arithmetic = model->arithmetic_bytes_per_ns() * profile.num_workers;
  std::vector<double> errors;
  for (std::size_t i = 0; i < sample.measured_ns.size(); ++i) {
    const Beside& beside = sample.beside[i];
    model->set_correction({.memory = bounded_correction(bandwidth / rate_of(beside.read, fit.probe_ns)),
                           .arithmetic = bounded_correction(arithmetic / rate_of(beside.in_cache, profile.launch_ns))});
    errors.push_back(std::log(model->price(sample.plan).device_ns / sample.measured_ns[i]));
  }
  return errors;
}

double robust_square(double error) {
  const double size = std::abs(error);
  return size <= kOutlier ? size * size : kOutlier * (2.0 * size - kOutlier);
}

/// Median difference of two plans of one step, repeat by repeat: by how much their ratio is mispriced.
double ratio_error(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> differences;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    differences.push_back(a[i] - b[i]);
  }
  return median(differences).value_or(0.0);
}

/// Sums over times, over ratios of plans of one step, and over what the shares of short pieces, relative to long
/// ones, differ from the probe's; infinite for a profile that is not valid (shares that fall).
double misfit(const Fit& fit, std::span<const ChunkPoint> prior, std::span<const Sample> samples) {
  double sum = 0.0;
  std::vector<double> last;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    auto errors = log_errors(fit, samples[i]);
    if (!errors.ok()) {
      return INFINITY;
    }
    sum += robust_square(median(*errors).value_or(0.0));
    if (i > 0 && samples[i].step_idx == samples[i - 1].step_idx) {
      sum += kRatioWeight * robust_square(ratio_error(*errors, last));
    }
    last = *std::move(errors);
  }
  const std::vector<ChunkPoint>& chunks = fit.profile.chunks;
  for (std::size_t i = 0; i + 1 < prior.size(); ++i) {
    const double away = std::log(chunks[i].share / chunks.back().share) - std::log(prior[i].share / prior.back().share);
    sum += kPriorWeight * away * away;
  }
  return sum;
}

void improve(Fit& fit, std::span<const Sample> samples) {
  const std::vector<ChunkPoint> prior = fit.profile.chunks;
  double best = misfit(fit, prior, samples);
  double stride = kFirstStride;
  for (int round = 0; round < kFitRounds; ++round) {
    for (const Knob& knob : knobs_of(fit)) {
      for (const double factor : {stride, 1.0 / stride}) {
        const double old = *knob.value;
        *knob.value = std::clamp(old * factor, knob.low, knob.high);
        const double found = misfit(fit, prior, samples);
        if (found < best) {
          best = found;
        } else {
          *knob.value = old;
        }
      }
    }
    stride = 1.0 + (stride - 1.0) * kStrideShrinks;
  }
  fit.profile.merge_launch_ns = fit.profile.launch_ns;
  fit.profile.paper.launch_ns = fit.profile.launch_ns;
}

/// The first probes last a second; what was read beside the steps says better how fast memory is as a rule.
void take_usual_bandwidth(DeviceProfile& profile, std::span<const Sample> samples) {
  constexpr std::int64_t kLongBytes = std::int64_t{64} << 20;
  std::vector<double> rates;
  for (const Sample& sample : samples) {
    for (const Beside& beside : sample.beside) {
      if (beside.read.bytes >= kLongBytes) {
        rates.push_back(rate_of(beside.read, 0.0));
      }
    }
  }
  const auto usual = median(rates);
  if (!usual || *usual <= 0.0) {
    return;
  }
  const double factor = *usual / profile.bandwidth.back().bytes_per_ns;
  for (BandwidthPoint& point : profile.bandwidth) {
    point.bytes_per_ns *= factor;
  }
  profile.paper.read_bytes_per_ns = profile.bandwidth.back().bytes_per_ns;
}

/// In-cache rates beside the steps are spread over the whole calibration, those of the probes are of one moment. What
/// runs beside only lowers them, and larger groups are never faster, which raises the low ones.
void take_usual_arithmetic(DeviceProfile& profile, std::span<const Sample> samples) {
  for (ArithmeticPoint& point : profile.arithmetic) {
    std::vector<double> rates;
    for (const Sample& sample : samples) {
      if (sample.inputs.kv_dtype == point.dtype && sample.inputs.shape.group_size() == point.group_size) {
        for (const Beside& beside : sample.beside) {
          rates.push_back(rate_of(beside.in_cache, profile.launch_ns) / profile.num_workers);
        }
      }
    }
    point.bytes_per_ns = median(rates).value_or(point.bytes_per_ns);
  }
  for (std::size_t i = profile.arithmetic.size() - 1; i > 0; --i) {  // by type, then group, ascending
    if (profile.arithmetic[i - 1].dtype == profile.arithmetic[i].dtype) {
      profile.arithmetic[i - 1].bytes_per_ns =
          std::max(profile.arithmetic[i - 1].bytes_per_ns, profile.arithmetic[i].bytes_per_ns);
    }
  }
}

/// What the fit leaves, by sample, and in ratios of plans.
Status judge(const Fit& fit, Calibration& calibration, std::span<const Sample> samples) {
  std::vector<double> errors;
  std::vector<double> ratios;
  std::vector<double> last;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    auto found = log_errors(fit, samples[i]);
    if (!found.ok()) {
      return found.error();
    }
    const double error = std::exp(median(*found).value_or(0.0)) - 1.0;
    const double measured_ns = median(samples[i].measured_ns).value_or(0.0);
    std::vector<double> rates;
    for (const Beside& beside : samples[i].beside) {
      rates.push_back(rate_of(beside.read, 0.0));
    }
    errors.push_back(std::abs(error));
    calibration.steps.push_back({.what = samples[i].what,
                                 .measured_ns = measured_ns,
                                 .predicted_ns = measured_ns * (1.0 + error),
                                 .probe_bytes_per_ns = median(rates).value_or(0.0)});
    if (i > 0 && samples[i].step_idx == samples[i - 1].step_idx) {
      ratios.push_back(std::abs(ratio_error(*found, last)));
    }
    last = *std::move(found);
  }
  calibration.median_error = median(errors).value_or(0.0);
  calibration.worst_error = quantile(errors, 1.0).value_or(0.0);
  calibration.profile.price_error = std::clamp(quantile(ratios, 0.9).value_or(0.0), kLeastPriceError, kMostPriceError);
  return {};
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
    const auto probes = measure_cpu_probes(**backend, {.set = ProbeSet::kQuick,
                                                       .passes = 5,
                                                       .memory_limit_bytes = options.memory_limit_bytes,
                                                       .cancelled = [&observer] { return observer.cancelled(); }});
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
  take_usual_bandwidth(calibration.profile, samples);
  take_usual_arithmetic(calibration.profile, samples);
  Fit fit{.profile = std::move(calibration.profile)};
  improve(fit, samples);
  calibration.profile = fit.profile;
  PKV_RETURN_IF_ERROR(judge(fit, calibration, samples));
  PKV_RETURN_IF_ERROR(validate(calibration.profile));
  return calibration;
}

}  // namespace pkv
