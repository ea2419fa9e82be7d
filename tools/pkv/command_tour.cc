// pkv tour, the main job: five serving traces by every route, one table, one advice.
// Not here: measuring (src/replay), tables (src/report).
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <new>
#include <vector>

#include "commands.h"
#include "replay/replay.h"
#include "report/report.h"
#include "run_arguments.h"
#include "run_outcome.h"
#include "trace/generators.h"
#include "trace_arguments.h"

namespace pkv::cli {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  pkv tour\n"
    "  pkv tour --steps 48 --verify every\n"
    "  pkv tour --routes row,workqueue,pages --threads 2 --json tour.json\n"
    "  pkv tour --backend cuda --routes all,flashinfer-tensor";

// The paper's serving mixes (paper, "The published results").
struct Stop {
  PaperFamily family;
  std::int32_t max_active;
  std::int32_t num_requests;
};
constexpr Stop kStops[] = {{PaperFamily::kBimodal, 8, 24},
                           {PaperFamily::kUniform, 8, 24},
                           {PaperFamily::kZipf, 8, 24},
                           {PaperFamily::kBimodal, 4, 24},
                           {PaperFamily::kBucketed, 1, 16}};

// Enough for a stable median, few enough for 90 s with the build done (2 cores, 30 GB/s).
constexpr std::int64_t kDefaultSteps = 16;

struct Arguments {
  std::optional<std::int64_t> steps, seed;
  std::optional<VerifyMode> verify;
  RouteArguments routes;
  BackendArguments backend;
  WorkerArguments workers;
  std::optional<std::int64_t> memory_limit;
  std::optional<std::string> json;
};

RunOptions resolve_tour(const Arguments& arguments) {
  RunArguments run;
  run.routes = arguments.routes;
  run.backend = arguments.backend;
  run.workers = arguments.workers;
  run.measure.verify = arguments.verify;
  run.measure.memory_limit = arguments.memory_limit;
  return resolve(run, static_cast<std::uint64_t>(arguments.seed.value_or(kHeldOutSeed)));
}

constexpr const char* kMemoryHint = "one smaller trace needs less: pkv replay --trace paper:bimodal --requests 4";

RunRecords measure(const Stop& stop, const RunOptions& run, const Arguments& arguments, const std::string& label) {
  const auto seed = static_cast<std::uint32_t>(arguments.seed.value_or(kHeldOutSeed));
  const Trace trace = unwrap(make_paper_trace(
      {.family = stop.family, .seed = seed, .num_requests = stop.num_requests, .max_active = stop.max_active}));
  ReplayOptions options;
  options.run = run;
  options.trace_seed = seed;
  options.max_steps = arguments.steps.value_or(kDefaultSteps);
  options.admission.max_active = stop.max_active;
  return observed([&](RunObserver& observer) { return replay(trace, options, observer); },
                  {.label = label, .memory_hint = kMemoryHint});
}

// What keeps a stop from being measured ends the tour, not the report of the stops before it.
RunRecords visit(const Stop& stop, const RunOptions& run, const Arguments& arguments, const std::string& label) {
  RunRecords failed;
  try {
    return measure(stop, run, arguments, label);
  } catch (const Failure& failure) {
    failed.error = failure.error;
  } catch (const std::bad_alloc&) {
    failed.error = out_of_memory();
  }
  failed.trace = fmt::format("paper:{}", paper_family_name(stop.family));
  failed.seed = static_cast<std::uint64_t>(arguments.seed.value_or(kHeldOutSeed));
  return failed;
}

template <typename T>
void append(std::string& text, std::string_view option, const std::optional<T>& value) {
  if (value) text += fmt::format(" {} {}", option, *value);
}

// What `pkv replay` needs to measure this stop again: everything that differs from its own defaults.
std::string repeat_arguments(const Stop& stop, const Arguments& arguments) {
  std::string text = fmt::format("--trace paper:{} --seed {} --requests {} --max-active {} --steps {}",
                                 paper_family_name(stop.family), arguments.seed.value_or(kHeldOutSeed),
                                 stop.num_requests, stop.max_active, arguments.steps.value_or(kDefaultSteps));
  append(text, "--routes", arguments.routes.routes);
  append(text, "--splits", arguments.routes.splits);
  append(text, "--heads-per-task", arguments.routes.heads_per_task);
  if (arguments.routes.merge) text += fmt::format(" --merge {}", merge_mode_name(*arguments.routes.merge));
  append(text, "--baseline", arguments.routes.baseline);
  if (arguments.verify) text += fmt::format(" --verify {}", verify_mode_name(*arguments.verify));
  append(text, "--memory-limit", arguments.memory_limit);
  text += backend_text(arguments.backend);
  append(text, "--threads", arguments.workers.threads);
  if (arguments.workers.pin) text += *arguments.workers.pin ? " --pin" : " --no-pin";
  if (arguments.workers.wait) text += *arguments.workers.wait == WaitMode::kSpin ? " --wait spin" : " --wait sleep";
  if (arguments.workers.isa) text += fmt::format(" --isa {}", isa_name(*arguments.workers.isa));
  return text;
}

struct Tour {
  std::vector<SuiteEntry> entries;
  RunRecords last;
};

// Goes on to the next stop only while nothing failed and nobody pressed Ctrl-C.
Tour take_tour(const Arguments& arguments, const RunOptions& run) {
  const InterruptGuard guard;  // between two stops as well
  Tour tour;
  for (const Stop& stop : kStops) {
    const std::string label = fmt::format("{} {}", paper_family_name(stop.family), stop.max_active);
    std::fprintf(stderr, "pkv: %zu of %zu: %s\n", tour.entries.size() + 1, std::size(kStops), label.c_str());
    tour.last = visit(stop, run, arguments, label);
    tour.entries.push_back(
        {.label = label, .summary = summarize(tour.last), .arguments = repeat_arguments(stop, arguments)});
    if (tour.last.interrupted || tour.last.error) break;
  }
  return tour;
}

int run(const Arguments& arguments) {
  const RunOptions options = resolve_tour(arguments);
  Output output(arguments.json);
  const Tour tour = take_tour(arguments, options);
  const RunSummary& first = tour.entries.front().summary;
  if (tour.last.error && first.steps == 0) throw Failure{*tour.last.error};  // there is nothing to show
  const std::string text = fmt::format("{}; {}\n{}\n\n{}\n{}\n", first.shape, first.layout, first.backend,
                                       suite_table(tour.entries, output.style()), suite_advice(tour.entries));
  const Status shown = output.show(text, suite_json(tour.entries));
  report_early_end(tour.last);
  return conclude(exit_code_of(tour.last), shown);
}

}  // namespace

Command add_tour(CLI::App& parent) {
  CLI::App& app = Options::add_command(
      parent, "tour", "The main job: five serving traces by every route (pkv alone does it)", kExamples);
  auto arguments = std::make_shared<Arguments>();
  Options options(app);
  options.integer({"--steps", "Measured steps a trace", fmt::format("{}", kDefaultSteps)}, arguments->steps,
                  {.min = 1});
  options.integer({"--seed", "Seed of the traces; 20260623 to 20260627 are held out", "20260623"}, arguments->seed,
                  {.min = 0, .max = std::numeric_limits<std::uint32_t>::max()});
  options.choice<VerifyMode>({"--verify", "Steps to compare with the float64 oracle", "sample"}, arguments->verify,
                             {"every", "sample", "off"}, parse_verify_mode);
  add_route_options(options, arguments->routes);
  add_backend_options(options, arguments->backend);
  add_worker_options(options, arguments->workers);
  options.bytes({"--memory-limit", "Memory that may be allocated", "what is available"}, arguments->memory_limit);
  options.words({"--json", "Write the result as JSON; - is standard output, without the table", ""}, "FILE|-",
                arguments->json);
  return {&app, [arguments] { return run(*arguments); }};
}

int run_default_tour() { return run(Arguments{}); }

}  // namespace pkv::cli
