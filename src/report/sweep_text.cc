// Sweeps and capacity as JSON and as tables.
// Not here: statistics (sweep.cc).
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "report/sweep.h"
#include "report/text_table.h"

namespace pkv {
namespace {

using Json = nlohmann::ordered_json;

constexpr auto kLeft = TextTable::Align::kLeft;
constexpr double kGib = 1073741824.0;
constexpr int kFormatVersion = 1;
constexpr const char* kAttentionOnly =
    "attention only: no projections, MLP, sampling or communication; one plan a step serves all layers";

template <typename T>
Json nullable(const std::optional<T>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

std::string dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace); }

// Whole numbers stay numbers.
Json axis_value(const std::string& text) {
  const Json number = Json::parse(text, nullptr, false);
  return number.is_number() ? number : Json(text);
}

Json options_object(const OptionEcho& options) {
  Json json = Json::object();
  for (const auto& [name, value] : options) {
    json[name] = axis_value(value);
  }
  return json;
}

Json mode_name(RunMode mode) { return mode == RunMode::kSimulated ? "simulated" : "executed"; }

Json kind_name(WorkerKind kind) { return kind == WorkerKind::kSm ? "sm" : "thread"; }

Json point_object(const SweepPoint& point, bool is_reference) {
  Json axes = Json::object();
  for (const auto& [name, value] : point.axes) {
    axes[name] = axis_value(value);
  }
  return {{"axes", std::move(axes)},
          {"route", point.route},
          {"splits", nullable(point.splits)},
          {"reference", is_reference},
          {"rounds", point.rounds},
          {"steps", point.steps},
          {"device_ms", nullable(point.device_ms)},
          {"wall_ms", nullable(point.wall_ms)},
          {"spread", nullable(point.spread)},
          {"ratio_device", nullable(point.ratio_device)},
          {"ratio_wall", nullable(point.ratio_wall)},
          {"ratio_spread", nullable(point.ratio_spread)},
          {"tokens_per_s_wall", nullable(point.tokens_per_s_wall)},
          {"gb_per_s", nullable(point.gb_per_s)},
          {"probe_share", nullable(point.probe_share)},
          {"predicted_ms", nullable(point.predicted_ms)},
          {"prediction_error", nullable(point.prediction_error)},
          {"chosen",
           point.chosen_route.empty()
               ? Json(nullptr)
               : Json({{"route", point.chosen_route}, {"splits", point.chosen_splits}, {"share", point.chosen_share}})},
          {"max_abs_error", nullable(point.max_abs_error)}};
}

std::string percent(const std::optional<double>& fraction, int decimals) {
  return fraction ? fmt::format("{:.{}f}%", *fraction * 100.0, decimals) : std::string("-");
}

std::string signed_percent(const std::optional<double>& fraction) {
  return fraction ? fmt::format("{:+.0f}%", *fraction * 100.0) : std::string("-");
}

std::string spread_text(const std::optional<double>& spread) { return percent(spread, 1); }

// Another project's route says nothing of splits.
std::string plan_text(const std::string& route, std::int32_t splits) {
  const auto parsed = parse_route(route);
  return parsed.ok() && is_external(*parsed) ? route : fmt::format("{} {}", route, splits);
}

// "split 24", "pages 6 (80% of steps)".
std::string choice_text(const SweepPoint& point) {
  if (point.chosen_route.empty()) {
    return "-";
  }
  return fmt::format("{}{}", plan_text(point.chosen_route, point.chosen_splits),
                     point.chosen_share < 0.995 ? fmt::format(" ({:.0f}% of steps)", point.chosen_share * 100.0) : "");
}

std::string route_text(const SweepPoint& point, bool fastest) {
  return fmt::format("{}{}{}", point.route, point.splits ? fmt::format("={}", *point.splits) : "", fastest ? " *" : "");
}

// Of the points with the same axes, so that points of unequal work are not compared.
std::vector<bool> find_fastest(const std::vector<SweepPoint>& points) {
  std::map<SweepAxes, std::size_t> best;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (points[i].device_ms) {
      const auto [found, is_new] = best.emplace(points[i].axes, i);
      if (!is_new && *points[i].device_ms < *points[found->second].device_ms) {
        found->second = i;
      }
    }
  }
  std::vector<bool> fastest(points.size(), false);
  std::map<SweepAxes, int> sizes;
  for (const SweepPoint& point : points) {
    ++sizes[point.axes];
  }
  for (const auto& [axes, i] : best) {
    fastest[i] = sizes[axes] > 1;
  }
  return fastest;
}

std::vector<TextTable::Column> point_columns(const SweepAxes& axes, bool simulated) {
  std::vector<TextTable::Column> columns;
  for (const auto& [name, value] : axes) {
    columns.push_back({.title = name});
  }
  columns.push_back({.title = "route", .align = kLeft});
  const std::string time = simulated ? "predicted ms" : "device ms";
  for (const std::string& title : {time, std::string("spread"), std::string("wall ms"), std::string("ratio"),
                                   std::string("ratio spread"), std::string("GB/s"), std::string("of probe")}) {
    columns.push_back({.title = title});
  }
  columns.push_back({.title = "runs", .align = kLeft});
  if (!simulated) {
    columns.push_back({.title = "predicted ms"});
    columns.push_back({.title = "error"});
  }
  columns.push_back({.title = "max error"});
  return columns;
}

std::string points_table(const SweepSummary& summary, TextStyle style) {
  const bool simulated = summary.mode == RunMode::kSimulated;
  TextTable table(point_columns(summary.points.front().axes, simulated));
  const std::vector<bool> fastest = find_fastest(summary.points);
  for (std::size_t i = 0; i < summary.points.size(); ++i) {
    const SweepPoint& point = summary.points[i];
    std::vector<std::string> cells;
    for (const auto& [name, value] : point.axes) {
      cells.push_back(value);
    }
    const bool is_reference = i == summary.reference_idx;
    cells.insert(cells.end(), {route_text(point, fastest[i]), cell(point.device_ms, 3), spread_text(point.spread),
                               cell(point.wall_ms, 3), cell(point.ratio_device, 3) + (is_reference ? " ref" : ""),
                               is_reference ? "-" : spread_text(point.ratio_spread), cell(point.gb_per_s, 1),
                               percent(point.probe_share, 1), choice_text(point)});
    if (!simulated) {
      cells.push_back(cell(point.predicted_ms, 3));
      cells.push_back(signed_percent(point.prediction_error));
    }
    cells.push_back(point.max_abs_error ? fmt::format("{:.1e}", *point.max_abs_error) : "-");
    table.add_row(std::move(cells), fastest[i] ? CellTone::kGood : CellTone::kNormal);
  }
  return table.render(style);
}

std::string sweep_head(const SweepSummary& summary, TextStyle style) {
  std::string out = coloured(fmt::format("sweep {}", summary.kind), CellTone::kBold, style) +
                    fmt::format(" over {}\n{}; {}\n", summary.workload, summary.shape, summary.layout);
  if (summary.mode == RunMode::kSimulated) {
    return out + fmt::format("{}: predicted, nothing executed\n\n", summary.backend);
  }
  out += fmt::format("{}; {:.2f} GiB of K,V", summary.backend, static_cast<double>(summary.memory_bytes) / kGib);
  if (summary.probe_gb_per_s) {
    out += fmt::format("; read probe {:.1f} GB/s", *summary.probe_gb_per_s);
  }
  return out + fmt::format(
                   "; prices by profile {}\n{} rounds, points in another order each; a time is the median over "
                   "rounds of the {} of its steps\n\n",
                   summary.profile, summary.rounds, summary.repeats_one_step ? "median" : "mean");
}

std::string notes_of(const std::vector<std::string>& notes, TextStyle style) {
  std::string out;
  for (const std::string& note : notes) {
    out += coloured("note: " + note, CellTone::kDim, style) + "\n";
  }
  return out;
}

// The batches and contexts of one group size; a point that an interruption left out is "-".
std::string capacity_grid(const CapacityRecords& records, std::int32_t group, TextStyle style) {
  std::map<std::int32_t, std::map<std::int32_t, double>> by_context;
  std::map<std::int32_t, bool> batches;
  for (const CapacityPoint& point : records.points) {
    if (point.group_size == group) {
      by_context[point.context_tokens][point.batch] = tokens_per_s(point, records.layers);
      batches[point.batch] = true;
    }
  }
  std::vector<TextTable::Column> columns = {{.title = "context"}};
  for (const auto& [batch, used] : batches) {
    columns.push_back({.title = fmt::format("batch {}", batch)});
  }
  TextTable table(columns);
  for (const auto& [context, rates] : by_context) {
    std::vector<std::string> cells = {fmt::format("{}", context)};
    for (const auto& [batch, used] : batches) {
      const auto found = rates.find(batch);
      cells.push_back(found == rates.end() ? "-" : fmt::format("{:.1f}", found->second));
    }
    table.add_row(std::move(cells));
  }
  return fmt::format("tokens a second, group size {}\n", group) + table.render(style) + "\n";
}

std::string capacity_rows(const CapacityRecords& records, TextStyle style) {
  TextTable table({{.title = "group"},
                   {.title = "context"},
                   {.title = "batch"},
                   {.title = "tokens/s"},
                   {.title = "step ms"},
                   {.title = "layer us"},
                   {.title = "plan us"},
                   {.title = "GB/s"},
                   {.title = "K,V GiB"},
                   {.title = "runs", .align = kLeft}});
  for (const CapacityPoint& point : records.points) {
    const double gb_per_s = point.layer_ns > 0.0 ? static_cast<double>(point.layer_kv_bytes) / point.layer_ns : 0.0;
    table.add_row({fmt::format("{}", point.group_size), fmt::format("{}", point.context_tokens),
                   fmt::format("{}", point.batch), fmt::format("{:.1f}", tokens_per_s(point, records.layers)),
                   fmt::format("{:.3f}", step_ns(point, records.layers) * 1e-6),
                   fmt::format("{:.1f}", point.layer_ns * 1e-3), fmt::format("{:.1f}", point.plan_ns * 1e-3),
                   fmt::format("{:.1f}", gb_per_s),
                   fmt::format("{:.2f}", static_cast<double>(point.layer_kv_bytes) * records.layers / kGib),
                   plan_text(point.route, point.splits)});
  }
  return table.render(style);
}

}  // namespace

std::string sweep_json(const SweepSummary& summary, const OptionEcho& options) {
  Json points = Json::array();
  for (std::size_t i = 0; i < summary.points.size(); ++i) {
    points.push_back(point_object(summary.points[i], i == summary.reference_idx));
  }
  return dump({{"format", "persistentkv-sweep"},
               {"version", kFormatVersion},
               {"sweep", summary.kind},
               {"options", options_object(options)},
               {"workload", summary.workload},
               {"mode", mode_name(summary.mode)},
               {"backend", summary.backend},
               {"num_workers_or_sms", summary.num_workers},
               {"worker_kind", kind_name(summary.worker_kind)},
               {"shape", summary.shape},
               {"layout", summary.layout},
               {"profile", summary.profile},
               {"rounds", summary.rounds},
               {"time_of_a_round", summary.repeats_one_step ? "median" : "mean"},
               {"probe_gb_per_s", nullable(summary.probe_gb_per_s)},
               {"memory_bytes", summary.memory_bytes},
               {"points", std::move(points)},
               {"notes", summary.notes},
               {"interrupted", summary.interrupted},
               {"error", summary.error.empty() ? Json(nullptr) : Json(summary.error)}});
}

std::string sweep_table(const SweepSummary& summary, TextStyle style) {
  std::string out = sweep_head(summary, style) + points_table(summary, style);
  out += "\nratio: time of the point marked ref over this one's in the same round, above 1 is faster";
  out += summary.mode == RunMode::kSimulated ? "\n" : "; spread: half the distance of the quartiles over rounds\n";
  out += notes_of(summary.notes, style);
  if (summary.interrupted) {
    out += "interrupted: figures of the rounds that were measured\n";
  }
  if (!summary.error.empty()) {
    out += coloured("failed: " + summary.error, CellTone::kBad, style) + "\n";
  }
  return out;
}

std::string capacity_json(const CapacityRecords& records, const OptionEcho& options) {
  Json points = Json::array();
  for (const CapacityPoint& point : records.points) {
    points.push_back(
        {{"batch", point.batch},
         {"context_tokens", point.context_tokens},
         {"group_size", point.group_size},
         {"tokens_per_s", tokens_per_s(point, records.layers)},
         {"step_ms", step_ns(point, records.layers) * 1e-6},
         {"layer_us", point.layer_ns * 1e-3},
         {"plan_us", point.plan_ns * 1e-3},
         {"gb_per_s", point.layer_ns > 0.0 ? static_cast<double>(point.layer_kv_bytes) / point.layer_ns : 0.0},
         {"kv_bytes", point.layer_kv_bytes * records.layers},
         {"chosen", {{"route", point.route}, {"splits", point.splits}}}});
  }
  return dump({{"format", "persistentkv-capacity"},
               {"version", kFormatVersion},
               {"options", options_object(options)},
               {"backend", records.backend},
               {"profile", records.profile},
               {"source", records.source},
               {"shape", records.shape},
               {"layout", records.layout},
               {"layers", records.layers},
               {"scope", kAttentionOnly},
               {"points", std::move(points)},
               {"interrupted", records.interrupted}});
}

std::string capacity_table(const CapacityRecords& records, TextStyle style) {
  std::string out = coloured("capacity", CellTone::kBold, style) +
                    fmt::format(" of {}, attention of {} layers\n{}; {}\n\n", records.backend, records.layers,
                                records.shape, records.layout);
  std::map<std::int32_t, bool> groups;
  for (const CapacityPoint& point : records.points) {
    groups[point.group_size] = true;
  }
  for (const auto& [group, used] : groups) {
    out += capacity_grid(records, group, style);
  }
  out += capacity_rows(records, style) + "\n";
  out += notes_of({fmt::format("predicted, nothing executed; {}", kAttentionOnly),
                   "K,V GiB is what the batch holds in all layers; whether it fits is not checked",
                   fmt::format("profile {}: {}", records.profile, records.source)},
                  style);
  return out + (records.interrupted ? "interrupted: figures of the points that were reached\n" : "");
}

}  // namespace pkv
