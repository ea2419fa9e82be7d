// pkv replay: every step of a trace by several routes.
// Not here: measuring (src/replay), tables (src/report).
#include <fmt/format.h>

#include <memory>
#include <string>

#include "commands.h"
#include "replay/replay.h"
#include "run_arguments.h"
#include "run_outcome.h"
#include "trace_arguments.h"

namespace pkv::cli {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  pkv replay --trace paper:bimodal --steps 48\n"
    "  pkv replay --trace paper:zipf --routes row,workqueue --splits workqueue=28 --verify every\n"
    "  pkv replay --trace requests.csv --requests 500 --max-active 16 --json result.json\n"
    "  pkv replay --trace paper:uniform --mlp 4096,14336\n"
    "  pkv replay --trace paper:zipf --backend cuda --routes all,flashinfer-tensor\n"
    "  pkv replay --trace paper:bimodal --policy auto --oracle\n"
    "  pkv replay --trace paper:bimodal --backend sim:rtx3060 --routes workqueue,flashinfer-core --policy auto\n"
    "  pkv replay --trace paper:bimodal --plan-only --sms 28 --json -";

struct Arguments {
  TraceArguments trace;
  AdmissionArguments admission;
  RunArguments run;
  std::optional<std::int64_t> steps, skip;
  std::optional<std::string> json;
};

ReplayOptions resolve_replay(const Arguments& arguments, const Trace& trace) {
  ReplayOptions options;
  options.run = resolve(arguments.run, seed_of(arguments.trace));
  const KvArguments& kv = arguments.run.kv;
  options.admission = resolve_admission(arguments.admission, arguments.trace, trace,
                                        {.page_size = page_size_of(kv),
                                         .hole_fraction = kv.hole_fraction.value_or(0.0),
                                         .page_seed = static_cast<std::uint64_t>(kv.page_seed.value_or(1))});
  options.trace_seed = seed_of(arguments.trace);
  options.max_steps = arguments.steps;
  options.skip_steps = arguments.skip.value_or(0);
  options.plan_only_workers = plan_only_workers(arguments.run);
  return options;
}

// A trace without a step after --skip is a mistake in --skip, not an empty result.
void refuse_empty(const RunRecords& records, const Trace& trace, const ReplayOptions& options) {
  if (num_steps(records) > 0 || records.error || records.interrupted) return;
  const auto admission = unwrap(make_admission(trace, options.admission));
  StepRows rows;
  while (unwrap(admission->next(rows))) {
  }
  fail("--skip",
       fmt::format("{} passes over all {} steps of {}", options.skip_steps, admission->stats().steps, trace.name));
}

// What decides the number of pages differs: all requests (paper), those that fit (fcfs), or the pool given.
std::string memory_hint(const AdmissionOptions& admission) {
  if (admission.mode == AdmissionMode::kPaper) return "lower --requests or --kv-heads, or take --admission fcfs";
  return admission.pool_pages ? "lower --pool-pages or --kv-heads" : "lower --max-active or --kv-heads";
}

int run(const Arguments& arguments) {
  static_cast<void>(resolve(arguments.run, 0));  // options are checked before a long file is read
  Output output(arguments.json);
  const Trace trace = load_trace(arguments.trace, page_size_of(arguments.run.kv));
  const ReplayOptions options = resolve_replay(arguments, trace);
  const RunRecords records = observed([&](RunObserver& observer) { return replay(trace, options, observer); },
                                      {.memory_hint = memory_hint(options.admission)});
  refuse_empty(records, trace, options);
  return finish_run(records, output);
}

}  // namespace

Command add_replay(CLI::App& parent) {
  CLI::App& app =
      Options::add_command(parent, "replay", "Replay a trace: every step by every route, checked and timed", kExamples);
  auto arguments = std::make_shared<Arguments>();
  Options options(app);
  add_trace_options(options, arguments->trace);
  add_admission_options(options, arguments->admission);
  options.integer({"--steps", "Measured steps, at most", "all"}, arguments->steps, {.min = 1});
  options.integer({"--skip", "Steps passed over first", "0"}, arguments->skip, {.min = 0});
  add_run_options(options, arguments->run);
  options.words({"--json", "Write the result as JSON; - is standard output, without the table", ""}, "FILE|-",
                arguments->json);
  return {&app, [arguments] { return run(*arguments); }};
}

}  // namespace pkv::cli
