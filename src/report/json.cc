// The JSON of the command line contract (docs/cli.md).
// Not here: statistics (summary.cc).
#include <nlohmann/json.hpp>

#include "report/report.h"

namespace pkv {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
Json nullable(const std::optional<T>& value) {
  return value.has_value() ? Json(*value) : Json(nullptr);
}

Json worker_kind_name(WorkerKind kind) {
  switch (kind) {
    case WorkerKind::kThread: return "thread";
    case WorkerKind::kSm: return "sm";
    case WorkerKind::kUnknown: return nullptr;
  }
  return nullptr;
}

Json route_object(const RouteSummary& route) {
  Json json = {
      {"name", route.name},
      {"steps", route.steps},
      {"rows", route.rows},
      {"useful_kv_mib_per_step", nullable(route.useful_kv_mib_per_step)},
      {"launches_per_step", nullable(route.launches_per_step)},
      {"nonempty_share", nullable(route.nonempty_share)},
      {"tasks_per_step", nullable(route.tasks_per_step)},
      {"tasks_per_worker_or_sm", nullable(route.tasks_per_worker_or_sm)},
      {"merge_state_mib_per_step", nullable(route.merge_state_mib_per_step)},
      {"merge_launches_per_step", nullable(route.merge_launches_per_step)},
      {"plan_us_p50", nullable(route.plan_us_p50)},
      {"device_ms_p50", nullable(route.device_ms_p50)},
      {"wall_ms_p50", nullable(route.wall_ms_p50)},
      {"tokens_per_s_device", nullable(route.tokens_per_s_device)},
      {"tokens_per_s_wall", nullable(route.tokens_per_s_wall)},
      {"ratio_device", nullable(route.ratio_device)},
      {"ratio_wall", nullable(route.ratio_wall)},
      {"max_abs_error", nullable(route.max_abs_error)},
      {"mean_abs_error", nullable(route.mean_abs_error)},
  };
  json.update({
      {"gb_per_s", nullable(route.gb_per_s)},
      {"probe_share", nullable(route.probe_share)},
      {"splits", nullable(route.splits)},
      {"verified_steps", nullable(route.verified_steps)},
      {"plan_us_p99", nullable(route.plan_us_p99)},
      {"device_ms_p95", nullable(route.device_ms_p95)},
      {"device_ms_p99", nullable(route.device_ms_p99)},
      {"wall_ms_p95", nullable(route.wall_ms_p95)},
      {"wall_ms_p99", nullable(route.wall_ms_p99)},
      {"decode_ms_p50", nullable(route.decode_ms_p50)},
      {"merge_ms_p50", nullable(route.merge_ms_p50)},
      {"dispatch_ms_p50", nullable(route.dispatch_ms_p50)},
      {"layer_tokens_per_s", nullable(route.layer_tokens_per_s)},
      {"layer_ratio", nullable(route.layer_ratio)},
      {"merge", merge_mode_name(route.merge)},
  });
  return json;
}

Json policy_object(const PolicySummary& policy) {
  Json choices = Json::object();
  for (const auto& [route, steps] : policy.choices) {
    choices[route] = steps;
  }
  return {{"name", policy.name},
          {"profile", policy.profile},
          {"learns", policy.learns},
          {"regret_mean", nullable(policy.regret_mean)},
          {"regret_p95", nullable(policy.regret_p95)},
          {"regret_max", nullable(policy.regret_max)},
          {"noise_mean", nullable(policy.noise_mean)},
          {"noise_p95", nullable(policy.noise_p95)},
          {"cross_regret_mean", nullable(policy.cross_regret_mean)},
          {"cross_noise_mean", nullable(policy.cross_noise_mean)},
          {"oracle_repeats", policy.oracle_repeats},
          {"prediction_error_p50", nullable(policy.prediction_error_p50)},
          {"prediction_error_p90", nullable(policy.prediction_error_p90)},
          {"prediction_bias", nullable(policy.prediction_bias)},
          {"over_best_route", nullable(policy.over_best_route)},
          {"best_route", policy.best_route.empty() ? Json(nullptr) : Json(policy.best_route)},
          {"trials", policy.trials},
          {"choices", std::move(choices)}};
}

Json mode_name(RunMode mode) {
  switch (mode) {
    case RunMode::kExecuted: return "executed";
    case RunMode::kPlanOnly: return "plan_only";
    case RunMode::kSimulated: return "simulated";
  }
  return nullptr;
}

Json run_object(const RunSummary& summary) {
  Json routes = Json::array();
  for (const RouteSummary& route : summary.routes) {
    routes.push_back(route_object(route));
  }
  Json json;
  json["trace"] = summary.trace;
  json["seed"] = nullable(summary.seed);
  json["steps"] = summary.steps;
  json["physical_pages"] = summary.physical_pages;
  json["routes"] = std::move(routes);
  json["probe_gb_per_s"] = nullable(summary.probe_gb_per_s);
  json["in_cache_gb_per_s"] = nullable(summary.in_cache_gb_per_s);
  json["mlp_ms_p50"] = nullable(summary.mlp_ms_p50);
  json["baseline"] = summary.baseline;
  json["best"] = summary.best_idx ? Json(summary.routes[*summary.best_idx].name) : Json(nullptr);
  json["policy"] = summary.policy ? policy_object(*summary.policy) : Json(nullptr);
  json["mode"] = mode_name(summary.mode);
  json["num_workers_or_sms"] = summary.num_workers;
  json["worker_kind"] = worker_kind_name(summary.worker_kind);
  json["layers"] = summary.num_layers;
  json["backend"] = summary.backend;
  json["shape"] = summary.shape;
  json["layout"] = summary.layout;
  json["memory_bytes"] = summary.memory_bytes;
  json["notes"] = summary.notes;
  json["interrupted"] = summary.interrupted;
  json["error"] = summary.error.empty() ? Json(nullptr) : Json(summary.error);
  return json;
}

std::string dump(const Json& json) {
  // A trace is named by the user's path, which need not be UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string run_json(const RunSummary& summary) { return dump(run_object(summary)); }

std::string suite_json(std::span<const SuiteEntry> entries) {
  Json runs = Json::array();
  for (const SuiteEntry& entry : entries) {
    Json run = {{"label", entry.label}};
    run.update(run_object(entry.summary));
    runs.push_back(std::move(run));
  }
  return dump({{"runs", std::move(runs)}});
}

std::string verify_json(const VerifyRecords& records) {
  Json json = {
      {"seed", records.seed},
      {"cases_asked", records.cases_asked},
      {"cases_run", records.cases_run},
      {"runs", records.runs},
      {"passed", records.passed()},
      {"max_abs_error_16bit", records.max_abs_error_16bit},
      {"mean_abs_error_16bit", records.mean_abs_error_16bit},
      {"max_abs_error_f32", records.max_abs_error_f32},
      {"mean_abs_error_f32", records.mean_abs_error_f32},
      {"max_abs_error_lse", records.max_abs_error_lse},
      {"elapsed_s", static_cast<double>(records.elapsed_ns) * 1e-9},
      {"interrupted", records.interrupted},
  };
  Json coverage = Json::object();
  for (const auto& [kind, count] : records.coverage) {
    coverage[kind] = count;
  }
  json["coverage"] = std::move(coverage);
  json["failure"] = nullptr;
  if (records.failure) {
    json["failure"] = {{"case", records.failure->case_idx},
                       {"description", records.failure->description},
                       {"message", records.failure->message}};
  }
  return dump(json);
}

}  // namespace pkv
