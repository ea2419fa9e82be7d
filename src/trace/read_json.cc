// JSON and JSON lines in the paper's columns, with the same names as in CSV.
// Not here: publishers' JSON (read_mooncake.cc, read_coding_sessions.cc), writing (serialize.cc).
#include <fmt/format.h>

#include <array>
#include <optional>

#include "trace/formats.h"
#include "trace/json_fields.h"
#include "trace/names.h"

namespace pkv::trace_internal {
namespace {

enum class Clock : std::uint8_t { kNone, kSeconds, kSteps };

bool is_wanted(std::string_view name) {
  return name == "requests" || name == "prompt_len" || name == "prompt" || name == "decode_len" || name == "decode" ||
         name == "arrival" || name == "arrival_step";
}

/// Adds records; the first one decides which clock the file has.
class RecordReader {
 public:
  RecordReader(std::string_view file, TraceBuilder& builder) : file_(file), builder_(builder) {}

  Status add(const JsonValue& record) {
    const Result<Clock> clock = clock_of(record);
    PKV_RETURN_IF_ERROR(clock);
    if (!clock_) {
      settle(clock.value());
    }
    if (*clock_ != clock.value()) {
      return field_error({.file = file_, .line = record.line, .field = "arrival"},
                         fmt::format("this request has {}, the first one has {}; all must have the same",
                                     clock_field(clock.value()), clock_field(*clock_)));
    }
    const auto prompt = tokens(record, {"prompt_len", "prompt"});
    PKV_RETURN_IF_ERROR(prompt);
    const auto decode = tokens(record, {"decode_len", "decode"});
    PKV_RETURN_IF_ERROR(decode);
    const auto arrival = *clock_ == Clock::kSeconds ? json_arrival(record, "arrival", ArrivalUnit::kSeconds, file_)
                         : *clock_ == Clock::kSteps ? json_arrival(record, "arrival_step", ArrivalUnit::kSteps, file_)
                                                    : Result<double>(0.0);
    PKV_RETURN_IF_ERROR(arrival);
    return builder_.add({.arrival = arrival.value(), .prompt_len = prompt.value(), .decode_len = decode.value()}, file_,
                        record.line);
  }

 private:
  static std::string_view clock_field(Clock clock) {
    switch (clock) {
      case Clock::kNone: return "no arrival";
      case Clock::kSeconds: return "arrival";
      case Clock::kSteps: return "arrival_step";
    }
    return "?";
  }

  [[nodiscard]] Result<Clock> clock_of(const JsonValue& record) const {
    const bool seconds = record.find("arrival") != nullptr;
    const bool steps = record.find("arrival_step") != nullptr;
    if (seconds && steps) {
      return field_error({.file = file_, .line = record.line, .field = "arrival"},
                         "arrival and arrival_step mean the same, only one may be there");
    }
    return seconds ? Clock::kSeconds : steps ? Clock::kSteps : Clock::kNone;
  }

  void settle(Clock clock) {
    clock_ = clock;
    if (clock != Clock::kSeconds) {
      builder_.set_arrival_unit(ArrivalUnit::kSteps);
    }
    if (clock == Clock::kNone) {
      builder_.set_no_arrivals();
    }
  }

  [[nodiscard]] Result<std::int32_t> tokens(const JsonValue& record, std::array<std::string_view, 2> names) const {
    const bool first = record.find(names[0]) != nullptr;
    const bool second = record.find(names[1]) != nullptr;
    if (first && second) {
      return field_error({.file = file_, .line = record.line, .field = names[0]},
                         fmt::format("{} and {} mean the same, only one may be there", names[0], names[1]));
    }
    return json_tokens(record, second ? names[1] : names[0], file_);
  }

  std::string_view file_;
  TraceBuilder& builder_;
  std::optional<Clock> clock_;
};

}  // namespace

Status read_json(TextInput& input, TraceBuilder& builder) {
  const std::int64_t first_line = input.next_line_number();
  const Result<std::string> document = input.read_rest();
  PKV_RETURN_IF_ERROR(document);
  RecordReader reader(input.name(), builder);
  return for_each_json_record(
      {.text = document.value(), .file = input.name(), .first_line = first_line, .wanted = is_wanted},
      [&](const JsonValue& record) { return reader.add(record); });
}

Status for_each_json_line(TextInput& input, const std::function<bool(std::string_view)>& wanted,
                          const std::function<Status(const JsonValue&)>& on_object) {
  std::string_view line;
  for (;;) {
    const Result<bool> more = input.next_line(line);
    PKV_RETURN_IF_ERROR(more);
    if (!more.value()) {
      return {};
    }
    if (trimmed(line).empty()) {
      continue;
    }
    const Result<JsonValue> value =
        parse_json({.text = line, .file = input.name(), .first_line = input.line_number(), .wanted = wanted});
    PKV_RETURN_IF_ERROR(value);
    if (value->kind != JsonKind::kObject) {
      return Error{.code = ErrorCode::kInvalidArgument,
                   .message = fmt::format("the line is {}, expected an object", json_kind_name(value->kind)),
                   .where = input.place()};
    }
    PKV_RETURN_IF_ERROR(on_object(value.value()));
  }
}

Status read_json_lines(TextInput& input, TraceBuilder& builder) {
  RecordReader reader(input.name(), builder);
  return for_each_json_line(input, is_wanted, [&](const JsonValue& record) { return reader.add(record); });
}

}  // namespace pkv::trace_internal
