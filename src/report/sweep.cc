// Rounds to points: what one round took, then medians over rounds.
// Not here: how points are written down (sweep_text.cc).
#include "report/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <span>

#include "report/statistics.h"

namespace pkv {
namespace {

constexpr double kNsPerMs = 1e6;
constexpr double kNsPerS = 1e9;
constexpr std::size_t kRoundsForSpread = 3;

using Rounds = std::vector<double>;

/// Steps [begin, end) of each round. A run that was stopped in its first round has that part of it.
std::vector<std::pair<std::size_t, std::size_t>> rounds_of(const SweepRun& run) {
  std::vector<std::pair<std::size_t, std::size_t>> rounds;
  std::size_t begin = 0;
  for (const std::int64_t end : run.round_ends) {
    rounds.emplace_back(begin, static_cast<std::size_t>(end));
    begin = static_cast<std::size_t>(end);
  }
  const std::size_t measured = run.records.routes.empty() ? 0 : run.records.routes.front().steps.size();
  if (rounds.empty() && measured > 0) {
    rounds.emplace_back(0, measured);
  }
  return rounds;
}

double typical(std::span<const double> samples, bool repeats_one_step) {
  return (repeats_one_step ? median(samples) : mean(samples)).value_or(0.0);
}

/// One figure a round out of one a step.
template <typename Field>
Rounds by_round(const SweepRun& run, std::size_t route_idx, bool repeats_one_step, Field field) {
  Rounds rounds;
  for (const auto& [begin, end] : rounds_of(run)) {
    std::vector<double> samples;
    for (std::size_t i = begin; i < end; ++i) {
      samples.push_back(field(run.records.routes[route_idx].steps[i]));
    }
    if (!samples.empty()) {
      rounds.push_back(typical(samples, repeats_one_step));
    }
  }
  return rounds;
}

Rounds device_rounds(const SweepRun& run, std::size_t route_idx, bool repeats_one_step) {
  return by_round(run, route_idx, repeats_one_step,
                  [](const StepRecord& step) { return static_cast<double>(step.run.total_ns); });
}

Rounds wall_rounds(const SweepRun& run, std::size_t route_idx, bool repeats_one_step) {
  return by_round(run, route_idx, repeats_one_step,
                  [](const StepRecord& step) { return static_cast<double>(step.wall_ns); });
}

/// Round by round, over the rounds that both have.
Rounds ratios(const Rounds& numerators, const Rounds& denominators) {
  Rounds out;
  for (std::size_t i = 0; i < std::min(numerators.size(), denominators.size()); ++i) {
    if (denominators[i] > 0.0) {
      out.push_back(numerators[i] / denominators[i]);
    }
  }
  return out;
}

std::optional<double> quartile_spread(const Rounds& rounds) {
  const auto middle = median(rounds);
  if (rounds.size() < kRoundsForSpread || !(middle.value_or(0.0) > 0.0)) {
    return std::nullopt;
  }
  return (*quantile(rounds, 0.75) - *quantile(rounds, 0.25)) / 2.0 / *middle;
}

std::optional<double> scaled(std::optional<double> value, double factor) {
  return value ? std::optional(*value * factor) : std::nullopt;
}

/// Bytes a second of the read probe, round by round.
Rounds probe_rounds(const SweepRun& run) {
  Rounds rounds;
  for (const auto& [begin, end] : rounds_of(run)) {
    double bytes = 0.0;
    double elapsed_ns = 0.0;
    for (std::size_t i = begin; i < std::min(end, run.records.probe.size()); ++i) {
      bytes += static_cast<double>(run.records.probe[i].bytes);
      elapsed_ns += static_cast<double>(run.records.probe[i].elapsed_ns);
    }
    if (elapsed_ns > 0.0) {
      rounds.push_back(bytes / elapsed_ns);
    }
  }
  return rounds;
}

void fill_choice(SweepPoint& point, const std::vector<StepRecord>& steps) {
  std::map<std::pair<Route, std::int32_t>, std::int64_t> counts;
  for (const StepRecord& step : steps) {
    ++counts[{step.route, step.max_splits}];
  }
  const auto most = std::ranges::max_element(counts, [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != counts.end()) {
    point.chosen_route = route_name(most->first.first);
    point.chosen_splits = most->first.second;
    point.chosen_share = static_cast<double>(most->second) / static_cast<double>(steps.size());
  }
}

void fill_prediction(SweepPoint& point, const SweepRun& run, std::size_t route_idx, const SweepRecords& records) {
  const auto& steps = run.records.routes[route_idx].steps;
  if (steps.empty() ||
      !std::ranges::all_of(steps, [](const StepRecord& step) { return step.predicted_ns.has_value(); })) {
    return;
  }
  const Rounds predicted = by_round(run, route_idx, records.repeats_one_step,
                                    [](const StepRecord& step) { return step.predicted_ns.value_or(0.0); });
  point.predicted_ms = scaled(median(predicted), 1.0 / kNsPerMs);
  if (run.records.mode == RunMode::kExecuted && point.predicted_ms && point.device_ms.value_or(0.0) > 0.0) {
    point.prediction_error = *point.predicted_ms / *point.device_ms - 1.0;
  }
}

void fill_rates(SweepPoint& point, const SweepRun& run, std::size_t route_idx, const SweepRecords& records,
                const Rounds& device) {
  const Rounds bytes = by_round(run, route_idx, records.repeats_one_step,
                                [](const StepRecord& step) { return static_cast<double>(step.useful_kv_bytes); });
  const Rounds rows = by_round(run, route_idx, records.repeats_one_step,
                               [](const StepRecord& step) { return static_cast<double>(step.num_rows); });
  const Rounds rates = ratios(bytes, device);
  point.gb_per_s = median(rates);
  point.probe_share = median(ratios(rates, probe_rounds(run)));
  point.tokens_per_s_wall =
      scaled(median(ratios(rows, wall_rounds(run, route_idx, records.repeats_one_step))), kNsPerS);
}

SweepPoint summarize_point(const SweepRun& run, std::size_t route_idx, const SweepRecords& records) {
  const RouteRecords& route = run.records.routes[route_idx];
  const Rounds device = device_rounds(run, route_idx, records.repeats_one_step);
  SweepPoint point;
  point.axes = run.axes;
  point.route = route.name;
  point.splits = route.splits;
  point.rounds = static_cast<std::int64_t>(run.round_ends.size());
  point.steps = static_cast<std::int64_t>(route.steps.size());
  point.device_ms = scaled(median(device), 1.0 / kNsPerMs);
  point.wall_ms = scaled(median(wall_rounds(run, route_idx, records.repeats_one_step)), 1.0 / kNsPerMs);
  point.spread = quartile_spread(device);
  fill_rates(point, run, route_idx, records, device);
  fill_prediction(point, run, route_idx, records);
  fill_choice(point, route.steps);
  if (route.errors) {
    point.max_abs_error = route.errors->max_abs;
  }
  return point;
}

struct Place {
  const SweepRun* run = nullptr;
  std::size_t route_idx = 0;
};

void fill_ratios(SweepSummary& summary, const std::vector<Place>& places, bool repeats_one_step) {
  const Place& reference = places[summary.reference_idx];
  const Rounds device = device_rounds(*reference.run, reference.route_idx, repeats_one_step);
  const Rounds wall = wall_rounds(*reference.run, reference.route_idx, repeats_one_step);
  for (std::size_t i = 0; i < places.size(); ++i) {
    const Rounds found = ratios(device, device_rounds(*places[i].run, places[i].route_idx, repeats_one_step));
    summary.points[i].ratio_device = median(found);
    summary.points[i].ratio_spread = quartile_spread(found);
    summary.points[i].ratio_wall =
        median(ratios(wall, wall_rounds(*places[i].run, places[i].route_idx, repeats_one_step)));
  }
}

/// What all runs have in common: an axis of the sweep is left out.
void describe_inputs(SweepSummary& summary, const SweepRecords& records) {
  const RunRecords& first = records.runs.front().records;
  for (const SweepRun& run : records.runs) {
    if (run.records.shape != first.shape) {
      summary.shape = fmt::format("{} KV heads, head dimension {}", first.shape.num_kv_heads, first.shape.head_dim);
    }
    if (run.records.page_size != first.page_size || run.records.order != first.order ||
        run.records.packing != first.packing) {
      summary.layout = dtype_name(first.kv_dtype);
    }
  }
}

void describe(SweepSummary& summary, const SweepRecords& records) {
  const RunSummary first = summarize(records.runs.front().records);
  summary.mode = first.mode;
  summary.workload = first.trace;
  summary.backend = first.backend;
  summary.shape = first.shape;
  summary.layout = first.layout;
  summary.num_workers = first.num_workers;
  summary.worker_kind = first.worker_kind;
  summary.memory_bytes = first.memory_bytes;
  summary.profile = records.runs.front().records.policy ? records.runs.front().records.policy->profile : std::string{};
  Rounds probes;
  for (const SweepRun& run : records.runs) {
    const Rounds of_run = probe_rounds(run);
    probes.insert(probes.end(), of_run.begin(), of_run.end());
    summary.interrupted = summary.interrupted || run.records.interrupted;
    if (run.records.error) {
      summary.error = run.records.error->to_string();
    }
    for (const std::string& note : run.records.notes) {
      if (std::ranges::find(summary.notes, note) == summary.notes.end()) {
        summary.notes.push_back(note);
      }
    }
  }
  summary.probe_gb_per_s = median(probes);
  describe_inputs(summary, records);
}

}  // namespace

SweepSummary summarize(const SweepRecords& records) {
  SweepSummary summary;
  summary.kind = records.kind;
  summary.rounds = records.rounds;
  summary.repeats_one_step = records.repeats_one_step;
  summary.reference_idx = records.reference_idx;
  describe(summary, records);
  std::vector<Place> places;
  for (const SweepRun& run : records.runs) {
    for (std::size_t i = 0; i < run.records.routes.size(); ++i) {
      summary.points.push_back(summarize_point(run, i, records));
      places.push_back({&run, i});
    }
  }
  summary.reference_idx = std::min(summary.reference_idx, places.size() - 1);
  fill_ratios(summary, places, records.repeats_one_step);
  return summary;
}

double step_ns(const CapacityPoint& point, std::int32_t layers) { return point.plan_ns + layers * point.layer_ns; }

double tokens_per_s(const CapacityPoint& point, std::int32_t layers) {
  const double ns = step_ns(point, layers);
  return ns > 0.0 ? point.batch * kNsPerS / ns : 0.0;
}

}  // namespace pkv
