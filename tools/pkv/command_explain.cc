// pkv explain: what the policy does with a step or a trace, and why; measured beside the prices if asked.
// Not here: prices and the search (src/cost), how it is shown (explanation.h).
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "commands.h"
#include "exec/cpu/topology.h"
#include "explanation.h"
#include "machine_profile.h"
#include "output.h"
#include "persistentkv/cuda.h"
#include "persistentkv/decision.h"
#include "replay/replay.h"
#include "replay/session.h"
#include "replay/step.h"
#include "report/statistics.h"
#include "run_arguments.h"
#include "run_outcome.h"
#include "trace_arguments.h"

namespace pkv::cli {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  pkv explain --lens 48000,6000,6000\n"
    "  pkv explain --lens 48000,6000,6000 --measure\n"
    "  pkv explain --lens 8x8192 --profile h100 --timeline step.json    open it in Perfetto\n"
    "  pkv explain --trace paper:bimodal                                a line a step\n"
    "  pkv explain --trace paper:bimodal --measure --learn              with the online correction\n"
    "  pkv explain --trace paper:bimodal --step 12 --measure            one of its steps in full";

constexpr std::int64_t kDefaultSteps = 48;
constexpr std::int64_t kDefaultRepeats = 5;
constexpr std::int64_t kMaxRepeats = 1000;
constexpr std::int64_t kMaxStep = 10'000'000;

struct Arguments {
  TraceArguments trace;
  AdmissionArguments admission;
  RunArguments run;
  std::optional<std::string> lens, timeline, json;
  std::optional<std::int64_t> step, steps, skip, repeats;
  std::optional<bool> measure, learn;

  [[nodiscard]] bool measures() const { return measure.value_or(false); }
  [[nodiscard]] bool learns() const { return learn.value_or(false); }
};

void check_arguments(const Arguments& a) {
  if (a.lens && a.trace.trace) fail("--lens", "cannot be combined with --trace: both say what the steps are");
  if (!a.lens && !a.trace.trace) {
    fail("--lens", "is missing; it must be lengths such as 48000,6000 or 8x8192, or else --trace a trace");
  }
  if (a.lens) {
    constexpr std::string_view kReason = "needs --trace";
    refuse(a.step, "--step", kReason);
    refuse(a.steps, "--steps", kReason);
    refuse(a.skip, "--skip", kReason);
    refuse(a.learn, "--learn", "needs --trace: it learns from the steps before");
    refuse_trace_details(a.trace, a.admission);
    if (!a.measures()) refuse(a.trace.seed, "--seed", "needs --trace or --measure");
  }
  if (a.step && a.steps) fail("--steps", "cannot be combined with --step, which shows one step");
  if (a.measures() && is_sim(a.run.backend)) fail("--measure", "needs a backend that runs; sim:PROFILE only predicts");
  if (!a.measures()) {
    constexpr std::string_view kReason = "needs --measure";
    refuse(a.learn, "--learn", kReason);
    refuse(a.repeats, "--repeats", kReason);
    refuse(a.run.shape.softmax_scale, "--softmax-scale", kReason);
    refuse(a.run.shape.soft_cap, "--soft-cap", kReason);
    refuse(a.run.shape.sinks, "--sinks", kReason);
    refuse(a.run.kv.query_dtype, "--query-dtype", kReason);
    refuse(a.run.measure.memory_limit, "--memory-limit", kReason);
    refuse(a.run.measure.warmup, "--warmup", kReason);
  }
  if (a.trace.trace && !a.step)
    refuse(a.repeats, "--repeats", "needs --step or --lens: each step of a trace runs once");
}

RunOptions resolve_options(const Arguments& arguments) {
  RunArguments resolved = arguments.run;
  resolved.policy.policy = PolicyKind::kAuto;
  RunOptions options = resolve(resolved, seed_of(arguments.trace));
  options.learning = arguments.learns() ? Learning::kOn : Learning::kOff;
  options.verify = VerifyMode::kOff;
  options.routes = {{.route = Route::kRow, .splits = std::nullopt, .policy = PolicyKind::kAuto}};
  return options;
}

/// What the machine that measures decides: as in a run, the workers are its own, whatever the profile was measured
/// with, and routes of another project take part only where it runs them.
std::vector<Route> adapt_to_machine(RunOptions& options) {
  std::vector<Route> external;
  if (options.backend == BackendKind::kCpu) {
    options.profile->num_workers = options.cpu.threads.value_or(unwrap(read_topology()).num_cores());
    return external;
  }
  const auto backend = unwrap(CudaBackend::create(options.cuda));
  options.profile->num_workers = backend->num_workers();
  for (const ExternalKernel& kernel : options.profile->external) {
    if (backend->supports(kernel.route)) external.push_back(kernel.route);
  }
  return external;
}

std::vector<Route> priced_external(const DeviceProfile& profile) {
  std::vector<Route> external;
  for (const ExternalKernel& kernel : profile.external) external.push_back(kernel.route);
  return external;
}

Policy make_policy(const RunOptions& options, std::int32_t page_size, const std::vector<Route>& external) {
  PolicyOptions policy{.learning = options.learning, .search = SearchMode::kAlways};
  for (const Route route : external) policy.routes.push_back(route);
  return unwrap(Policy::make(*options.profile,
                             {.shape = options.shape,
                              .kv_dtype = options.kv_dtype,
                              .order = options.order,
                              .page_size = page_size,
                              .num_layers = options.num_layers},
                             policy));
}

/// All pages are page 0: prices do not depend on ids.
class StepBatch {
 public:
  StepBatch(const RunOptions& options, std::int32_t page_size, std::vector<std::int32_t> lens)
      : shape_(options.shape), page_size_(page_size) {
    rows_.seq_lens = std::move(lens);
    rows_.kv_indptr = {0};
    for (const std::int32_t len : rows_.seq_lens) {
      const std::int64_t end = std::int64_t{rows_.kv_indptr.back()} + (std::int64_t{len} + page_size - 1) / page_size;
      if (end > std::numeric_limits<std::int32_t>::max()) {
        fail("--lens", fmt::format("{} pages are above the limit of 2147483647", end));
      }
      rows_.kv_indptr.push_back(static_cast<std::int32_t>(end));
    }
    rows_.kv_indices.assign(static_cast<std::size_t>(rows_.kv_indptr.back()), 0);
  }

  [[nodiscard]] BatchState batch() const { return unwrap(make_batch(rows_, rows_.kv_indices, shape_, page_size_, 1)); }
  [[nodiscard]] const std::vector<std::int32_t>& lens() const { return rows_.seq_lens; }

 private:
  AttentionShape shape_;
  std::int32_t page_size_;
  StepRows rows_;
};

PlanOptions plan_options(const Candidate& candidate, const PriceModel& model) {
  PlanOptions options{.route = candidate.route, .num_workers = model.num_slots()};
  if (!is_external(candidate.route)) {
    options.splits = candidate.max_splits;
    options.kv_heads_per_task = candidate.kv_heads_per_task;
    options.merge = model.profile().kind == DeviceKind::kCpu ? MergeMode::kFused : MergeMode::kSeparate;
  }
  return options;
}

/// Of the plan that runs: among candidates of one price the first need not be it.
Candidate chosen_of(const Decision& decision) {
  const Plan& plan = decision.plan;
  return {.route = plan.route(),
          .max_splits = plan.max_splits(),
          .kv_heads_per_task = plan.kv_heads_per_task(),
          .predicted_ns = decision.price.total_ns()};
}

/// Candidates that the search priced, then the closest of those that it left out: some, and one of every route at
/// least, so that a reader sees what each route would have cost.
class CandidateList {
 public:
  CandidateList(const BatchState& batch, const PriceModel& model) : batch_(batch), model_(model) {}

  /// The chosen one keeps its plan.
  void add_chosen(const Decision& decision) {
    list_.push_back({.candidate = chosen_of(decision),
                     .price = decision.price,
                     .counters = decision.plan.counters(),
                     .measured = std::nullopt});
  }

  /// Plans it again. One that comes out as a known plan, or cannot be planned, is left out.
  void add(const Candidate& candidate) {
    const auto plan = make_plan(batch_, plan_options(candidate, model_));
    if (!plan.ok()) return;
    ExplainedCandidate it{
        .candidate = candidate, .price = model_.price(*plan), .counters = plan->counters(), .measured = std::nullopt};
    if (!is_external(candidate.route)) {
      it.candidate.max_splits = plan->max_splits();
      it.candidate.kv_heads_per_task = plan->kv_heads_per_task();
    }
    if (!is_known(it.candidate)) list_.push_back(it);
  }

  [[nodiscard]] bool has_route(Route route) const {
    return std::ranges::any_of(list_, [&](const auto& it) { return it.candidate.route == route; });
  }
  /// The chosen one first, then by price.
  std::vector<ExplainedCandidate> sorted() && {
    std::stable_sort(list_.begin() + 1, list_.end(),
                     [](const auto& a, const auto& b) { return a.price.total_ns() < b.price.total_ns(); });
    return std::move(list_);
  }

 private:
  [[nodiscard]] bool is_known(const Candidate& c) const {
    return std::ranges::any_of(list_, [&](const ExplainedCandidate& it) {
      return it.candidate.route == c.route && it.candidate.max_splits == c.max_splits &&
             it.candidate.kv_heads_per_task == c.kv_heads_per_task;
    });
  }

  const BatchState& batch_;
  const PriceModel& model_;
  std::vector<ExplainedCandidate> list_;
};

std::vector<ExplainedCandidate> explain_candidates(const BatchState& batch, const PriceModel& model,
                                                   const Decision& decision) {
  constexpr std::size_t kClosest = 3;
  CandidateList list(batch, model);
  list.add_chosen(decision);
  std::vector<Candidate> left_out;
  for (const Candidate& candidate : decision.candidates) {
    if (candidate.priced) {
      list.add(candidate);
    } else {
      left_out.push_back(candidate);
    }
  }
  std::ranges::stable_sort(left_out, {}, &Candidate::predicted_ns);
  for (std::size_t i = 0; i < left_out.size(); ++i) {
    if (i < kClosest || !list.has_route(left_out[i].route)) list.add(left_out[i]);
  }
  return std::move(list).sorted();
}

RouteChoice route_choice(const Candidate& candidate, const PriceModel& model) {
  const PlanOptions plan = plan_options(candidate, model);
  RouteChoice choice{.route = plan.route, .splits = plan.splits, .kv_heads_per_task = plan.kv_heads_per_task};
  if (plan.route != Route::kRow) choice.merge = plan.merge;
  return choice;
}

MeasuredCandidate measured_of(const std::vector<StepRecord>& steps) {
  std::vector<double> device;
  for (const StepRecord& step : steps) device.push_back(static_cast<double>(step.run.total_ns));
  const double middle = median(device).value_or(0.0);
  return {.device_ns = middle,
          .spread = middle > 0.0 ? (*quantile(device, 0.75) - *quantile(device, 0.25)) / 2.0 / middle : 0.0};
}

/// Runs every candidate, and the policy, which is the chosen one once more.
RunRecords run_candidates(const Arguments& arguments, const RunOptions& options, const StepBatch& step,
                          const std::vector<ExplainedCandidate>& candidates, const PriceModel& model) {
  StepOptions run;
  run.run = options;
  run.run.learning = Learning::kOff;
  run.run.routes.clear();
  for (const ExplainedCandidate& it : candidates) run.run.routes.push_back(route_choice(it.candidate, model));
  run.run.routes.push_back({.route = Route::kRow, .splits = std::nullopt, .policy = PolicyKind::kAuto});
  run.seq_lens = step.lens();
  run.page_size = page_size_of(arguments.run.kv);
  run.hole_fraction = arguments.run.kv.hole_fraction.value_or(0.0);
  run.page_seed = static_cast<std::uint64_t>(arguments.run.kv.page_seed.value_or(1));
  run.repeats = static_cast<std::int32_t>(arguments.repeats.value_or(kDefaultRepeats));
  return observed([&](RunObserver& observer) { return run_step(run, observer); },
                  {.label = "candidates", .memory_hint = "lower the lengths or --kv-heads"});
}

void keep_measurements(StepExplanation& explained, const RunRecords& records) {
  explained.backend = records.backend;
  explained.repeats = static_cast<std::int32_t>(num_steps(records));
  for (std::size_t i = 0; i < explained.candidates.size(); ++i) {
    explained.candidates[i].measured = measured_of(records.routes[i].steps);
  }
  const std::vector<StepRecord>& twin = records.routes.back().steps;
  const Candidate& chosen = explained.candidates.front().candidate;
  if (twin.front().route == chosen.route && twin.front().max_splits == chosen.max_splits) {
    const double first_ns = explained.candidates.front().measured->device_ns;
    const double again_ns = measured_of(twin).device_ns;
    explained.twin_noise = std::max(first_ns, again_ns) / std::min(first_ns, again_ns) - 1.0;
  }
}

/// What is to be written, tried before anything runs.
struct Outputs {
  explicit Outputs(const Arguments& arguments) : output(arguments.json) {
    if (!arguments.timeline) return;
    if (*arguments.timeline == "-") fail("--timeline", "'-' would mix with the table; it must be a file");
    timeline.emplace("--timeline", *arguments.timeline);
  }

  Output output;
  std::optional<OutputFile> timeline;
};

struct StepInput {
  std::string title;
  StepBatch batch;
  /// Of the trace's policy, where there is one.
  std::optional<LearntScales> learnt;
  std::string reason_in_trace;
};

// `policy` has seen what came before.
int explain_step(const Arguments& arguments, const RunOptions& options, Policy policy, StepInput input,
                 Outputs& outputs) {
  const BatchState batch = input.batch.batch();
  StepExplanation explained;
  explained.title = std::move(input.title);
  explained.learnt = input.learnt;
  explained.reason_in_trace = std::move(input.reason_in_trace);
  policy.forget_choice();
  explained.decision = unwrap(policy.decide(batch));
  explained.candidates = explain_candidates(batch, policy.model(), explained.decision);
  int exit_code = kExitOk;
  if (arguments.measures()) {
    const RunRecords records = run_candidates(arguments, options, input.batch, explained.candidates, policy.model());
    if (records.error && num_steps(records) == 0) throw Failure{*records.error};
    if (num_steps(records) > 0) keep_measurements(explained, records);
    report_early_end(records);
    exit_code = exit_code_of(records);
  }
  if (outputs.timeline) {
    ChromeTrace trace;
    trace.add("step", explained.decision.plan, explained.decision.price, policy.model());
    outputs.timeline->write(trace.json(options.profile->name));
  }
  return conclude(exit_code, outputs.output.show(step_text(explained, policy.model(), outputs.output.style()),
                                                 step_json(explained, policy.model())));
}

ReplayOptions replay_options(const Arguments& arguments, const RunOptions& run, const Trace& trace) {
  const KvArguments& kv = arguments.run.kv;
  ReplayOptions options;
  options.run = run;
  options.admission = resolve_admission(arguments.admission, arguments.trace, trace,
                                        {.page_size = page_size_of(kv),
                                         .hole_fraction = kv.hole_fraction.value_or(0.0),
                                         .page_seed = static_cast<std::uint64_t>(kv.page_seed.value_or(1))});
  options.trace_seed = seed_of(arguments.trace);
  options.skip_steps = arguments.skip.value_or(0);
  options.max_steps = arguments.step ? *arguments.step + 1 : arguments.steps.value_or(kDefaultSteps);
  return options;
}

/// The policy over the trace's steps, told of what was measured; with the last step not yet told.
struct Walk {
  Policy policy;
  std::vector<StepLine> lines;
  StepBatch last;
  std::string last_reason;
  std::int64_t learnt_steps = 0;
};

// Measured steps are those of `records`, from the first on; where there are none, prices alone.
Walk walk_trace(const RunOptions& options, const Trace& trace, const ReplayOptions& replay, const RunRecords* records,
                const std::vector<Route>& external, ChromeTrace* timeline) {
  Walk walk{.policy = make_policy(options, replay.admission.page_size, external),
            .lines = {},
            .last = StepBatch(options, replay.admission.page_size, {}),
            .last_reason = {}};
  const auto source = unwrap(make_trace_source(trace, replay));
  const std::size_t measured = records == nullptr ? 0 : static_cast<std::size_t>(num_steps(*records));
  StepRows rows;
  Plan recycled;
  struct Untold {
    Decision decision;
    StepRecord record;
  };
  std::optional<Untold> untold;
  const auto tell = [&] {
    const std::optional<TrialTimes>& trial = untold->record.trial;
    walk.policy.observe(untold->decision.price, trial ? trial->before : untold->record.run);
    if (trial) walk.policy.observe_trial(trial->trial, trial->after);
    walk.learnt_steps += options.learning == Learning::kOn ? 1 : 0;
    untold.reset();
  };
  while (unwrap(source->next(rows))) {
    const std::size_t idx = walk.lines.size();
    if (records != nullptr && records->interrupted && idx >= measured) break;
    if (untold) tell();
    walk.last = StepBatch(options, replay.admission.page_size, rows.seq_lens);
    StepLine line;
    line.correction = walk.policy.model().correction();
    Decision decision = unwrap(walk.policy.decide(walk.last.batch(), std::move(recycled)));
    line.step_idx = static_cast<std::int64_t>(idx) + replay.skip_steps;
    line.num_rows = static_cast<std::int32_t>(rows.seq_lens.size());
    for (const std::int32_t len : rows.seq_lens) line.tokens += len;
    line.chosen = chosen_of(decision);
    line.kept = decision.candidates.size() == 1 && idx > 0;
    line.basis = decision.basis;
    if (decision.trial) {
      const Plan& plan = decision.trial->plan;
      line.tried = Candidate{.route = plan.route(),
                             .max_splits = plan.max_splits(),
                             .kv_heads_per_task = plan.kv_heads_per_task(),
                             .predicted_ns = decision.trial->price.total_ns()};
      if (idx < measured && records->routes.front().steps[idx].trial) {
        line.tried_ns = static_cast<double>(records->routes.front().steps[idx].trial->trial.total_ns);
      }
    }
    line.price = decision.price;
    line.occupancy = occupancy(decision.plan, walk.policy.model());
    if (idx < measured) {
      const StepRecord& record = records->routes.front().steps[idx];
      line.measured_ns = static_cast<double>(record.run.total_ns);
    }
    if (timeline != nullptr) {
      timeline->add(fmt::format("step {}", line.step_idx), decision.plan, decision.price, walk.policy.model());
    }
    walk.last_reason = decision.reason();
    walk.lines.push_back(line);
    recycled = std::move(decision.plan);
    if (idx < measured) untold = {std::move(decision), records->routes.front().steps[idx]};
  }
  if (untold) tell();  // so that the scales that are shown are those after all steps
  return walk;
}

std::optional<LearntScales> scales_of(const RunOptions& options, const Walk& walk) {
  if (options.learning == Learning::kOff) return std::nullopt;
  return LearntScales{.correction = walk.policy.model().correction(), .steps = walk.learnt_steps};
}

[[noreturn]] void fail_no_step(const Arguments& arguments, const Trace& trace, std::int64_t found) {
  const std::int64_t skipped = arguments.skip.value_or(0);
  if (arguments.step) {
    fail("--step", fmt::format("{} is not below the {} steps of {}{}", *arguments.step, found, trace.name,
                               skipped > 0 ? fmt::format(" after {} skipped ones", skipped) : ""));
  }
  fail("--skip", fmt::format("{} passes over all steps of {}", skipped, trace.name));
}

// The steps before --step, or all: what the policy did with them on the machine.
std::optional<RunRecords> measure_trace(const Arguments& arguments, const Trace& trace, ReplayOptions replay) {
  if (arguments.step) {
    if (!arguments.learns() || *arguments.step == 0) return std::nullopt;
    replay.max_steps = *arguments.step;
  }
  const RunRecords records =
      observed([&](RunObserver& observer) { return pkv::replay(trace, replay, observer); },
               {.label = trace.name, .memory_hint = "lower --requests, --max-active or --kv-heads"});
  if (records.error) throw Failure{*records.error};
  return records;
}

int explain_trace(const Arguments& arguments, const RunOptions& options, const Trace& trace,
                  const std::vector<Route>& external, Outputs& outputs) {
  const ReplayOptions replay = replay_options(arguments, options, trace);
  std::optional<RunRecords> records;
  if (arguments.measures()) records = measure_trace(arguments, trace, replay);
  const bool stopped = records && records->interrupted;
  std::optional<ChromeTrace> timeline;
  if (outputs.timeline && !arguments.step) timeline.emplace();
  Walk walk =
      walk_trace(options, trace, replay, records ? &*records : nullptr, external, timeline ? &*timeline : nullptr);
  const auto found = static_cast<std::int64_t>(walk.lines.size());
  if (!stopped && (found == 0 || (arguments.step && found <= *arguments.step))) fail_no_step(arguments, trace, found);
  if (arguments.step && !stopped) {
    const StepLine& line = walk.lines.back();
    StepInput input{
        .title =
            fmt::format("step {} of {}: {} rows, {} tokens", line.step_idx, trace.name, line.num_rows, line.tokens),
        .batch = walk.last,
        .learnt = scales_of(options, walk),
        .reason_in_trace = line.kept || line.basis == DecisionBasis::kMeasured ? walk.last_reason : std::string{}};
    return explain_step(arguments, options, std::move(walk.policy), std::move(input), outputs);
  }
  if (timeline) outputs.timeline->write(timeline->json(options.profile->name));
  TraceExplanation explained{.trace = trace.name,
                             .lines = std::move(walk.lines),
                             .learnt = scales_of(options, walk),
                             .backend = records ? records->backend : std::string{},
                             .interrupted = stopped};
  const Status shown = outputs.output.show(trace_text(explained, walk.policy.model(), outputs.output.style()),
                                           trace_json(explained, walk.policy.model()));
  if (records) report_early_end(*records);
  return conclude(records ? exit_code_of(*records) : kExitOk, shown);
}

int explain(const Arguments& arguments, const RunOptions& options, const std::vector<Route>& external,
            Outputs& outputs) {
  const std::int32_t page_size = page_size_of(arguments.run.kv);
  if (arguments.trace.trace) {
    return explain_trace(arguments, options, load_trace(arguments.trace, page_size), external, outputs);
  }
  StepInput input{.title = "lens:" + *arguments.lens,
                  .batch = StepBatch(options, page_size, parse_lengths("--lens", *arguments.lens, kMaxRows)),
                  .learnt = std::nullopt,
                  .reason_in_trace = {}};
  return explain_step(arguments, options, make_policy(options, page_size, external), std::move(input), outputs);
}

int run(const Arguments& arguments) {
  check_arguments(arguments);
  RunOptions options = resolve_options(arguments);
  Outputs outputs(arguments);
  const std::vector<Route> external =
      arguments.measures() ? adapt_to_machine(options) : priced_external(*options.profile);
  return explain(arguments, options, external, outputs);
}

}  // namespace

Command add_explain(CLI::App& parent) {
  CLI::App& app = Options::add_command(
      parent, "explain", "A step's candidates, their prices and why they lost; a trace step by step", kExamples);
  auto arguments = std::make_shared<Arguments>();
  Options options(app);
  options.words({"--lens", "Tokens in the cache by row: 48000,6000 or 8x8192", ""}, "LENS", arguments->lens);
  add_trace_options(options, arguments->trace);
  add_admission_options(options, arguments->admission);
  options.integer({"--step", "With --trace: the step to explain, the first is 0", "a line for every step"},
                  arguments->step, {.min = 0, .max = kMaxStep});
  options.integer({"--steps", "With --trace: steps at most", "48"}, arguments->steps, {.min = 1, .max = kMaxStep});
  options.integer({"--skip", "With --trace: steps passed over first", "0"}, arguments->skip, {.min = 0});
  options.flag({"--measure", "Run what is priced: a step's candidates in turn, or the policy over a trace", ""},
               arguments->measure);
  options.integer({"--repeats", "With --measure: executions of every candidate", "5"}, arguments->repeats,
                  {.min = 3, .max = kMaxRepeats});
  options.flag({"--learn", "With --measure and --trace: let prices follow the measured steps", ""}, arguments->learn);
  options.words(
      {"--profile", "Prices: cpu, cpu96, h100, h200, rtx3060, or a file", "what pkv calibrate stored, or else cpu"},
      "NAME|FILE", arguments->run.policy.profile);
  add_layers_option(options, arguments->run.measure);
  add_shape_options(options, arguments->run.shape);
  add_kv_options(options, arguments->run.kv);
  options.integer({"--warmup", "With --measure: unmeasured executions first", "2"}, arguments->run.measure.warmup,
                  {.min = 0, .max = 1'000'000});
  options.bytes({"--memory-limit", "With --measure: memory that may be allocated", "what is available"},
                arguments->run.measure.memory_limit);
  add_backend_options(options, arguments->run.backend);
  add_worker_options(options, arguments->run.workers);
  options.words({"--timeline", "Write the workers' timeline for Perfetto (Chrome's trace format)", ""}, "FILE",
                arguments->timeline);
  options.words({"--json", "Write the explanation as JSON; - is standard output, without the table", ""}, "FILE|-",
                arguments->json);
  return {&app, [arguments] { return run(*arguments); }};
}

}  // namespace pkv::cli
