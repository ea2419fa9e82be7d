// Limits, order and notes that all file formats share.
// Not here: file formats.
#include "trace/trace_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "trace/names.h"
#include "trace/text_input.h"

namespace pkv::trace_internal {

std::string FieldPlace::text() const { return format_place(file, line, field); }

Error field_error(const FieldPlace& place, std::string message) {
  return {.code = ErrorCode::kInvalidArgument, .message = std::move(message), .where = place.text()};
}

std::optional<double> parse_number(std::string_view text) {
  double value = 0.0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

Result<std::int32_t> check_tokens(double value, std::string_view shown, const FieldPlace& place) {
  if (value < 0) {
    return field_error(place, fmt::format("{} is negative, must be 0 to {}", shown, kMaxTokens));
  }
  if (value > static_cast<double>(kMaxTokens)) {
    return field_error(place, fmt::format("{} is above the limit of {}", shown, kMaxTokens));
  }
  if (value != std::floor(value)) {
    return field_error(place, fmt::format("{} is not a whole number", shown));
  }
  return static_cast<std::int32_t>(value);
}

Result<std::int32_t> parse_tokens(std::string_view text, const FieldPlace& place) {
  if (text.empty()) {
    return field_error(place, fmt::format("is empty, expected a whole number, 0 to {}", kMaxTokens));
  }
  const std::optional<double> value = parse_number(text);
  if (!value) {
    return field_error(place, fmt::format("\"{}\" is not a whole number, 0 to {}", printable(text), kMaxTokens));
  }
  return check_tokens(*value, printable(text), place);
}

Result<double> check_arrival(double value, ArrivalUnit unit, const FieldPlace& place) {
  if (!(value >= 0.0 && value <= kMaxArrival)) {
    return field_error(place, fmt::format("{} is outside 0 to {:.0f}", value, kMaxArrival));
  }
  if (unit == ArrivalUnit::kSteps && value != std::floor(value)) {
    return field_error(place,
                       fmt::format("{} is not a whole number of steps; seconds go into a column \"arrival\"", value));
  }
  return value;
}

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) {
    return {};
  }
  return text.substr(begin, text.find_last_not_of(" \t") + 1 - begin);
}

TraceBuilder::TraceBuilder(std::string name, std::string_view format) {
  trace_.name = std::move(name);
  trace_.format = std::string(format);
  trace_.arrival_unit = ArrivalUnit::kSeconds;
}

Status TraceBuilder::add(const Request& request, std::string_view file, std::int64_t line) {
  const std::int64_t end = static_cast<std::int64_t>(request.prompt_len) + request.decode_len;
  if (end > kMaxTokens) {
    return Error{.code = ErrorCode::kInvalidArgument,
                 .message = fmt::format("prompt {} + output {} = {} tokens, the limit is {}", request.prompt_len,
                                        request.decode_len, end, kMaxTokens),
                 .where = format_place(file, line)};
  }
  first_arrival_ = std::min(first_arrival_, request.arrival);
  if (request.decode_len == 0) {
    ++without_output_;
  } else if (request.prompt_len == 0) {
    ++without_prompt_;
  } else {
    trace_.requests.push_back(request);
  }
  return {};
}

void TraceBuilder::start_at_first_arrival() {
  if (std::isfinite(first_arrival_)) {
    for (Request& request : trace_.requests) {
      request.arrival -= first_arrival_;
    }
  }
}

void TraceBuilder::add_left_out_notes() {
  const auto note = [this](std::int64_t count, std::string_view what) {
    if (count > 0) {
      add_note(fmt::format("{} request{} without {} tokens left out", count, count == 1 ? "" : "s", what));
    }
  };
  note(without_output_, "output");
  note(without_prompt_, "prompt");
}

Result<Trace> TraceBuilder::finish(std::optional<std::int64_t> limit) && {
  std::vector<Request>& requests = trace_.requests;
  if (requests.empty()) {
    const std::int64_t left_out = without_output_ + without_prompt_;
    return Error{.code = ErrorCode::kInvalidArgument,
                 .message = left_out == 0
                                ? std::string("0 requests, at least 1 is needed")
                                : fmt::format("0 requests with prompt and output tokens ({} without), at least "
                                              "1 is needed",
                                              left_out),
                 .where = trace_.name};
  }
  add_left_out_notes();
  const auto earlier = [](const Request& a, const Request& b) { return a.arrival < b.arrival; };
  if (!std::is_sorted(requests.begin(), requests.end(), earlier)) {
    std::stable_sort(requests.begin(), requests.end(), earlier);
    if (!any_order_) {
      add_note("requests were put in order of arrival");
    }
  }
  if (limit && static_cast<std::size_t>(*limit) < requests.size()) {
    add_note(fmt::format("the first {} of {} requests kept", *limit, requests.size()));
    requests.resize(static_cast<std::size_t>(*limit));
  }
  return std::move(trace_);
}

}  // namespace pkv::trace_internal
