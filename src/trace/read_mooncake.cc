// Mooncake traces: one object a line with timestamp (ms), input_length, output_length, hash_ids.
// Not here: prefix sharing (hash_ids are passed over).
#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "trace/formats.h"
#include "trace/json_fields.h"

namespace pkv::trace_internal {
namespace {

/// The conversation trace's clock: ticks of 3 s that lie up to 1 ms beside a multiple of 3000 ms.
constexpr std::int64_t kTickMs = 3000;
constexpr std::int64_t kTickSlackMs = 1;

struct MooncakeRow {
  std::int64_t timestamp_ms = 0;
  std::int64_t line = 0;
  std::int32_t input_length = 0;
  std::int32_t output_length = 0;
};

std::int64_t nearest_tick(std::int64_t timestamp_ms) { return (timestamp_ms + kTickMs / 2) / kTickMs; }

bool on_tick(const MooncakeRow& row) {
  return std::abs(row.timestamp_ms - nearest_tick(row.timestamp_ms) * kTickMs) <= kTickSlackMs;
}

bool is_wanted(std::string_view name) {
  return name == "timestamp" || name == "input_length" || name == "output_length";
}

Result<MooncakeRow> parse_row(const JsonValue& object, std::string_view file) {
  const auto timestamp = json_arrival(object, "timestamp", ArrivalUnit::kSeconds, file);
  PKV_RETURN_IF_ERROR(timestamp);
  if (timestamp.value() != std::floor(timestamp.value())) {
    return field_error({.file = file, .line = object.line, .field = "timestamp"},
                       fmt::format("{} is not a whole number of milliseconds", timestamp.value()));
  }
  const auto input_length = json_tokens(object, "input_length", file);
  PKV_RETURN_IF_ERROR(input_length);
  const auto output_length = json_tokens(object, "output_length", file);
  PKV_RETURN_IF_ERROR(output_length);
  return MooncakeRow{.timestamp_ms = static_cast<std::int64_t>(timestamp.value()),
                     .line = object.line,
                     .input_length = input_length.value(),
                     .output_length = output_length.value()};
}

/// Arrival in seconds by row: the j-th of n requests on a tick arrives j / n of a tick after it.
std::vector<double> spread_arrivals(const std::vector<MooncakeRow>& rows) {
  std::vector<double> arrivals;
  arrivals.reserve(rows.size());
  for (std::size_t begin = 0; begin < rows.size();) {
    const std::int64_t tick = nearest_tick(rows[begin].timestamp_ms);
    std::size_t end = begin;
    while (end < rows.size() && nearest_tick(rows[end].timestamp_ms) == tick) {
      ++end;
    }
    const double tick_seconds = static_cast<double>(kTickMs) / 1000.0;
    for (std::size_t i = begin; i < end; ++i) {
      const double share = static_cast<double>(i - begin) / static_cast<double>(end - begin);
      arrivals.push_back((static_cast<double>(tick) + share) * tick_seconds);
    }
    begin = end;
  }
  return arrivals;
}

}  // namespace

Status read_mooncake(TextInput& input, const TraceReadOptions& options, TraceBuilder& builder) {
  std::vector<MooncakeRow> rows;
  bool all_on_ticks = true;
  const auto keep = [&](const JsonValue& object) -> Status {
    const Result<MooncakeRow> row = parse_row(object, input.name());
    PKV_RETURN_IF_ERROR(row);
    all_on_ticks = all_on_ticks && on_tick(row.value());
    rows.push_back(row.value());
    return {};
  };
  PKV_RETURN_IF_ERROR(for_each_json_line(input, is_wanted, keep));
  const bool spread = all_on_ticks && options.spread_ticks;
  const std::vector<double> spread_out = spread ? spread_arrivals(rows) : std::vector<double>();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double arrival = spread ? spread_out[i] : static_cast<double>(rows[i].timestamp_ms) / 1000.0;
    PKV_RETURN_IF_ERROR(
        builder.add({.arrival = arrival, .prompt_len = rows[i].input_length, .decode_len = rows[i].output_length},
                    input.name(), rows[i].line));
  }
  if (spread) {
    builder.add_note("arrivals lie on ticks of 3 s: the requests of a tick are spread evenly over it");
  }
  builder.start_at_first_arrival();
  return {};
}

}  // namespace pkv::trace_internal
