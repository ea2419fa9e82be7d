// From --trace and its companions to a Trace and AdmissionOptions.
// Not here: formats and admission themselves (src/trace).
#include "trace_arguments.h"

#include <fmt/format.h>

#include <filesystem>
#include <limits>

#include "persistentkv/batch.h"
#include "trace/generators.h"

namespace pkv::cli {
namespace {

constexpr std::string_view kPaperPrefix = "paper:";
constexpr std::int64_t kMaxSeed = std::numeric_limits<std::uint32_t>::max();  // std::mt19937 takes 32 bits
constexpr std::int64_t kMaxRequests = 10'000'000;
constexpr std::int64_t kDefaultRequests = 24;
constexpr std::int64_t kDefaultMaxActive = 8;
constexpr double kMaxStepSeconds = 86400.0;

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const PaperFamily family : {PaperFamily::kUniform, PaperFamily::kBimodal, PaperFamily::kZipf,
                                   PaperFamily::kBucketed, PaperFamily::kHomogeneous}) {
    names.emplace_back(paper_family_name(family));
  }
  return names;
}

bool is_paper(const std::string& trace) { return trace.starts_with(kPaperPrefix); }

const std::string& trace_of(const TraceArguments& arguments) {
  if (!arguments.trace) fail("--trace", "is missing; it must be paper:NAME or the path of a trace file");
  return *arguments.trace;
}

Trace generate(const TraceArguments& arguments, std::int32_t page_size) {
  constexpr std::string_view kFilesOnly = "is for trace files; a paper:NAME trace is generated";
  refuse(arguments.format, "--format", kFilesOnly);
  refuse(arguments.session_gap, "--session-gap", kFilesOnly);
  refuse(arguments.spread_ticks, "--no-spread-ticks", kFilesOnly);
  const std::string name = arguments.trace->substr(kPaperPrefix.size());
  const Result<PaperFamily> family = parse_paper_family(name);
  if (!family.ok()) fail("--trace", unknown_name("paper trace", name, family_names()));
  return unwrap(
      make_paper_trace({.family = family.value(),
                        .seed = static_cast<std::uint32_t>(seed_of(arguments)),
                        .num_requests = static_cast<std::int32_t>(arguments.requests.value_or(kDefaultRequests)),
                        .max_active = static_cast<std::int32_t>(arguments.max_active.value_or(kDefaultMaxActive)),
                        .page_size = page_size}));
}

// A bare family name is the likeliest mistake about a file that is not there.
void check_exists(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) return;
  const std::vector<std::string> near = nearest_names(path, family_names());
  std::string message = fmt::format("there is no file '{}'", path);
  if (!near.empty()) message += fmt::format("; did you mean 'paper:{}'?", near.front());
  throw Failure{{.code = ErrorCode::kIo, .message = std::move(message), .where = "--trace"}};
}

void check_reader_arguments(const TraceArguments& arguments, const Trace& trace) {
  if (trace.format != trace_format_name(TraceFormat::kCodingSessions)) {
    refuse(arguments.session_gap, "--session-gap",
           fmt::format("is for coding-sessions; this trace is {}", trace.format));
  }
  if (trace.format != trace_format_name(TraceFormat::kMooncake)) {
    refuse(arguments.spread_ticks, "--no-spread-ticks", fmt::format("is for mooncake; this trace is {}", trace.format));
  }
}

Trace read(const TraceArguments& arguments) {
  check_exists(*arguments.trace);
  TraceReadOptions options{.format = arguments.format, .seed = seed_of(arguments), .limit = arguments.requests};
  options.session_gap_s = arguments.session_gap.value_or(options.session_gap_s);
  options.spread_ticks = arguments.spread_ticks.value_or(options.spread_ticks);
  Trace trace = unwrap(read_trace(*arguments.trace, options));
  check_reader_arguments(arguments, trace);
  return trace;
}

}  // namespace

void add_trace_options(Options& options, TraceArguments& trace) {
  options.words({"--trace", "paper:NAME (uniform, bimodal, zipf, bucketed, homogeneous) or a file", ""}, "TRACE",
                trace.trace);
  options.choice<TraceFormat>({"--format", "Format of the file", "by its content"}, trace.format,
                              {"csv", "json", "jsonl", "azure2023", "mooncake", "coding-sessions", "servegen"},
                              parse_trace_format);
  options.integer({"--seed", "Seed of generated requests and of K, V and queries", "20260623"}, trace.seed,
                  {.min = 0, .max = kMaxSeed});
  options.integer({"--requests", "Requests: generated (24), or the first N of a file (all)", ""}, trace.requests,
                  {.min = 1, .max = kMaxRequests});
  options.integer({"--max-active", "Active requests a step, at most", "8"}, trace.max_active,
                  {.min = 1, .max = kMaxRows});
  options.real({"--session-gap", "coding-sessions: seconds from one session's start to the next", "60"},
               trace.session_gap, {.min = 0.0, .max = kMaxStepSeconds});
  options.flag(
      {"--spread-ticks,!--no-spread-ticks", "mooncake: spread the requests of a 3 s tick over it (the default)", ""},
      trace.spread_ticks);
}

void add_admission_options(Options& options, AdmissionArguments& admission) {
  options.choice<AdmissionMode>({"--admission", "Who is active", "paper for paper:NAME, else fcfs"}, admission.mode,
                                {"paper", "fcfs"}, parse_admission_mode);
  options.integer({"--pool-pages", "fcfs: pages of the pool", "as many as max-active requests need"},
                  admission.pool_pages, {.min = 1, .max = std::numeric_limits<std::int32_t>::max()});
  options.real({"--step-seconds", "fcfs: time of a decode step on the trace's clock", "0.02"}, admission.step_seconds,
               {.min = 0.0, .max = kMaxStepSeconds, .low = RealLimits::Low::kOpen});
}

void refuse_trace_details(const TraceArguments& trace, const AdmissionArguments& admission) {
  constexpr std::string_view kReason = "needs --trace";
  refuse(trace.format, "--format", kReason);
  refuse(trace.requests, "--requests", kReason);
  refuse(trace.max_active, "--max-active", kReason);
  refuse(trace.session_gap, "--session-gap", kReason);
  refuse(trace.spread_ticks, "--no-spread-ticks", kReason);
  refuse(admission.mode, "--admission", kReason);
  refuse(admission.pool_pages, "--pool-pages", kReason);
  refuse(admission.step_seconds, "--step-seconds", kReason);
}

std::uint64_t seed_of(const TraceArguments& arguments) {
  return static_cast<std::uint64_t>(arguments.seed.value_or(kHeldOutSeed));
}

Trace load_trace(const TraceArguments& arguments, std::int32_t page_size) {
  return is_paper(trace_of(arguments)) ? generate(arguments, page_size) : read(arguments);
}

AdmissionOptions resolve_admission(const AdmissionArguments& admission, const TraceArguments& trace_arguments,
                                   const Trace& trace, const PageArguments& pages) {
  AdmissionOptions options{
      .max_active = static_cast<std::int32_t>(trace_arguments.max_active.value_or(kDefaultMaxActive)),
      .page_size = pages.page_size,
      .hole_fraction = pages.hole_fraction,
      .page_seed = pages.page_seed,
      .pool_pages = admission.pool_pages};
  const AdmissionMode usual = is_paper(trace_of(trace_arguments)) ? AdmissionMode::kPaper : AdmissionMode::kFcfs;
  options.mode = admission.mode.value_or(usual);
  options.step_seconds = admission.step_seconds.value_or(options.step_seconds);
  if (options.mode == AdmissionMode::kPaper) {
    constexpr std::string_view kFcfsOnly = "has no effect with --admission paper; it needs --admission fcfs";
    refuse(admission.pool_pages, "--pool-pages", kFcfsOnly);
    refuse(admission.step_seconds, "--step-seconds", kFcfsOnly);
  }
  if (trace.arrival_unit == ArrivalUnit::kSteps) {
    refuse(admission.step_seconds, "--step-seconds", "has no effect: this trace arrives in steps, not in seconds");
  }
  return options;
}

}  // namespace pkv::cli
