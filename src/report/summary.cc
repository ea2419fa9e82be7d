// Records to statistics.
// Not here: how they are written down (json.cc, tables.cc).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "report/report.h"
#include "report/statistics.h"

namespace pkv {
namespace {

constexpr double kMib = 1048576.0;
constexpr double kNsPerS = 1e9;
constexpr double kNsPerMs = 1e6;
constexpr double kNsPerUs = 1e3;

/// Sums over the steps of one route; what every mean and throughput is made of.
struct Totals {
  std::int64_t rows = 0;
  std::int64_t launches = 0;
  std::int64_t merge_launches = 0;
  std::int64_t tasks = 0;
  std::int64_t nonempty_tasks = 0;
  std::int64_t merge_bytes = 0;
  std::int64_t useful_bytes = 0;
  std::int64_t device_ns = 0;
  std::int64_t wall_ns = 0;
};

Totals sum_steps(const std::vector<StepRecord>& steps) {
  Totals totals;
  for (const StepRecord& step : steps) {
    totals.rows += step.num_rows;
    totals.launches += step.counters.num_launches;
    totals.merge_launches += step.counters.num_merge_launches;
    totals.tasks += step.counters.num_tasks;
    totals.nonempty_tasks += step.counters.num_nonempty_tasks;
    totals.merge_bytes += step.counters.merge_state_bytes;
    totals.useful_bytes += step.useful_kv_bytes;
    totals.device_ns += step.run.total_ns;
    totals.wall_ns += step.wall_ns;
  }
  return totals;
}

std::optional<double> ratio(double numerator, double denominator) {
  if (denominator > 0.0) {
    return numerator / denominator;
  }
  return std::nullopt;
}

std::optional<double> ratio(std::optional<double> numerator, std::optional<double> denominator) {
  if (numerator.has_value() && denominator.has_value()) {
    return ratio(*numerator, *denominator);
  }
  return std::nullopt;
}

/// Quantile of one time of every step, in units of `unit_ns`.
template <typename Field>
std::optional<double> time_quantile(const std::vector<StepRecord>& steps, double q, double unit_ns, Field field) {
  std::vector<double> samples(steps.size());
  std::transform(steps.begin(), steps.end(), samples.begin(),
                 [&](const StepRecord& step) { return static_cast<double>(field(step)) / unit_ns; });
  return quantile(samples, q);
}

void fill_counters(RouteSummary& summary, const Totals& totals, std::int64_t num_steps, std::int32_t num_workers) {
  const auto steps = static_cast<double>(num_steps);
  summary.useful_kv_mib_per_step = ratio(static_cast<double>(totals.useful_bytes) / kMib, steps);
  summary.launches_per_step = ratio(static_cast<double>(totals.launches), steps);
  summary.merge_launches_per_step = ratio(static_cast<double>(totals.merge_launches), steps);
  summary.merge_state_mib_per_step = ratio(static_cast<double>(totals.merge_bytes) / kMib, steps);
  summary.tasks_per_step = ratio(static_cast<double>(totals.tasks), steps);
  summary.tasks_per_worker_or_sm = ratio(static_cast<double>(totals.tasks), steps * num_workers);
  if (num_steps > 0) {
    summary.nonempty_share =
        totals.tasks > 0 ? static_cast<double>(totals.nonempty_tasks) / static_cast<double>(totals.tasks) : 1.0;
  }
}

void fill_times(RouteSummary& summary, const std::vector<StepRecord>& steps) {
  const auto device = [](const StepRecord& step) { return step.run.total_ns; };
  const auto wall = [](const StepRecord& step) { return step.wall_ns; };
  summary.device_ms_p50 = time_quantile(steps, 0.50, kNsPerMs, device);
  summary.device_ms_p95 = time_quantile(steps, 0.95, kNsPerMs, device);
  summary.device_ms_p99 = time_quantile(steps, 0.99, kNsPerMs, device);
  summary.wall_ms_p50 = time_quantile(steps, 0.50, kNsPerMs, wall);
  summary.wall_ms_p95 = time_quantile(steps, 0.95, kNsPerMs, wall);
  summary.wall_ms_p99 = time_quantile(steps, 0.99, kNsPerMs, wall);
}

void fill_time_parts(RouteSummary& summary, const std::vector<StepRecord>& steps) {
  summary.decode_ms_p50 = time_quantile(steps, 0.5, kNsPerMs, [](const StepRecord& s) { return s.run.decode_ns; });
  summary.merge_ms_p50 = time_quantile(steps, 0.5, kNsPerMs, [](const StepRecord& s) { return s.run.merge_ns; });
  summary.dispatch_ms_p50 = time_quantile(steps, 0.5, kNsPerMs, [](const StepRecord& s) { return s.run.dispatch_ns; });
}

void fill_throughput(RouteSummary& summary, const Totals& totals) {
  const auto rows = static_cast<double>(totals.rows);
  summary.tokens_per_s_device = ratio(rows * kNsPerS, static_cast<double>(totals.device_ns));
  summary.tokens_per_s_wall = ratio(rows * kNsPerS, static_cast<double>(totals.wall_ns));
  summary.gb_per_s = ratio(static_cast<double>(totals.useful_bytes), static_cast<double>(totals.device_ns));
}

void fill_layer(RouteSummary& summary, const Totals& totals, const std::vector<std::int64_t>& mlp_ns) {
  if (mlp_ns.empty()) {
    return;
  }
  const auto mlp_total = std::accumulate(mlp_ns.begin(), mlp_ns.end(), std::int64_t{0});
  summary.layer_tokens_per_s =
      ratio(static_cast<double>(totals.rows) * kNsPerS, static_cast<double>(totals.device_ns + mlp_total));
}

RouteSummary summarize_route(const RouteRecords& route, const RunRecords& records) {
  RouteSummary summary;
  summary.name = route.name;
  summary.splits = route.splits;
  summary.merge = route.merge;
  const Totals totals = sum_steps(route.steps);
  summary.steps = static_cast<std::int64_t>(route.steps.size());
  summary.rows = totals.rows;
  fill_counters(summary, totals, summary.steps, records.num_workers);
  const auto plan = [](const StepRecord& step) { return step.plan_ns; };
  summary.plan_us_p50 = time_quantile(route.steps, 0.50, kNsPerUs, plan);
  summary.plan_us_p99 = time_quantile(route.steps, 0.99, kNsPerUs, plan);
  if (records.mode != RunMode::kPlanOnly) {
    fill_times(summary, route.steps);
    if (records.worker_kind == WorkerKind::kThread || records.mode == RunMode::kSimulated) {
      fill_time_parts(summary, route.steps);
    }
    fill_throughput(summary, totals);
    fill_layer(summary, totals, records.mlp_ns);
  }
  if (route.errors.has_value()) {
    summary.max_abs_error = route.errors->max_abs;
    summary.mean_abs_error = route.errors->mean_abs();
    summary.verified_steps = route.errors->num_steps;
  }
  return summary;
}

std::optional<double> read_rate(const std::vector<ReadSample>& probe) {
  double bytes = 0.0;
  double elapsed_ns = 0.0;
  for (const ReadSample& sample : probe) {
    bytes += static_cast<double>(sample.bytes);
    elapsed_ns += static_cast<double>(sample.elapsed_ns);
  }
  return ratio(bytes, elapsed_ns);
}

void fill_comparisons(RunSummary& summary, std::size_t baseline_idx) {
  const RouteSummary baseline = summary.routes[baseline_idx];
  for (RouteSummary& route : summary.routes) {
    route.ratio_device = ratio(route.tokens_per_s_device, baseline.tokens_per_s_device);
    route.ratio_wall = ratio(route.tokens_per_s_wall, baseline.tokens_per_s_wall);
    route.layer_ratio = ratio(route.layer_tokens_per_s, baseline.layer_tokens_per_s);
    route.probe_share = ratio(route.gb_per_s, summary.probe_gb_per_s);
  }
  summary.baseline = baseline.name;
}

std::optional<std::size_t> fastest(const std::vector<RouteSummary>& routes) {
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < routes.size(); ++i) {
    if (routes[i].tokens_per_s_wall > (best ? routes[*best].tokens_per_s_wall : std::nullopt)) {
      best = i;
    }
  }
  return best;
}

void fill_regret(PolicySummary& summary, const std::vector<PolicyStep>& steps) {
  std::vector<double> regrets;
  std::vector<double> noises;
  std::vector<double> cross_regrets;
  std::vector<double> cross_noises;
  for (const PolicyStep& step : steps) {
    if (step.regret) {
      regrets.push_back(*step.regret);
    }
    if (step.noise) {
      noises.push_back(*step.noise);
    }
    if (step.cross_regret && step.cross_noise) {
      cross_regrets.push_back(*step.cross_regret);
      cross_noises.push_back(*step.cross_noise);
    }
  }
  summary.regret_mean = mean(regrets);
  summary.regret_p95 = quantile(regrets, 0.95);
  summary.regret_max = quantile(regrets, 1.0);
  summary.noise_mean = mean(noises);
  summary.noise_p95 = quantile(noises, 0.95);
  summary.cross_regret_mean = mean(cross_regrets);
  summary.cross_noise_mean = mean(cross_noises);
}

void fill_prediction(PolicySummary& summary, const std::vector<PolicyStep>& steps) {
  std::vector<double> errors;
  std::vector<double> signed_errors;
  for (const PolicyStep& step : steps) {
    if (step.measured_ns > 0.0 && step.predicted_ns > 0.0) {
      signed_errors.push_back(step.predicted_ns / step.measured_ns - 1.0);
      errors.push_back(std::abs(signed_errors.back()));
    }
  }
  summary.prediction_error_p50 = quantile(errors, 0.5);
  summary.prediction_error_p90 = quantile(errors, 0.9);
  summary.prediction_bias = mean(signed_errors);
}

void fill_choices(PolicySummary& summary, const std::vector<PolicyStep>& steps) {
  for (const PolicyStep& step : steps) {
    summary.trials += step.tried ? 1 : 0;
    const std::string name(route_name(step.route));
    const auto found = std::ranges::find(summary.choices, name, &std::pair<std::string, std::int64_t>::first);
    if (found == summary.choices.end()) {
      summary.choices.emplace_back(name, 1);
    } else {
      ++found->second;
    }
  }
  std::ranges::stable_sort(summary.choices, [](const auto& a, const auto& b) { return a.second > b.second; });
}

PolicySummary summarize_policy(const PolicyRecords& records, RunMode mode, const std::vector<RouteSummary>& routes) {
  PolicySummary summary;
  summary.name = routes[records.route_idx].name;
  summary.profile = records.profile;
  summary.learns = records.learns;
  summary.oracle_repeats = records.oracle_repeats;
  fill_regret(summary, records.steps);
  fill_choices(summary, records.steps);
  if (mode == RunMode::kExecuted) {
    fill_prediction(summary, records.steps);
  }
  std::optional<double> best;
  for (std::size_t i = 0; i < routes.size(); ++i) {
    if (i != records.route_idx && routes[i].tokens_per_s_wall > best) {
      best = routes[i].tokens_per_s_wall;
      summary.best_route = routes[i].name;
    }
  }
  if (const auto over = ratio(best, routes[records.route_idx].tokens_per_s_wall)) {
    summary.over_best_route = *over - 1.0;
  }
  return summary;
}

std::string shape_text(const AttentionShape& shape) {
  std::string text = fmt::format("{} query heads, {} KV heads, head dimension {}", shape.num_q_heads,
                                 shape.num_kv_heads, shape.head_dim);
  if (shape.sliding_window_tokens) {
    text += fmt::format(", window {}", *shape.sliding_window_tokens);
  }
  if (shape.logit_soft_cap) {
    text += fmt::format(", soft cap {}", *shape.logit_soft_cap);
  }
  return shape.sinks == Sinks::kPerQueryHead ? text + ", sinks" : text;
}

std::string layout_text(const RunRecords& records) {
  return fmt::format(
      "{}{}, page size {}, {}{}", kv_order_name(records.order), records.packing == KvPacking::kPacked ? " packed" : "",
      records.page_size, dtype_name(records.kv_dtype),
      records.query_dtype == records.kv_dtype ? std::string{}
                                              : fmt::format(" with {} queries", dtype_name(records.query_dtype)));
}

}  // namespace

RunSummary summarize(const RunRecords& records) {
  RunSummary summary;
  summary.trace = records.trace;
  summary.seed = records.seed;
  summary.mode = records.mode;
  summary.physical_pages = records.physical_pages;
  summary.backend = records.backend;
  summary.num_workers = records.num_workers;
  summary.worker_kind = records.worker_kind;
  summary.num_layers = records.num_layers;
  summary.shape = shape_text(records.shape);
  summary.layout = layout_text(records);
  summary.memory_bytes = records.memory_bytes;
  summary.notes = records.notes;
  summary.interrupted = records.interrupted;
  summary.error = records.error ? records.error->to_string() : std::string{};
  summary.probe_gb_per_s = read_rate(records.probe);
  summary.in_cache_gb_per_s = read_rate(records.in_cache);
  std::vector<double> mlp_ms(records.mlp_ns.size());
  std::transform(records.mlp_ns.begin(), records.mlp_ns.end(), mlp_ms.begin(),
                 [](std::int64_t ns) { return static_cast<double>(ns) / kNsPerMs; });
  summary.mlp_ms_p50 = median(mlp_ms);
  for (const RouteRecords& route : records.routes) {
    summary.routes.push_back(summarize_route(route, records));
    summary.steps = std::max(summary.steps, summary.routes.back().steps);
  }
  if (records.baseline_idx < summary.routes.size()) {
    fill_comparisons(summary, records.baseline_idx);
  }
  summary.best_idx = fastest(summary.routes);
  if (records.policy) {
    summary.policy = summarize_policy(*records.policy, records.mode, summary.routes);
  }
  return summary;
}

}  // namespace pkv
