// Which points a sweep has: its axes from lists on the command line, one run or more of them.
// Not here: measuring (src/replay/measure.h), tables (src/report/sweep.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "replay/measure.h"
#include "report/sweep.h"
#include "run_arguments.h"
#include "trace_arguments.h"

namespace pkv::cli {

enum class SweepKind : std::uint8_t { kSplits, kGroups, kPages, kHoles, kMix, kCapacity };

/// "splits", "groups", "pages", "holes", "mix", "capacity".
std::string_view sweep_kind_name(SweepKind kind);

/// As typed; unset is the default.
struct SweepArguments {
  std::optional<std::string> kind;
  /// Lists of the axes.
  std::optional<std::string> splits, groups, page_sizes, layouts, packings, hole_fractions, batches, contexts, mixes;
  std::optional<std::string> lens, json;
  std::optional<std::int64_t> rounds, repeats, steps, skip, reference, layers;
  TraceArguments trace;
  AdmissionArguments admission;
  RunArguments run;
};

/// A sweep that can be run.
struct Sweep {
  SweepKind kind = SweepKind::kSplits;
  std::vector<Turn> turns;
  /// One a turn.
  std::vector<SweepAxes> axes;
  std::int32_t rounds = 1;
  bool repeats_one_step = true;
  std::size_t reference_idx = 0;
  OptionEcho options;
};

/// Fails on an unknown kind and on options that have no effect in it.
SweepKind resolve_kind(const SweepArguments& arguments);

/// Not of kCapacity. Traces are read here.
Sweep resolve_sweep(SweepKind kind, const SweepArguments& arguments);

/// One step of a capacity grid.
struct CapacityStep {
  std::int32_t batch = 1;
  std::int32_t context_tokens = 1;
  std::int32_t group_size = 1;
  StepOptions step;
};
struct CapacityGrid {
  std::vector<CapacityStep> steps;
  std::int32_t layers = 1;
  OptionEcho options;
};
CapacityGrid resolve_capacity(const SweepArguments& arguments);

}  // namespace pkv::cli
