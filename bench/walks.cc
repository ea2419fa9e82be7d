// Times of one step by the KV heads of a task and by splits, every plan in turn in every repeat: what prices of walks
// are checked against. Prints one JSON object.
// Not here: single kernels (decode.cc), choosing a plan (policy.cc).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "replay/step.h"
#include "report/statistics.h"

namespace pkv {
namespace {

struct Arguments {
  std::vector<std::int32_t> lens, heads = {8, 4, 2, 1}, splits = {16};
  std::int32_t q_heads = 32, kv_heads = 8, head_dim = 128, page_size = 16, repeats = 9, threads = 0;
  std::string dtype = "f16", layout = "HND";
};

StepOptions step_options(const Arguments& arguments) {
  StepOptions step;
  step.run.shape = {
      .num_q_heads = arguments.q_heads, .num_kv_heads = arguments.kv_heads, .head_dim = arguments.head_dim};
  step.run.kv_dtype = parse_dtype(arguments.dtype).value();
  step.run.order = parse_kv_order(arguments.layout).value();
  step.run.verify = VerifyMode::kOff;
  if (arguments.threads > 0) {
    step.run.cpu.threads = arguments.threads;
  }
  step.run.routes.push_back({.route = Route::kPages, .splits = std::nullopt, .merge = MergeMode::kFused});
  for (const std::int32_t heads : arguments.heads) {
    for (const std::int32_t splits : arguments.splits) {
      step.run.routes.push_back(
          {.route = Route::kSplit, .splits = splits, .kv_heads_per_task = heads, .merge = MergeMode::kFused});
    }
  }
  step.seq_lens = arguments.lens;
  step.page_size = arguments.page_size;
  step.repeats = arguments.repeats;
  return step;
}

nlohmann::ordered_json spread_of(const std::vector<double>& values) {
  return {{"median", quantile(values, 0.5).value_or(0.0)},
          {"p25", quantile(values, 0.25).value_or(0.0)},
          {"p75", quantile(values, 0.75).value_or(0.0)}};
}

// Ratios to the first plan (route pages by the CPU's rule) and to the read probe within a repeat.
nlohmann::ordered_json plan_json(const RunRecords& records, const RouteChoice& choice, std::size_t route_idx) {
  std::vector<double> times, to_rule, to_probe;
  const auto& steps = records.routes[route_idx].steps;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const auto ns = static_cast<double>(steps[i].run.total_ns);
    const ReadSample& read = records.probe[i];
    times.push_back(ns);
    to_rule.push_back(ns / static_cast<double>(records.routes[0].steps[i].run.total_ns));
    to_probe.push_back(static_cast<double>(steps[i].useful_kv_bytes) / ns /
                       (static_cast<double>(read.bytes) / static_cast<double>(read.elapsed_ns)));
  }
  return {{"heads", choice.kv_heads_per_task.value_or(0)},
          {"splits", choice.splits.value_or(0)},
          {"max_splits", steps[0].max_splits},
          {"tasks", steps[0].counters.num_tasks},
          {"ns", spread_of(times)},
          {"over_rule", spread_of(to_rule)},
          {"share_of_probe", spread_of(to_probe)}};
}

int run(const Arguments& arguments) {
  const StepOptions step = step_options(arguments);
  RunObserver observer;
  const auto records = run_step(step, observer);
  if (!records.ok() || records->error) {
    std::fputs(fmt::format("{}\n", (records.ok() ? *records->error : records.error()).to_string()).c_str(), stderr);
    return 1;
  }
  nlohmann::ordered_json plans = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < step.run.routes.size(); ++i) {
    plans.push_back(plan_json(*records, step.run.routes[i], i));
  }
  std::vector<double> probe;
  for (const ReadSample& read : records->probe) {
    probe.push_back(static_cast<double>(read.bytes) / static_cast<double>(read.elapsed_ns));
  }
  const nlohmann::ordered_json json = {
      {"lens", arguments.lens}, {"repeats", arguments.repeats}, {"probe_gb_per_s", spread_of(probe)}, {"plans", plans}};
  std::puts(json.dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace pkv

int main(int argc, char** argv) {
  CLI::App app("One step by KV heads a task and splits; one JSON object.");
  pkv::Arguments arguments;
  app.add_option("--lens", arguments.lens, "Tokens by row")->delimiter(',')->required();
  app.add_option("--heads", arguments.heads, "KV heads a task")->delimiter(',')->capture_default_str();
  app.add_option("--splits", arguments.splits, "Splits of the longest row")->delimiter(',')->capture_default_str();
  app.add_option("--q-heads", arguments.q_heads, "Query heads")->capture_default_str();
  app.add_option("--kv-heads", arguments.kv_heads, "KV heads")->capture_default_str();
  app.add_option("--head-dim", arguments.head_dim, "Head dimension")->capture_default_str();
  app.add_option("--page-size", arguments.page_size, "Tokens a page")->capture_default_str();
  app.add_option("--repeats", arguments.repeats, "Executions of every plan")->capture_default_str();
  app.add_option("--threads", arguments.threads, "Workers; 0: one a core")->capture_default_str();
  app.add_option("--dtype", arguments.dtype, "Type of K and V")->capture_default_str();
  app.add_option("--layout", arguments.layout, "HND or NHD")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return pkv::run(arguments);
}
