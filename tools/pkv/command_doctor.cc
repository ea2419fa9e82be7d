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
    "  pkv doctor --no-probes --json -\n"
    "  pkv doctor --full-probes --json probes.json";

struct Arguments {
  WorkerArguments workers;
  std::optional<bool> probes;
  std::optional<bool> full_probes;
  std::optional<std::string> json;
};

ProbeChoice probe_choice(const Arguments& arguments) {
  if (arguments.probes.value_or(true)) {
    return arguments.full_probes.value_or(false) ? ProbeChoice::kFull : ProbeChoice::kQuick;
  }
  refuse(arguments.full_probes, "--full-probes", "cannot be combined with --no-probes");
  return ProbeChoice::kSkip;
}

int run(const Arguments& arguments) {
  const ProbeChoice probes = probe_choice(arguments);
  Output output(arguments.json);
  if (probes != ProbeChoice::kSkip) {
    std::fprintf(stderr, "pkv: measuring reads, fork-join and exp, a few %s\n",
                 probes == ProbeChoice::kFull ? "tens of seconds" : "seconds");
  }
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
  options.flag({"--probes,!--no-probes", "Measure reads of memory, fork-join and exp (the default), or do not", ""},
               arguments->probes);
  options.flag({"--full-probes", "Measure every number of workers, and search the fastest way to read", ""},
               arguments->full_probes);
  options.words({"--json", "Write the result as JSON; - is standard output, without the table", ""}, "FILE|-",
                arguments->json);
  return {&app, [arguments] { return run(*arguments); }};
}

}  // namespace pkv::cli
