// pkv trace: describes a trace, or converts it to the paper's columns.
// Not here: formats (src/trace), quantiles (trace_summary.h).
#include <fmt/format.h>

#include <memory>

#include "commands.h"
#include "output.h"
#include "trace_arguments.h"
#include "trace_summary.h"

namespace pkv::cli {
namespace {

constexpr const char* kExamples =
    "Examples:\n"
    "  pkv trace paper:bimodal\n"
    "  pkv trace requests.jsonl --requests 500 --json -\n"
    "  pkv trace --trace paper:zipf --seed 7 --convert csv --output zipf.csv\n"
    "  pkv trace azure.csv --format azure2023 --convert jsonl > azure.jsonl";

struct Arguments {
  TraceArguments trace;
  std::optional<std::string> positional;
  std::optional<std::int64_t> page_size;
  std::optional<TraceFormat> convert;
  std::optional<std::string> output, json;
};

Result<TraceFormat> parse_written_format(std::string_view name) {
  if (name == "csv") return TraceFormat::kCsv;
  if (name == "json") return TraceFormat::kJson;
  if (name == "jsonl") return TraceFormat::kJsonLines;
  return Error{};
}

void check(const Arguments& arguments, const TraceArguments& trace) {
  if (arguments.output && !arguments.convert) fail("--output", "needs --convert csv, json or jsonl");
  if (arguments.convert && !arguments.output && arguments.json == "-") {
    fail("--json", "'-' and the converted trace cannot both go to standard output; add --output FILE");
  }
  const bool generated = trace.trace && trace.trace->starts_with("paper:");
  if (!generated) {
    refuse(arguments.page_size, "--page-size", "is for paper:NAME, whose prompts are rounded up to it");
    refuse(trace.max_active, "--max-active", "is for paper:NAME, whose arrivals follow from it");
  }
}

// A replay seeds K, V and queries as well; here only requests are drawn, and most formats list theirs.
void check_seed(const TraceArguments& arguments, const Trace& trace) {
  constexpr std::string_view kGenerated = "paper";
  if (trace.format == kGenerated || trace.format == trace_format_name(TraceFormat::kServeGen)) return;
  refuse(arguments.seed, "--seed",
         fmt::format("is for paper:NAME and servegen, whose requests are drawn; this trace is {}", trace.format));
}

void convert(const Trace& trace, TraceFormat format, OutputFile& file) {
  std::string text = unwrap(serialize_trace(trace, format));
  if (text.empty() || text.back() != '\n') text += '\n';
  file.write(text);
}

int run(const Arguments& arguments) {
  TraceArguments named = arguments.trace;
  if (arguments.positional && named.trace) {
    fail("--trace",
         fmt::format("'{}' is a second trace beside '{}'; at most one", *named.trace, *arguments.positional));
  }
  if (arguments.positional) named.trace = arguments.positional;
  check(arguments, named);
  Output output(arguments.json);
  std::optional<OutputFile> converted;
  if (arguments.convert) converted.emplace("--output", arguments.output.value_or("-"));
  const Trace trace = load_trace(named, static_cast<std::int32_t>(arguments.page_size.value_or(16)));
  if (trace.requests.empty()) fail(trace.name, "has 0 requests; at least 1");
  check_seed(named, trace);
  const TraceSummary summary = summarize_trace(trace);
  if (converted) convert(trace, *arguments.convert, *converted);
  unwrap(output.show(converted ? "" : trace_text(summary, output.style()), trace_json(summary)));
  return kExitOk;
}

}  // namespace

Command add_trace(CLI::App& parent) {
  CLI::App& app =
      Options::add_command(parent, "trace", "Describe a trace, or convert it to CSV, JSON or JSON lines", kExamples);
  auto arguments = std::make_shared<Arguments>();
  Options options(app);
  options.positional({"trace", "paper:NAME or a file", ""}, "TRACE", arguments->positional);
  add_trace_options(options, arguments->trace);
  options.integer({"--page-size", "paper:NAME: prompts are rounded up to a multiple of it", "16"}, arguments->page_size,
                  {.min = 1, .max = 256});
  options.choice<TraceFormat>({"--convert", "Write the requests in this format", ""}, arguments->convert,
                              {"csv", "json", "jsonl"}, parse_written_format);
  options.words({"--output", "File of --convert", "standard output"}, "FILE|-", arguments->output);
  options.words({"--json", "Write the description as JSON; - is standard output", ""}, "FILE|-", arguments->json);
  return {&app, [arguments] { return run(*arguments); }};
}

}  // namespace pkv::cli
