// TraceSummary: counts and quantiles of a trace, as text and JSON.
// Not here: reading traces (src/trace).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "report/report.h"
#include "trace/trace.h"

namespace pkv::cli {

/// p1 to p99, largest and mean of one quantity.
struct Distribution {
  double p1 = 0, p10 = 0, p50 = 0, p90 = 0, p99 = 0, max = 0, mean = 0;
};

struct LengthBin {
  std::int64_t begin_tokens = 0;  // [begin, end)
  std::int64_t end_tokens = 0;
  std::int64_t count = 0;
};

struct TraceSummary {
  std::string name;
  std::string format;
  ArrivalUnit arrival_unit = ArrivalUnit::kSteps;
  std::int64_t requests = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t decode_tokens = 0;
  double span = 0;  // arrivals, in arrival units
  Distribution prompt, decode, end, gap;
  /// Context lengths weighted by decode steps: what a decode kernel meets.
  Distribution step_context;
  /// Prompts by powers of two.
  std::vector<LengthBin> bins;
  std::vector<std::string> notes;
};

/// Requires at least one request.
TraceSummary summarize_trace(const Trace& trace);
std::string trace_json(const TraceSummary& summary);
std::string trace_text(const TraceSummary& summary, TextStyle style);

}  // namespace pkv::cli
