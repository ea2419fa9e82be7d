// The terminal tables: one run, the main job, a verification.
// Not here: alignment and colours (text_table.h), statistics (summary.cc).
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "report/report.h"
#include "report/text_table.h"

namespace pkv {
namespace {

constexpr auto kLeft = TextTable::Align::kLeft;
constexpr double kGib = 1073741824.0;

std::string route_label(const RouteSummary& route, bool best) {
  const std::string splits = route.splits ? fmt::format("={}", *route.splits) : std::string{};
  const char* const merge = route.merge == MergeMode::kFused ? " fused" : "";
  return fmt::format("{}{}{}{}", route.name, splits, merge, best ? " *" : "");
}

std::string error_cell(const std::optional<double>& error) {
  return error.has_value() ? fmt::format("{:.1e}", *error) : "-";
}

std::string percent_cell(const std::optional<double>& share) {
  return share.has_value() ? fmt::format("{:.0f}%", *share * 100.0) : "-";
}

/// Nothing where wall times are those of whole steps.
std::string layers_text(const RunSummary& summary) {
  return summary.num_layers == 1 ? std::string{} : fmt::format("; wall times of one of {} layers", summary.num_layers);
}

std::string head_lines(const RunSummary& summary, TextStyle style) {
  std::string out = coloured(summary.trace, CellTone::kBold, style);
  if (summary.seed) {
    out += fmt::format(", seed {}", *summary.seed);
  }
  out += fmt::format(": {} steps, {} physical pages\n", summary.steps, summary.physical_pages);
  out += fmt::format("{}; {}\n", summary.shape, summary.layout);
  if (summary.mode == RunMode::kPlanOnly) {
    return out + fmt::format("planned for {} SMs or workers, nothing executed\n", summary.num_workers);
  }
  if (summary.mode == RunMode::kSimulated) {
    return out + fmt::format("{}: predicted, nothing executed{}\n", summary.backend, layers_text(summary));
  }
  out += fmt::format("{}; {:.2f} GiB of K,V and weights", summary.backend,
                     static_cast<double>(summary.memory_bytes) / kGib);
  if (summary.probe_gb_per_s) {
    out += fmt::format("; read probe {:.1f} GB/s", *summary.probe_gb_per_s);
    if (summary.in_cache_gb_per_s) {
      out += fmt::format(", kernels in cache {:.1f} GB/s", *summary.in_cache_gb_per_s);
    }
  }
  if (summary.mlp_ms_p50) {
    out += fmt::format("; MLP proxy {:.2f} ms a step", *summary.mlp_ms_p50);
  }
  return out + layers_text(summary) + "\n";
}

std::string tail_lines(const RunSummary& summary, TextStyle style) {
  std::string out;
  for (const std::string& note : summary.notes) {
    out += coloured("note: " + note, CellTone::kDim, style) + "\n";
  }
  if (summary.interrupted) {
    out += fmt::format("interrupted: figures of the {} steps that were measured\n", summary.steps);
  }
  if (!summary.error.empty()) {
    out += coloured("failed: " + summary.error, CellTone::kBad, style) + "\n";
  }
  return out;
}

std::string percent(const std::optional<double>& fraction) {
  return fraction ? fmt::format("{:.2f}%", *fraction * 100.0) : std::string("-");
}

std::string policy_lines(const RunSummary& summary) {
  if (!summary.policy) {
    return {};
  }
  const PolicySummary& policy = *summary.policy;
  std::string chosen;
  for (const auto& [route, steps] : policy.choices) {
    chosen += fmt::format("{}{} {}", chosen.empty() ? "" : ", ", route, steps);
  }
  std::string out = fmt::format("\npolicy {} by profile {}{}: steps by choice: {}\n", policy.name, policy.profile,
                                policy.learns ? ", learning" : "", chosen);
  if (policy.trials > 0) {
    out += fmt::format("  one layer tried another plan in {} of {} steps\n", policy.trials, summary.steps);
  }
  if (policy.prediction_error_p50) {
    out += fmt::format("  predicted against measured device time: median error {}, 90% within {}, bias {}\n",
                       percent(policy.prediction_error_p50), percent(policy.prediction_error_p90),
                       percent(policy.prediction_bias));
  }
  if (policy.regret_mean) {
    out += fmt::format("  regret against the best of each step ({} repeats): mean {}, 95% {}, worst {}",
                       policy.oracle_repeats, percent(policy.regret_mean), percent(policy.regret_p95),
                       percent(policy.regret_max));
    out += policy.noise_mean ? fmt::format("; the plan against itself: mean {}, 95% {}\n", percent(policy.noise_mean),
                                           percent(policy.noise_p95))
                             : "\n";
    out += policy.cross_regret_mean
               ? fmt::format(
                     "  the best chosen by one half of the repeats, scored by the other: mean {}; the plan "
                     "against itself: mean {}\n",
                     percent(policy.cross_regret_mean), percent(policy.cross_noise_mean))
               : "";
  }
  if (policy.over_best_route) {
    out += fmt::format("  against the best single route ({}): {:+.2f}% wall time\n", policy.best_route,
                       *policy.over_best_route * 100.0);
  }
  return out;
}

/// Times and ratios: what a reader looks at first.
std::string speed_table(const RunSummary& summary, TextStyle style) {
  TextTable table({{"route", kLeft},
                   {"tokens/s device"},
                   {"tokens/s wall"},
                   {"ratio device"},
                   {"ratio wall"},
                   {"device ms p50"},
                   {"p95"},
                   {"p99"},
                   {"wall ms p50"},
                   {"p95"},
                   {"p99"},
                   {"GB/s"},
                   {"of probe"},
                   {"layer tokens/s"},
                   {"layer ratio"}});
  for (std::size_t i = 0; i < summary.routes.size(); ++i) {
    const RouteSummary& route = summary.routes[i];
    const bool best = summary.best_idx == i;
    table.add_row({route_label(route, best), cell(route.tokens_per_s_device, 1), cell(route.tokens_per_s_wall, 1),
                   cell(route.ratio_device, 3), cell(route.ratio_wall, 3), cell(route.device_ms_p50, 3),
                   cell(route.device_ms_p95, 3), cell(route.device_ms_p99, 3), cell(route.wall_ms_p50, 3),
                   cell(route.wall_ms_p95, 3), cell(route.wall_ms_p99, 3), cell(route.gb_per_s, 1),
                   percent_cell(route.probe_share), cell(route.layer_tokens_per_s, 1), cell(route.layer_ratio, 3)},
                  best ? CellTone::kGood : CellTone::kNormal);
  }
  return table.render(style);
}

/// The paper's counters, and what verification found.
std::string counter_table(const RunSummary& summary, TextStyle style) {
  TextTable table({{"route", kLeft},
                   {"plan us p50"},
                   {"launches"},
                   {"non-empty"},
                   {"tasks"},
                   {summary.worker_kind == WorkerKind::kThread ? "tasks/worker" : "tasks/SM"},
                   {"useful MiB"},
                   {"merge MiB"},
                   {"merge launches"},
                   {"max error"},
                   {"mean error"}});
  for (const RouteSummary& route : summary.routes) {
    table.add_row({route_label(route, false), cell(route.plan_us_p50, 1), cell(route.launches_per_step, 2),
                   cell(route.nonempty_share, 3), cell(route.tasks_per_step, 1), cell(route.tasks_per_worker_or_sm, 1),
                   cell(route.useful_kv_mib_per_step, 1), cell(route.merge_state_mib_per_step, 2),
                   cell(route.merge_launches_per_step, 2), error_cell(route.max_abs_error),
                   error_cell(route.mean_abs_error)});
  }
  return table.render(style);
}

/// Routes by the number of runs they won, most first, as "workqueue 3 of 5, pages 2 of 5".
std::string winners_text(std::span<const SuiteEntry> entries) {
  std::map<std::string, int> wins;
  for (const SuiteEntry& entry : entries) {
    if (entry.summary.best_idx) {
      ++wins[entry.summary.routes[*entry.summary.best_idx].name];
    }
  }
  std::vector<std::pair<std::string, int>> order(wins.begin(), wins.end());
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string text;
  for (const auto& [name, count] : order) {
    text += fmt::format("{}{} {} of {}", text.empty() ? "" : ", ", name, count, entries.size());
  }
  return text;
}

}  // namespace

std::string run_table(const RunSummary& summary, TextStyle style) {
  std::string out = head_lines(summary, style) + "\n";
  if (summary.mode != RunMode::kPlanOnly) {
    out += speed_table(summary, style) + "\n";
  }
  return out + counter_table(summary, style) + policy_lines(summary) + tail_lines(summary, style);
}

std::string suite_table(std::span<const SuiteEntry> entries, TextStyle style) {
  TextTable table({{"trace", kLeft},
                   {"route", kLeft},
                   {"ratio"},
                   {"wall ratio"},
                   {"tokens/s"},
                   {"wall tokens/s"},
                   {"GB/s"},
                   {"of probe"},
                   {"merge MiB"},
                   {"max error"}});
  for (const SuiteEntry& entry : entries) {
    if (&entry != entries.data()) {
      table.add_gap();
    }
    for (std::size_t i = 0; i < entry.summary.routes.size(); ++i) {
      const RouteSummary& route = entry.summary.routes[i];
      const bool best = entry.summary.best_idx == i;
      table.add_row({i == 0 ? entry.label : std::string{}, route_label(route, best), cell(route.ratio_device, 3),
                     cell(route.ratio_wall, 3), cell(route.tokens_per_s_device, 1), cell(route.tokens_per_s_wall, 1),
                     cell(route.gb_per_s, 1), percent_cell(route.probe_share), cell(route.merge_state_mib_per_step, 2),
                     error_cell(route.max_abs_error)},
                    best ? CellTone::kGood : CellTone::kNormal);
    }
  }
  std::string out = table.render(style);
  for (const SuiteEntry& entry : entries) {
    const std::string tail = tail_lines(entry.summary, style);
    out += tail.empty() ? tail : fmt::format("{}: {}", entry.label, tail);
  }
  return out;
}

std::string suite_advice(std::span<const SuiteEntry> entries) {
  const std::string winners = winners_text(entries);
  if (winners.empty()) {
    return "Nothing was measured to the end; repeat with fewer steps (--steps).";
  }
  const auto gain = [](const SuiteEntry& entry) {
    const auto best = entry.summary.best_idx;
    return best ? entry.summary.routes[*best].ratio_wall.value_or(0.0) : 0.0;
  };
  const auto& widest = *std::max_element(entries.begin(), entries.end(),
                                         [&](const auto& a, const auto& b) { return gain(a) < gain(b); });
  const std::string next =
      widest.arguments.empty() ? std::string{} : fmt::format(" Try next: pkv replay {}", widest.arguments);
  return fmt::format("Best by the wall clock: {}; widest gap on {} ({:.2f} times {}).{}", winners, widest.label,
                     gain(widest), widest.summary.baseline, next);
}

std::string verify_table(const VerifyRecords& records, TextStyle style) {
  TextTable table({{"covered", kLeft}, {"times"}});
  for (const auto& [kind, count] : records.coverage) {
    table.add_row({kind, fmt::format("{}", count)});
  }
  std::string out = table.render(style);
  out += fmt::format("\nseed {}: {} of {} cases, {} runs in {:.1f} s{}\n", records.seed, records.cases_run,
                     records.cases_asked, records.runs, static_cast<double>(records.elapsed_ns) * 1e-9,
                     records.interrupted ? " (interrupted)" : "");
  out += fmt::format("16-bit: max error {:.1e}, mean {:.1e}; fp32: max {:.1e}, mean {:.1e}; LSE: max {:.1e}\n",
                     records.max_abs_error_16bit, records.mean_abs_error_16bit, records.max_abs_error_f32,
                     records.mean_abs_error_f32, records.max_abs_error_lse);
  if (records.passed()) {
    return out + coloured("all cases passed", CellTone::kGood, style) + "\n";
  }
  if (!records.failure) {
    return out + fmt::format("no failure in {} of {} cases (interrupted)\n", records.cases_run, records.cases_asked);
  }
  const VerifyFailure& failure = *records.failure;
  out += coloured(fmt::format("case {} failed: {}", failure.case_idx, failure.message), CellTone::kBad, style) + "\n";
  out += fmt::format("  {}\n  repeat it: pkv verify --seed {} --case {}{}\n", failure.description, records.seed,
                     failure.case_idx, records.repeat_arguments);
  return out;
}

}  // namespace pkv
