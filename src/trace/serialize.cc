// Writes a trace in the paper's columns, so that read_trace reads it back equal.
// Not here: reading (read_csv.cc, read_json.cc).
#include <fmt/format.h>

#include <cmath>
#include <iterator>

#include "trace/formats.h"
#include "trace/readers.h"

namespace pkv {
namespace {

using trace_internal::kMaxArrival;
using trace_internal::kMaxTokens;

Error request_error(const Trace& trace, std::size_t i, std::string message) {
  return {.code = ErrorCode::kInvalidArgument,
          .message = std::move(message),
          .where = fmt::format("{}, request {}", trace.name, i)};
}

/// What a reader would refuse, leave out or reorder is not written.
Status check_request(const Trace& trace, std::size_t i) {
  const Request& request = trace.requests[i];
  const std::int64_t end = static_cast<std::int64_t>(request.prompt_len) + request.decode_len;
  if (request.prompt_len < 1 || request.decode_len < 1 || end > kMaxTokens) {
    return request_error(trace, i,
                         fmt::format("prompt_len {} and decode_len {} must be at least 1 and together at most {}",
                                     request.prompt_len, request.decode_len, kMaxTokens));
  }
  if (!(request.arrival >= 0.0 && request.arrival <= kMaxArrival)) {
    return request_error(trace, i, fmt::format("arrival {} is outside 0 to {:.0f}", request.arrival, kMaxArrival));
  }
  if (trace.arrival_unit == ArrivalUnit::kSteps && request.arrival != std::floor(request.arrival)) {
    return request_error(trace, i, fmt::format("arrival {} is not a whole number of steps", request.arrival));
  }
  if (i > 0 && request.arrival < trace.requests[i - 1].arrival) {
    return request_error(trace, i,
                         fmt::format("arrival {} is before that of the request in front of it, {}", request.arrival,
                                     trace.requests[i - 1].arrival));
  }
  return {};
}

std::string_view arrival_field(const Trace& trace) {
  if (!trace.has_arrivals) {
    return {};
  }
  return trace.arrival_unit == ArrivalUnit::kSeconds ? "arrival" : "arrival_step";
}

/// fmt's "{}" of a double is the shortest decimal that reads back as the same double.
std::string to_csv(const Trace& trace) {
  const std::string_view arrival = arrival_field(trace);
  std::string text = fmt::format("prompt_len,decode_len{}{}\n", arrival.empty() ? "" : ",", arrival);
  for (const Request& request : trace.requests) {
    fmt::format_to(std::back_inserter(text), "{},{}", request.prompt_len, request.decode_len);
    if (!arrival.empty()) {
      fmt::format_to(std::back_inserter(text), ",{}", request.arrival);
    }
    text.push_back('\n');
  }
  return text;
}

void append_json_object(const Request& request, std::string_view arrival, std::string& text) {
  fmt::format_to(std::back_inserter(text), R"({{"prompt_len": {}, "decode_len": {})", request.prompt_len,
                 request.decode_len);
  if (!arrival.empty()) {
    fmt::format_to(std::back_inserter(text), R"(, "{}": {})", arrival, request.arrival);
  }
  text.push_back('}');
}

std::string to_json_lines(const Trace& trace) {
  std::string text;
  for (const Request& request : trace.requests) {
    append_json_object(request, arrival_field(trace), text);
    text.push_back('\n');
  }
  return text;
}

std::string to_json(const Trace& trace) {
  std::string text = "{\"requests\": [";
  for (std::size_t i = 0; i < trace.requests.size(); ++i) {
    text += i == 0 ? "\n  " : ",\n  ";
    append_json_object(trace.requests[i], arrival_field(trace), text);
  }
  return text + "\n]}\n";
}

}  // namespace

Result<std::string> serialize_trace(const Trace& trace, TraceFormat format) {
  if (trace.requests.empty()) {
    return Error{
        .code = ErrorCode::kInvalidArgument, .message = "0 requests, at least 1 is needed", .where = trace.name};
  }
  for (std::size_t i = 0; i < trace.requests.size(); ++i) {
    PKV_RETURN_IF_ERROR(check_request(trace, i));
  }
  switch (format) {
    case TraceFormat::kCsv: return to_csv(trace);
    case TraceFormat::kJson: return to_json(trace);
    case TraceFormat::kJsonLines: return to_json_lines(trace);
    default:
      return Error{.code = ErrorCode::kUnsupported,
                   .message = fmt::format("the format {} is only read; traces are written as csv, json or jsonl",
                                          trace_format_name(format)),
                   .where = {}};
  }
}

}  // namespace pkv
