// The full set of CPU probes as JSON: what `pkv doctor --probe --json` has, without the machine's description.
// Not here: how they are measured (src/replay/cpu_probes.h).
#include <CLI/CLI.hpp>
#include <cstdio>

#include "replay/cpu_probes.h"

int main(int argc, char** argv) {
  pkv::CpuProbeOptions options = {.set = pkv::ProbeSet::kFull, .passes = 15};
  std::int32_t threads = 0;
  std::int64_t mib = 0;
  std::string isa;
  CLI::App app("Reads, fork-join and exp of this CPU, measured in turn. Prints JSON.");
  app.add_option("--passes", options.passes)->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--threads", threads, "0: one a physical core")->check(CLI::Range(0, 1024))->capture_default_str();
  app.add_option("--isa", isa, "The best when not set");
  app.add_option("--mib", mib, "Of each buffer; 0: four last-level caches, at least 256")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const auto fail = [](const pkv::Error& error) {
    std::fprintf(stderr, "bench_probes: %s\n", error.to_string().c_str());
    return 2;
  };
  pkv::CpuOptions cpu;
  if (threads > 0) {
    cpu.threads = threads;
  }
  if (!isa.empty()) {
    const auto parsed = pkv::parse_isa(isa);
    if (!parsed.ok()) {
      return fail(parsed.error());
    }
    cpu.isa = *parsed;
  }
  if (mib > 0) {
    options.buffer_bytes = mib << 20;
  }
  const auto backend = pkv::CpuBackend::create(cpu);
  if (!backend.ok()) {
    return fail(backend.error());
  }
  const auto probes = pkv::measure_cpu_probes(**backend, options);
  if (!probes.ok()) {
    return fail(probes.error());
  }
  std::printf("%s\n", pkv::cpu_probes_json(*probes).c_str());
  return 0;
}
