// pkv verify: random differential cases against the float64 oracle.
// Not here: the cases (src/replay/verify).
#include <fmt/format.h>

#include <cstdio>
#include <limits>
#include <memory>
#include <vector>

#include "commands.h"
#include "exec/staged_backend.h"
#include "persistentkv/cpu.h"
#include "persistentkv/cuda.h"
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
    "  pkv verify --isa avx2 --threads 2\n"
    "  pkv verify --backend cuda --cases 20000";

struct Arguments {
  std::optional<std::int64_t> cases, seed, only_case;
  BackendArguments backend;
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
  check_backend(arguments.backend, arguments.workers);
  if (is_sim(arguments.backend)) fail("--backend", "sim:PROFILE computes nothing that could be verified");
  options.fused_merges = is_cuda(arguments.backend) ? FusedMerges::kOneHead : FusedMerges::kAnyHeads;
  return options;
}

bool chooses_workers(const WorkerArguments& workers) {
  return workers.isa || workers.threads || workers.pin || workers.wait;
}

// Twice the same GPU, so that some plans run on it again and must give the same bits.
VerifyRecords measure_cuda(const Arguments& arguments, const VerifyOptions& options) {
  const auto cuda = unwrap(CudaBackend::create(resolve_cuda(arguments.backend)));
  const auto first = unwrap(StagedBackend::make(*cuda));
  const auto second = unwrap(StagedBackend::make(*cuda));
  Backend* const backends[] = {first.get(), second.get()};
  return observed([&](RunObserver& observer) { return verify(options, backends, observer); });
}

// Every ISA and several numbers of workers, unless the user asks for one backend.
VerifyRecords measure(const Arguments& arguments, const VerifyOptions& options) {
  if (is_cuda(arguments.backend)) return measure_cuda(arguments, options);
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

std::string repeat_arguments(const Arguments& arguments) {
  std::string text = backend_text(arguments.backend);
  if (arguments.workers.isa) text += fmt::format(" --isa {}", isa_name(*arguments.workers.isa));
  if (arguments.workers.threads) text += fmt::format(" --threads {}", *arguments.workers.threads);
  return text;
}

// The one line that says how to repeat it, whatever form the report has.
void report_failure(const VerifyRecords& records) {
  if (!records.failure) return;
  const std::string repeat = fmt::format("pkv verify --seed {} --case {}{}", records.seed, records.failure->case_idx,
                                         records.repeat_arguments);
  const Error error{ErrorCode::kMismatch, fmt::format("{}; repeat it: {}", records.failure->message, repeat),
                    fmt::format("case {}", records.failure->case_idx)};
  std::fprintf(stderr, "%s\n", error_line(error).c_str());
}

int run(const Arguments& arguments) {
  const VerifyOptions options = resolve_verify(arguments);
  Output output(arguments.json);
  VerifyRecords records = measure(arguments, options);
  records.repeat_arguments = repeat_arguments(arguments);
  const Status shown = output.show(verify_table(records, output.style()), verify_json(records));
  report_failure(records);
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
  add_backend_options(options, arguments->backend);
  add_worker_options(options, arguments->workers);
  options.words({"--json", "Write the result as JSON; - is standard output, without the table", ""}, "FILE|-",
                arguments->json);
  return {&app, [arguments] { return run(*arguments); }};
}

}  // namespace pkv::cli
