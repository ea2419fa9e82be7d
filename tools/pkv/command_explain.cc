// pkv explain: what the policy would do with one step, and why.
// Not here: prices and the search (src/cost), running a step (command_run.cc).
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "commands.h"
#include "machine_profile.h"
#include "output.h"
#include "persistentkv/decision.h"
#include "report/text_table.h"
#include "run_arguments.h"

namespace pkv::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kExamples =
    "Examples:\n"
    "  pkv explain --lens 48000,6000,6000\n"
    "  pkv explain --lens 8x8192 --profile h100 --chrome-trace step.json   open it in Perfetto";

constexpr std::size_t kShownCandidates = 12;
constexpr std::size_t kShownBounds = 5;
constexpr std::int32_t kShownWorkers = 16;
constexpr std::size_t kTimelineColumns = 72;

struct Arguments {
  RunArguments run;
  std::optional<std::string> lens, chrome_trace, json;
};

/// A step without K and V: all pages are page 0.
struct Step {
  std::vector<std::int32_t> lens, indptr, pages;

  [[nodiscard]] BatchState batch(const RunOptions& options, std::int32_t page_size) const {
    return unwrap(BatchState::make({.shape = options.shape,
                                    .page_size = page_size,
                                    .seq_lens = lens,
                                    .block_table = unwrap(BlockTable::csr(indptr, pages)),
                                    .num_pages = 1}));
  }
};

Step make_step(const Arguments& arguments, std::int32_t page_size) {
  if (!arguments.lens) fail("--lens", "is missing; it must be lengths such as 48000,6000 or 8x8192");
  Step step;
  step.lens = parse_lengths("--lens", *arguments.lens, kMaxRows);
  step.indptr = {0};
  for (const std::int32_t len : step.lens) {
    const std::int64_t end = std::int64_t{step.indptr.back()} + (std::int64_t{len} + page_size - 1) / page_size;
    if (end > std::numeric_limits<std::int32_t>::max()) {
      fail("--lens", fmt::format("{} pages are above the limit of 2147483647", end));
    }
    step.indptr.push_back(static_cast<std::int32_t>(end));
  }
  step.pages.assign(static_cast<std::size_t>(step.indptr.back()), 0);
  return step;
}

/// A candidate planned again, so that the terms of its price are known.
struct Explained {
  Candidate candidate;
  Price price;
  PlanCounters counters;
};

std::vector<Explained> explain_candidates(const BatchState& batch, const Policy& policy, const Decision& decision) {
  std::vector<Explained> explained;
  for (const Candidate& candidate : decision.candidates) {
    if (!candidate.priced) continue;
    PlanOptions options{.route = candidate.route, .num_workers = policy.model().num_slots()};
    if (!is_external(candidate.route)) {
      options.splits = candidate.max_splits;
      options.kv_heads_per_task = candidate.kv_heads_per_task;
      const bool fuses = policy.model().profile().kind == DeviceKind::kCpu;
      options.merge = fuses ? MergeMode::kFused : MergeMode::kSeparate;
    }
    const Plan plan = unwrap(make_plan(batch, options));
    explained.push_back({candidate, policy.model().price(plan), plan.counters()});
  }
  return explained;
}

// The term that is most above the winner's; reading is what is left of the decode time.
std::string why_lost(const Price& loser, const Price& winner) {
  const auto reading = [](const Price& p) { return p.decode_ns - p.tail_ns - p.task_ns; };
  const std::pair<const char*, double> terms[] = {
      {"slower reads", reading(loser) - reading(winner)},       {"a longer tail", loser.tail_ns - winner.tail_ns},
      {"more starts of tasks", loser.task_ns - winner.task_ns}, {"more to merge", loser.merge_ns - winner.merge_ns},
      {"more launches", loser.launch_ns - winner.launch_ns},    {"more planning", loser.plan_ns - winner.plan_ns}};
  const auto most = std::max_element(std::begin(terms), std::end(terms),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return fmt::format("{} ({:+.1f} us)", most->first, most->second * 1e-3);
}

std::string candidate_table(const std::vector<Explained>& candidates, const DeviceProfile& profile, TextStyle style) {
  constexpr auto kLeft = TextTable::Align::kLeft;
  TextTable table({{"route", kLeft},
                   {"splits"},
                   {"heads"},
                   {"tasks/slot"},
                   {"total us"},
                   {"memory"},
                   {"arithmetic"},
                   {"tail"},
                   {"starts"},
                   {"merge"},
                   {"launch"},
                   {"plan"},
                   {"why it lost", kLeft}});
  const int slots = profile.num_workers * profile.tasks_per_worker;
  const auto us = [](double ns) { return fmt::format("{:.1f}", ns * 1e-3); };
  for (std::size_t i = 0; i < std::min(candidates.size(), kShownCandidates); ++i) {
    const auto& [candidate, price, counters] = candidates[i];
    table.add_row(
        {std::string(route_name(candidate.route)), fmt::format("{}", candidate.max_splits),
         fmt::format("{}", candidate.kv_heads_per_task),
         fmt::format("{:.1f}", static_cast<double>(counters.num_tasks) / slots), us(price.total_ns()),
         us(price.memory_ns), us(price.arithmetic_ns), us(price.tail_ns), us(price.task_ns), us(price.merge_ns),
         us(price.launch_ns), us(price.plan_ns), i == 0 ? "chosen" : why_lost(price, candidates.front().price)},
        i == 0 ? CellTone::kGood : CellTone::kNormal);
  }
  return table.render(style);
}

// The cheapest that a candidate without a plan could have been.
std::string bound_lines(const Decision& decision) {
  std::string text;
  std::size_t shown = 0;
  std::size_t left_out = 0;
  for (const Candidate& candidate : decision.candidates) {
    if (candidate.priced) continue;
    ++left_out;
    if (++shown <= kShownBounds) {
      text += fmt::format("  {} with {} splits, {} heads a task: at least {:.1f} us\n", route_name(candidate.route),
                          candidate.max_splits, candidate.kv_heads_per_task, candidate.predicted_ns * 1e-3);
    }
  }
  return fmt::format("\n{} candidates were left out by their bounds{}\n{}", left_out, left_out > 0 ? ", first" : "",
                     text);
}

// One line a slot; each column is the row that its task reads, '.' is idle.
std::string timeline(const Plan& plan, const PriceModel& model, const Price& price) {
  if (plan.tasks().empty()) return {};
  const std::int32_t slots = std::min(model.num_slots(), kShownWorkers);
  const double column_ns = std::max(price.device_ns, 1.0) / static_cast<double>(kTimelineColumns);
  std::vector<std::string> lines(static_cast<std::size_t>(slots), std::string(kTimelineColumns, '.'));
  for (const ScheduledTask& task : model.schedule(plan)) {
    if (task.slot >= slots) continue;
    const auto begin = static_cast<std::size_t>(task.begin_ns / column_ns);
    const auto end = std::min(kTimelineColumns, std::max(begin + 1, static_cast<std::size_t>(task.end_ns / column_ns)));
    const std::int32_t row = plan.tasks()[static_cast<std::size_t>(task.task_idx)].row;
    for (std::size_t i = begin; i < end; ++i)
      lines[static_cast<std::size_t>(task.slot)][i] = "0123456789abcdefghijklmnopqrstuvwxyz"[row % 36];
  }
  std::string text =
      fmt::format("\nworkers over {:.1f} us; a letter is the row that is read, '.' is idle\n", price.device_ns * 1e-3);
  for (std::size_t i = 0; i < lines.size(); ++i) text += fmt::format("{:>4} {}\n", i, lines[i]);
  if (slots < model.num_slots()) text += fmt::format("     and {} more\n", model.num_slots() - slots);
  return text;
}

// The trace event format: complete events, microseconds.
std::string chrome_trace(const Plan& plan, const PriceModel& model) {
  Json events = Json::array();
  for (const ScheduledTask& scheduled : model.schedule(plan)) {
    const Task& task = plan.tasks()[static_cast<std::size_t>(scheduled.task_idx)];
    events.push_back({{"name", fmt::format("row {}", task.row)},
                      {"ph", "X"},
                      {"pid", scheduled.slot / model.profile().tasks_per_worker},
                      {"tid", scheduled.slot % model.profile().tasks_per_worker},
                      {"ts", scheduled.begin_ns * 1e-3},
                      {"dur", (scheduled.end_ns - scheduled.begin_ns) * 1e-3},
                      {"args",
                       {{"kv_heads", fmt::format("[{}, {})", task.kv_head_begin, task.kv_head_end)},
                        {"tokens", fmt::format("[{}, {})", task.token_begin, task.token_end)}}}});
  }
  return Json({{"traceEvents", std::move(events)}, {"displayTimeUnit", "ns"}}).dump() + "\n";
}

std::string explain_json(const std::vector<Explained>& candidates, const Decision& decision,
                         const std::string& profile) {
  Json list = Json::array();
  for (const auto& [candidate, price, counters] : candidates) {
    list.push_back({{"route", route_name(candidate.route)},
                    {"splits", candidate.max_splits},
                    {"kv_heads_per_task", candidate.kv_heads_per_task},
                    {"tasks", counters.num_tasks},
                    {"total_ns", price.total_ns()},
                    {"device_ns", price.device_ns},
                    {"memory_ns", price.memory_ns},
                    {"arithmetic_ns", price.arithmetic_ns},
                    {"tail_ns", price.tail_ns},
                    {"task_ns", price.task_ns},
                    {"merge_ns", price.merge_ns},
                    {"launch_ns", price.launch_ns},
                    {"plan_ns", price.plan_ns}});
  }
  const Json json = {{"profile", profile},
                     {"reason", decision.reason},
                     {"candidates", std::move(list)},
                     {"left_out_by_bound", decision.candidates.size() - candidates.size()}};
  return json.dump(2);
}

int run(const Arguments& arguments) {
  RunArguments resolved = arguments.run;
  resolved.policy.policy = PolicyKind::kAuto;
  const RunOptions options = resolve(resolved, 1);
  const std::int32_t page_size = page_size_of(arguments.run.kv);
  const Step step = make_step(arguments, page_size);
  Output output(arguments.json);
  std::optional<OutputFile> trace;
  if (arguments.chrome_trace) trace.emplace("--chrome-trace", *arguments.chrome_trace);

  PolicyOptions policy_options{.search = SearchMode::kAlways};
  for (const ExternalKernel& kernel : options.profile->external) policy_options.routes.push_back(kernel.route);
  Policy policy = unwrap(Policy::make(
      *options.profile,
      {.shape = options.shape, .kv_dtype = options.kv_dtype, .order = options.order, .page_size = page_size},
      policy_options));
  const BatchState batch = step.batch(options, page_size);
  const Decision decision = unwrap(policy.decide(batch));
  const std::vector<Explained> candidates = explain_candidates(batch, policy, decision);

  std::string text = fmt::format("profile {}: {} {}\n{}\n\n", options.profile->name, options.profile->num_workers,
                                 options.profile->kind == DeviceKind::kGpu ? "SMs" : "workers", decision.reason);
  text += candidate_table(candidates, *options.profile, output.style());
  text += bound_lines(decision) + "all times are prices, nothing was run\n";
  text += timeline(decision.plan, policy.model(), decision.price);
  if (trace) trace->write(chrome_trace(decision.plan, policy.model()));
  unwrap(output.show(text, explain_json(candidates, decision, options.profile->name)));
  return kExitOk;
}

}  // namespace

Command add_explain(CLI::App& parent) {
  CLI::App& app =
      Options::add_command(parent, "explain", "One step's candidates, their prices and why they lost", kExamples);
  auto arguments = std::make_shared<Arguments>();
  Options options(app);
  options.words({"--lens", "Tokens in the cache by row: 48000,6000 or 8x8192", ""}, "LIST", arguments->lens);
  options.words(
      {"--profile", "Prices: cpu, cpu96, h100, h200, rtx3060, or a file", "what pkv calibrate stored, or else cpu"},
      "NAME|FILE", arguments->run.policy.profile);
  add_shape_options(options, arguments->run.shape);
  options.integer({"--page-size", "Tokens a page", "16"}, arguments->run.kv.page_size, {.min = 1, .max = kMaxPageSize});
  options.choice<DType>({"--dtype", "Element type of K and V", "f16"}, arguments->run.kv.dtype, {"f32", "f16", "bf16"},
                        parse_dtype);
  options.choice<KvOrder>({"--layout", "Order of axes inside a page", "HND"}, arguments->run.kv.layout, {"HND", "NHD"},
                          parse_kv_order);
  add_worker_options(options, arguments->run.workers);
  options.words({"--chrome-trace", "Write the timeline in Chrome's trace format; - is standard output", ""}, "FILE|-",
                arguments->chrome_trace);
  options.words({"--json", "Write the candidates as JSON; - is standard output, without the table", ""}, "FILE|-",
                arguments->json);
  return {&app, [arguments] { return run(*arguments); }};
}

}  // namespace pkv::cli
