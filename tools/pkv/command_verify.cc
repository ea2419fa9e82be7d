// pkv verify: random differential cases against the float64 oracle.
// Not here: the cases (src/replay/verify).
#include <fmt/format.h>

#include <cstdio>
#include <limits>
#include <memory>
#include <vector>

#include "commands.h"
#include "persistentkv/cpu.h"
#include "replay/verify.h"
#include "run_arguments.h"
#include "run_outcome.h"

namespace pkv::cli {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  pkv verify\n"
    "  pkv verify --cases 20000 --seed 7\n"
    "  pkv verify --seed 7 --case 1234            repeat one case\n"
    "  pkv verify --isa avx2 --threads 2";

struct Arguments {
  std::optional<std::int64_t> cases, seed, only_case;
  WorkerArguments workers;
  std::optional<std::string> json;
};

VerifyOptions resolve_verify(const Arguments& arguments) {
  VerifyOptions options;
  if (arguments.cases && arguments.only_case) {
    fail("--case", fmt::format("{} cannot be combined with --cases {}", *arguments.only_case, *arguments.cases));
  }
  options.num_cases = arguments.cases.value_or(options.num_cases);
  options.seed = static_cast<std::uint64_t>(arguments.seed.value_or(1));
  options.only_case = arguments.only_case;
  return options;
}

bool chooses_workers(const WorkerArguments& workers) {
  return workers.isa || workers.threads || workers.pin || workers.wait;
}

// Every ISA and several numbers of workers, unless the user asks for one backend.
VerifyRecords measure(const Arguments& arguments, const VerifyOptions& options) {
  if (!chooses_workers(arguments.workers)) {
    return observed([&](RunObserver& observer) { return verify(options, observer); });
  }
  const auto backend = unwrap(make_cpu_backend(resolve_workers(arguments.workers)));
  Backend* const backends[] = {backend.get()};
  return observed([&](RunObserver& observer) { return verify(options, backends, observer); });
}

int exit_code_of(const VerifyRecords& records) {
  if (records.failure) return kExitVerificationFailed;
  return records.interrupted ? kExitInterrupted : kExitOk;
}

// The one line that says how to repeat it, whatever form the report has.
void report_failure(const VerifyRecords& records, const Arguments& arguments) {
  if (!records.failure) return;
  std::string repeat = fmt::format("pkv verify --seed {} --case {}", records.seed, records.failure->case_idx);
  if (arguments.workers.isa) repeat += fmt::format(" --isa {}", isa_name(*arguments.workers.isa));
  if (arguments.workers.threads) repeat += fmt::format(" --threads {}", *arguments.workers.threads);
  const Error error{ErrorCode::kMismatch, fmt::format("{}; repeat it: {}", records.failure->message, repeat),
                    fmt::format("case {}", records.failure->case_idx)};
  std::fprintf(stderr, "%s\n", error_line(error).c_str());
}

int run(const Arguments& arguments) {
  const VerifyOptions options = resolve_verify(arguments);
  Output output(arguments.json);
  const VerifyRecords records = measure(arguments, options);
  const Status shown = output.show(verify_table(records, output.style()), verify_json(records));
  report_failure(records, arguments);
  if (records.interrupted) std::fputs("pkv: interrupted\n", stderr);
  return conclude(exit_code_of(records), shown);
}

}  // namespace

Command add_verify(CLI::App& parent) {
  CLI::App& app = Options::add_command(parent, "verify",
                                       "Random cases of every route, layout and type against the oracle", kExamples);
  auto arguments = std::make_shared<Arguments>();
  Options options(app);
  options.integer({"--cases", "Random cases", "1000"}, arguments->cases, {.min = 1});
  options.integer({"--seed", "Seed of the cases", "1"}, arguments->seed, {.min = 0});
  options.integer({"--case", "Only this case of the seed", ""}, arguments->only_case, {.min = 0});
  add_worker_options(options, arguments->workers);
  options.words({"--json", "Write the result as JSON; - is standard output, without the table", ""}, "FILE|-",
                arguments->json);
  return {&app, [arguments] { return run(*arguments); }};
}

}  // namespace pkv::cli
