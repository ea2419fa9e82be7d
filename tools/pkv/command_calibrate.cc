// pkv calibrate: measures this machine's profile and keeps it for --policy auto.
// Not here: the measurements and the fit (src/replay/calibrate.h).
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "commands.h"
#include "machine_profile.h"
#include "replay/calibrate.h"
#include "report/text_table.h"
#include "run_arguments.h"
#include "run_outcome.h"

namespace pkv::cli {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  pkv calibrate                              under a minute; kept in the user's cache directory\n"
    "  pkv calibrate --threads 1\n"
    "  pkv calibrate --output my.json             pkv replay --policy auto --profile my.json";

struct Arguments {
  WorkerArguments workers;
  std::optional<std::int64_t> repeats, memory_limit;
  std::optional<std::string> output;
};

std::string output_path(const Arguments& arguments) {
  if (arguments.output) return *arguments.output;
  const std::string path = machine_profile_path();
  if (path.empty()) fail("--output", "is missing: neither XDG_CACHE_HOME nor HOME says where profiles are kept");
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error) fail(path, fmt::format("its folder cannot be made: {}", error.message()));
  return path;
}

std::string fit_table(const Calibration& calibration, TextStyle style) {
  TextTable table({{"step", TextTable::Align::kLeft}, {"measured us"}, {"predicted us"}, {"error %"}, {"probe GB/s"}});
  for (const CalibratedStep& step : calibration.steps) {
    table.add_row({step.what, fmt::format("{:.1f}", step.measured_ns * 1e-3),
                   fmt::format("{:.1f}", step.predicted_ns * 1e-3),
                   fmt::format("{:+.1f}", (step.predicted_ns / step.measured_ns - 1.0) * 100.0),
                   fmt::format("{:.1f}", step.probe_bytes_per_ns)});
  }
  const DeviceProfile& profile = calibration.profile;
  std::string text = table.render(style);
  text += fmt::format("\nfit: median error {:.1f}%, worst {:.1f}%\n", calibration.median_error * 100.0,
                      calibration.worst_error * 100.0);
  text += fmt::format(
      "reads {:.1f} GB/s by {} workers, {:.1f} by one; overlap exponent {:.1f}; a task {:.2f} us, a "
      "launch {:.2f} us, merges {:.1f} GB/s\n",
      profile.bandwidth.back().bytes_per_ns, profile.num_workers, profile.bandwidth.front().bytes_per_ns,
      profile.overlap_exponent, profile.task_ns * 1e-3, profile.launch_ns * 1e-3, profile.merge_bytes_per_ns);
  text += fmt::format("ratios of plans of one step are right within {:.1f}%: gains below it are not chased\n",
                      profile.price_error * 100.0);
  for (const ChunkPoint& point : profile.chunks) {
    text += fmt::format("pieces of {} KiB: {:.0f}% of that\n", point.bytes / 1024, point.share * 100.0);
  }
  return text;
}

// A poor profile is kept: the policy corrects its scale by what steps take, and leaves the rule's plan only for gains
// above price_error, so it does no worse than the shipped profile, which knows nothing of this machine.
std::string quality(const Calibration& calibration) {
  if (calibration.median_error <= kPoorMedianError) return {};
  return fmt::format(
      "The fit is poor: half of its steps are off by more than {:.0f}%. Something ran beside, or the memory changed "
      "its speed. Choices will stay close to the rule's; repeat pkv calibrate on a quieter machine.\n",
      calibration.median_error * 100.0);
}

int run(const Arguments& arguments) {
  const CpuOptions cpu = resolve_workers(arguments.workers);
  const std::string path = output_path(arguments);
  // The old profile stays until the new one is complete and takes its name.
  OutputFile file("--output", path);
  const Calibration calibration = observed(
      [&](RunObserver& observer) {
        return calibrate_cpu({.cpu = cpu,
                              .identity = machine_identity(cpu),
                              .repeats = static_cast<std::int32_t>(arguments.repeats.value_or(25)),
                              .memory_limit_bytes = arguments.memory_limit},
                             observer);
      },
      {.label = "calibrate", .memory_hint = "close other programs"});
  if (calibration.median_error > kAbsurdMedianError) {
    print(fit_table(calibration, style_of(1)));
    fail("calibration",
         fmt::format("median error {:.1f}% is above {:.0f}%: prices by this fit would be worthless; nothing was kept, "
                     "repeat it when less runs beside",
                     calibration.median_error * 100.0, kAbsurdMedianError * 100.0));
  }
  file.write(profile_json(calibration.profile));
  if (!file.is_stdout()) {
    print(fit_table(calibration, style_of(1)) + quality(calibration) + fmt::format("kept as {}\n", path));
  }
  return kExitOk;
}

}  // namespace

Command add_calibrate(CLI::App& parent) {
  CLI::App& app = Options::add_command(
      parent, "calibrate", "Measure this machine's profile, which --policy auto takes its prices from", kExamples);
  auto arguments = std::make_shared<Arguments>();
  Options options(app);
  options.integer({"--repeats", "Executions of every step", "25"}, arguments->repeats, {.min = 5, .max = 1000});
  add_worker_options(options, arguments->workers);
  options.bytes({"--memory-limit", "Memory that may be allocated", "what is available"}, arguments->memory_limit);
  options.words({"--output", "Where the profile is written; - is standard output", "the user's cache directory"},
                "FILE|-", arguments->output);
  return {&app, [arguments] { return run(*arguments); }};
}

}  // namespace pkv::cli
