// Arguments that name a trace and say how its requests are admitted.
// Not here: formats and admission themselves (src/trace).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "options.h"
#include "trace/admission.h"
#include "trace/readers.h"
#include "trace/trace.h"

namespace pkv::cli {

/// As typed; unset is the default.
struct TraceArguments {
  std::optional<std::string> trace;
  std::optional<TraceFormat> format;
  std::optional<std::int64_t> seed, requests, max_active;
  std::optional<double> session_gap;
  std::optional<bool> spread_ticks;
};

struct AdmissionArguments {
  std::optional<AdmissionMode> mode;
  std::optional<std::int64_t> pool_pages;
  std::optional<double> step_seconds;
};

inline constexpr std::int64_t kHeldOutSeed = 20260623;

/// --trace, --format, --seed, --requests, --max-active, ...
void add_trace_options(Options& options, TraceArguments& trace);
void add_admission_options(Options& options, AdmissionArguments& admission);

/// Fails on what only means something with --trace, the seed apart.
void refuse_trace_details(const TraceArguments& trace, const AdmissionArguments& admission);

std::uint64_t seed_of(const TraceArguments& arguments);
/// Generates or reads the trace. Fails on arguments that do not belong to it.
Trace load_trace(const TraceArguments& arguments, std::int32_t page_size);

struct PageArguments {
  std::int32_t page_size = 16;
  double hole_fraction = 0.0;
  std::uint64_t page_seed = 1;
};
/// paper for paper:NAME, fcfs for files, unless said otherwise.
AdmissionOptions resolve_admission(const AdmissionArguments& admission, const TraceArguments& trace_arguments,
                                   const Trace& trace, const PageArguments& pages);

}  // namespace pkv::cli
