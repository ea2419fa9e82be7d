// The commands of pkv: each registers its options and returns what runs after parsing.
// Not here: main, dispatch and errors (application.h).
#pragma once

#include <functional>

#include "options.h"

namespace pkv::cli {

/// Called once the command line is parsed; returns the exit code.
using Action = std::function<int()>;

struct Command {
  CLI::App* app = nullptr;
  Action action;
};

Command add_replay(CLI::App& parent);
Command add_run(CLI::App& parent);
Command add_verify(CLI::App& parent);
Command add_trace(CLI::App& parent);
Command add_doctor(CLI::App& parent);
Command add_calibrate(CLI::App& parent);
Command add_explain(CLI::App& parent);
Command add_sweep(CLI::App& parent);
Command add_tour(CLI::App& parent);

/// The main job with its defaults: what `pkv` does without arguments.
int run_default_tour();

}  // namespace pkv::cli
