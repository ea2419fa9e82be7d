// pkv sweep: one axis (splits, groups, pages, holes, mix) point by point, and the capacity of a profile.
// Not here: which points there are (sweep_points.h), measuring (src/replay), tables (src/report).
#include <fmt/format.h>

#include <memory>
#include <utility>

#include "commands.h"
#include "replay/step.h"
#include "report/sweep.h"
#include "run_outcome.h"
#include "sweep_points.h"

namespace pkv::cli {
namespace {

constexpr const char* kExamples =
    "What to sweep:\n"
    "  splits    split counts of one step or trace, all in turn in every step\n"
    "  groups    query heads a KV head\n"
    "  pages     page sizes and layouts\n"
    "  holes     share of physical pages that hold nothing\n"
    "  mix       rows, mean context and how unequal the rows are\n"
    "  capacity  tokens a second of a simulated device by batch, context and group\n"
    "Examples:\n"
    "  pkv sweep splits --lens 32768 --routes split,workqueue\n"
    "  pkv sweep splits --trace paper:bimodal --steps 48 --backend sim:rtx3060 --splits 16,20,24\n"
    "  pkv sweep pages --page-sizes 1,16,64 --layouts HND,NHD --json pages.json\n"
    "  pkv sweep mix --batches 1,8,32 --contexts 4096,16384\n"
    "  pkv sweep capacity --backend sim:cpu96 --batches 1,8,32 --contexts 1024,8192,32768 --groups 1,4,8 --layers 32";

constexpr std::int64_t kMaxCount = 1'000'000;
constexpr std::int64_t kMaxWarmup = 1'000'000;

/// Steps of one point are no progress of the whole.
class Quiet : public RunObserver {
 public:
  explicit Quiet(const RunObserver& outer) : outer_(outer) {}
  [[nodiscard]] bool cancelled() const override { return outer_.cancelled(); }

 private:
  const RunObserver& outer_;
};

SweepRecords collect(Sweep sweep) {
  SweepRecords records;
  records.kind = sweep_kind_name(sweep.kind);
  records.rounds = sweep.rounds;
  records.repeats_one_step = sweep.repeats_one_step;
  records.reference_idx = sweep.reference_idx;
  for (std::size_t i = 0; i < sweep.turns.size(); ++i) {
    Turn& turn = sweep.turns[i];
    records.runs.push_back({std::move(sweep.axes[i]), std::move(turn.records), std::move(turn.round_ends)});
  }
  return records;
}

// The run that ended the sweep, or the first.
const RunRecords& ending(const SweepRecords& records) {
  for (const SweepRun& run : records.runs) {
    if (run.records.error) return run.records;
  }
  return records.runs.front().records;
}

bool measured_any(const SweepRecords& records) {
  for (const SweepRun& run : records.runs) {
    if (num_steps(run.records) > 0) return true;
  }
  return false;
}

int run_sweep(SweepKind kind, const SweepArguments& arguments) {
  Output output(arguments.json);
  Sweep sweep = resolve_sweep(kind, arguments);
  const OptionEcho options = sweep.options;
  static_cast<void>(observed(
      [&](RunObserver& observer) -> Result<bool> {
        const Status status = take_turns(sweep.turns, sweep.rounds, observer);
        if (!status.ok()) return status.error();
        return true;
      },
      {.label = fmt::format("sweep {}", sweep_kind_name(kind)), .memory_hint = "lower the lengths or --kv-heads"}));
  const SweepRecords records = collect(std::move(sweep));
  const RunRecords& last = ending(records);
  if (last.error && !measured_any(records)) throw Failure{*last.error};
  if (!last.error && !last.interrupted && !measured_any(records)) {
    fail("--skip", fmt::format("{} passes over all steps of {}", arguments.skip.value_or(0), last.trace));
  }
  const SweepSummary summary = summarize(records);
  const Status shown = output.show(sweep_table(summary, output.style()), sweep_json(summary, options));
  report_early_end(last);
  return conclude(exit_code_of(last), shown);
}

Result<CapacityRecords> plan_capacity(const CapacityGrid& grid, RunObserver& observer) {
  CapacityRecords records;
  records.layers = grid.layers;
  records.profile = grid.steps.front().step.run.profile->name;
  records.source = grid.steps.front().step.run.profile->source;
  Quiet quiet(observer);
  for (const CapacityStep& point : grid.steps) {
    if (observer.cancelled()) {
      records.interrupted = true;
      return records;
    }
    auto found = run_step(point.step, quiet);
    if (!found.ok()) return found.error();
    if (found->error) return *found->error;
    if (found->interrupted) {
      records.interrupted = true;
      return records;
    }
    const StepRecord& step = found->routes.front().steps.front();
    records.backend = found->backend;
    records.layout = summarize(*found).layout;
    records.shape = fmt::format("{} KV heads, head dimension {}", found->shape.num_kv_heads, found->shape.head_dim);
    records.points.push_back({.batch = point.batch,
                              .context_tokens = point.context_tokens,
                              .group_size = point.group_size,
                              .route = std::string(route_name(step.route)),
                              .splits = step.max_splits,
                              .layer_ns = static_cast<double>(step.run.total_ns),
                              .plan_ns = static_cast<double>(step.plan_ns),
                              .layer_kv_bytes = step.useful_kv_bytes});
    observer.on_progress({.phase = RunPhase::kMeasuring,
                          .done = static_cast<std::int64_t>(records.points.size()),
                          .total = static_cast<std::int64_t>(grid.steps.size()),
                          .num_rows = point.batch});
  }
  return records;
}

int run_capacity(const SweepArguments& arguments) {
  const CapacityGrid grid = resolve_capacity(arguments);
  Output output(arguments.json);
  const CapacityRecords records =
      observed([&](RunObserver& observer) { return plan_capacity(grid, observer); }, {.label = "capacity"});
  const Status shown = output.show(capacity_table(records, output.style()), capacity_json(records, grid.options));
  if (records.interrupted) std::fputs("pkv: interrupted\n", stderr);
  return conclude(records.interrupted ? kExitInterrupted : kExitOk, shown);
}

int run(const SweepArguments& arguments) {
  const SweepKind kind = resolve_kind(arguments);
  return kind == SweepKind::kCapacity ? run_capacity(arguments) : run_sweep(kind, arguments);
}

void add_axes(Options& options, SweepArguments& a) {
  options.words({"--splits", "splits: split counts", "1,2,4,8,12,16,20,24,28,32,40,48,64"}, "LIST", a.splits);
  options.words({"--groups", "groups, capacity: query heads a KV head", "1,2,4,8; capacity 4"}, "LIST", a.groups);
  options.words({"--page-sizes", "pages: tokens a page", "4,16,64,256"}, "LIST", a.page_sizes);
  options.words({"--layouts", "pages: orders of axes in a page", "HND,NHD"}, "LIST", a.layouts);
  options.words({"--packings", "pages: separate, packed", "separate"}, "LIST", a.packings);
  options.words({"--hole-fractions", "holes: shares of pages that hold nothing", "0,0.25,0.5,0.75"}, "LIST",
                a.hole_fractions);
  options.words({"--batches", "mix, capacity: rows of a step", "1,4,8; capacity 1,8,32"}, "LIST", a.batches);
  options.words({"--contexts", "mix, capacity: mean tokens of a row", "8192; capacity 1024,8192,32768"}, "LIST",
                a.contexts);
  options.words({"--mixes", "mix: equal, bimodal, zipf, one-long; the same tokens in all", "all of them"}, "LIST",
                a.mixes);
  options.integer({"--layers", "capacity: attention layers of the model", "1"}, a.layers, {.min = 1, .max = 1024});
}

void add_workload(Options& options, SweepArguments& a) {
  options.words({"--lens", "Tokens in the cache by row: 48000,6000 or 8x8192", "2x40000,6x7000"}, "LENS", a.lens);
  add_trace_options(options, a.trace);
  add_admission_options(options, a.admission);
  options.integer({"--steps", "With --trace: steps of a round", "16"}, a.steps, {.min = 1});
  options.integer({"--skip", "With --trace: steps passed over first", "0"}, a.skip, {.min = 0});
  options.integer({"--rounds", "Rounds in which every point takes its turn", "5"}, a.rounds,
                  {.min = 1, .max = kMaxCount});
  options.integer({"--repeats", "Executions of the step in a round", "5"}, a.repeats, {.min = 1, .max = kMaxCount});
  options.integer({"--reference", "Row of the table that ratios are against", "1"}, a.reference,
                  {.min = 1, .max = kMaxCount});
}

void add_routes(Options& options, RouteArguments& routes) {
  options.words({"--routes", "Fixed routes beside the policy: all, or row, split, ...", "splits: workqueue; else none"},
                "all|LIST", routes.routes);
  options.integer({"--heads-per-task", "KV heads a task of the fixed routes", "the route chooses"},
                  routes.heads_per_task, {.min = 1, .max = kMaxKvHeads});
  options.choice<MergeMode>({"--merge", "Who merges in the fixed routes", "separate"}, routes.merge,
                            {"separate", "fused"}, parse_merge_mode);
}

void add_measuring(Options& options, RunArguments& run) {
  options.choice<VerifyMode>(
      {"--verify", "Steps to compare with the float64 oracle; sample is the first of a run", "sample"},
      run.measure.verify, {"every", "sample", "off"}, parse_verify_mode);
  options.integer({"--warmup", "Unmeasured executions of a run's first step", "2"}, run.measure.warmup,
                  {.min = 0, .max = kMaxWarmup});
  options.bytes({"--memory-limit", "Memory that may be allocated", "what is available"}, run.measure.memory_limit);
  options.words(
      {"--profile", "Prices: cpu, cpu96, h100, h200, rtx3060, or a file", "what pkv calibrate stored, or else cpu"},
      "NAME|FILE", run.policy.profile);
}

}  // namespace

Command add_sweep(CLI::App& parent) {
  CLI::App& app =
      Options::add_command(parent, "sweep", "Sensitivity of one axis, point by point; capacity planning", kExamples);
  auto arguments = std::make_shared<SweepArguments>();
  Options options(app);
  options.positional({"what", "splits, groups, pages, holes, mix or capacity", ""}, "WHAT", arguments->kind);
  add_axes(options, *arguments);
  add_workload(options, *arguments);
  add_routes(options, arguments->run.routes);
  add_shape_options(options, arguments->run.shape);
  add_kv_options(options, arguments->run.kv);
  add_measuring(options, arguments->run);
  add_backend_options(options, arguments->run.backend);
  add_worker_options(options, arguments->run.workers);
  options.words({"--json", "Write the result as JSON; - is standard output, without the table", ""}, "FILE|-",
                arguments->json);
  return {&app, [arguments] { return run(*arguments); }};
}

}  // namespace pkv::cli
