// Trace files: CSV, JSON and JSON lines in the paper's columns, and publishers' formats.
// Not here: generators, admission.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "persistentkv/result.h"
#include "trace/trace.h"

namespace pkv {

enum class TraceFormat : std::uint8_t { kCsv, kJson, kJsonLines, kAzure2023, kMooncake, kCodingSessions, kServeGen };

std::string_view trace_format_name(TraceFormat format);
/// "csv", "json", "jsonl", "azure2023", "mooncake", "coding-sessions", "servegen". Errors: kInvalidArgument.
Result<TraceFormat> parse_trace_format(std::string_view name);

struct TraceReadOptions {
  /// Detected by content when not set.
  std::optional<TraceFormat> format = std::nullopt;
  /// For formats whose requests are drawn (servegen); the others ignore it.
  std::uint64_t seed = 1;
  /// First requests kept, after ordering by arrival; all when not set.
  std::optional<std::int64_t> limit = std::nullopt;
  /// coding-sessions have no common clock: session k starts at k * session_gap_s.
  double session_gap_s = 60.0;
  /// Mooncake's arrivals are rounded to ticks of 3 s; true spreads the requests of a tick evenly over it.
  bool spread_ticks = true;
};

/// Reads a file or folder; gzip and tar are unpacked on the way. A pipe is read once, to its end, up to
/// 1 GiB. Errors: kIo (missing, unreadable, unknown format), kInvalidArgument naming file, line and field.
Result<Trace> read_trace(const std::string& path, const TraceReadOptions& options);

/// Writes a trace as "csv", "json" or "jsonl" in the paper's columns; read_trace reads it back equal.
Result<std::string> serialize_trace(const Trace& trace, TraceFormat format);

}  // namespace pkv
