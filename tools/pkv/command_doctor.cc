// pkv doctor: this machine as pkv sees it.
// Not here: what is examined (doctor_facts.h).
#include <cstdio>
#include <memory>

#include "commands.h"
#include "doctor_facts.h"
#include "output.h"
#include "run_arguments.h"

namespace pkv::cli {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  pkv doctor\n"
    "  pkv doctor --threads 1 --isa avx2\n"
    "  pkv doctor --no-probes --json -";

struct Arguments {
  WorkerArguments workers;
  std::optional<bool> probes;
  std::optional<std::string> json;
};

int run(const Arguments& arguments) {
  Output output(arguments.json);
  const ProbeChoice probes = arguments.probes.value_or(true) ? ProbeChoice::kMeasure : ProbeChoice::kSkip;
  if (probes == ProbeChoice::kMeasure) std::fputs("pkv: measuring reads, a few seconds\n", stderr);
  const DoctorFacts facts = unwrap(examine(resolve_workers(arguments.workers), probes));
  unwrap(output.show(doctor_text(facts, output.style()), doctor_json(facts)));
  return kExitOk;
}

}  // namespace

Command add_doctor(CLI::App& parent) {
  CLI::App& app = Options::add_command(parent, "doctor",
                                       "This machine: cores, caches, memory, ISAs, GPUs, measured reads", kExamples);
  auto arguments = std::make_shared<Arguments>();
  Options options(app);
  add_worker_options(options, arguments->workers);
  options.flag({"--probes,!--no-probes", "Measure reads of memory (the default), or do not", ""}, arguments->probes);
  options.words({"--json", "Write the result as JSON; - is standard output, without the table", ""}, "FILE|-",
                arguments->json);
  return {&app, [arguments] { return run(*arguments); }};
}

}  // namespace pkv::cli
