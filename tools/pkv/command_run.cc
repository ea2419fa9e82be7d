// pkv run: one decode step from lengths on the command line.
// Not here: measuring (src/replay), tables (src/report).
#include <fmt/format.h>

#include <limits>
#include <memory>

#include "commands.h"
#include "persistentkv/batch.h"
#include "replay/step.h"
#include "run_arguments.h"
#include "run_outcome.h"

namespace pkv::cli {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  pkv run --lens 48000,6000,6000\n"
    "  pkv run --lens 8x8192 --dtype bf16 --layout NHD --repeats 50\n"
    "  pkv run --lens 32768 --routes row,split,pages --splits split=16 --threads 2\n"
    "  pkv run --lens 64x4096 --backend cuda --routes workqueue --merge fused\n"
    "  pkv run --lens 48000,6000 --plan-only --sms 28 --json -";

constexpr std::int64_t kMaxRepeats = 1'000'000;

struct Arguments {
  RunArguments run;
  std::optional<std::string> lens;
  std::optional<std::int64_t> repeats, seed;
  std::optional<std::string> json;
};

StepOptions resolve_step(const Arguments& arguments) {
  if (!arguments.lens) fail("--lens", "is missing; it must be lengths such as 48000,6000 or 8x8192");
  StepOptions options;
  options.run = resolve(arguments.run, static_cast<std::uint64_t>(arguments.seed.value_or(1)));
  options.seq_lens = parse_lengths("--lens", *arguments.lens, kMaxRows);
  options.page_size = page_size_of(arguments.run.kv);
  options.hole_fraction = arguments.run.kv.hole_fraction.value_or(0.0);
  options.page_seed = static_cast<std::uint64_t>(arguments.run.kv.page_seed.value_or(1));
  options.repeats = static_cast<std::int32_t>(arguments.repeats.value_or(options.repeats));
  options.plan_only_workers = plan_only_workers(arguments.run);
  return options;
}

int run(const Arguments& arguments) {
  const StepOptions options = resolve_step(arguments);
  Output output(arguments.json);
  const RunRecords records = observed([&](RunObserver& observer) { return run_step(options, observer); },
                                      {.memory_hint = "lower --lens or --kv-heads"});
  return finish_run(records, output);
}

}  // namespace

Command add_run(CLI::App& parent) {
  CLI::App& app = Options::add_command(parent, "run", "One decode step from lengths: routes compared", kExamples);
  auto arguments = std::make_shared<Arguments>();
  Options options(app);
  options.words({"--lens", "Tokens in the cache by row: 48000,6000 or 8x8192", ""}, "LENS", arguments->lens);
  options.integer({"--repeats", "Measured repetitions by every route", "20"}, arguments->repeats,
                  {.min = 1, .max = kMaxRepeats});
  options.integer({"--seed", "Seed of K, V and queries", "1"}, arguments->seed, {.min = 0});
  add_run_options(options, arguments->run);
  options.words({"--json", "Write the result as JSON; - is standard output, without the table", ""}, "FILE|-",
                arguments->json);
  return {&app, [arguments] { return run(*arguments); }};
}

}  // namespace pkv::cli
