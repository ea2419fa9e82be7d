// CSV in the paper's columns: prompt_len or prompt, decode_len or decode, optional arrival or arrival_step.
// Not here: publishers' CSV (read_azure2023.cc), writing (serialize.cc).
#include <fmt/format.h>

#include "trace/formats.h"
#include "trace/names.h"

namespace pkv::trace_internal {
namespace {

struct Columns {
  std::size_t prompt = CsvHeader::kNone;
  std::size_t decode = CsvHeader::kNone;
  std::size_t seconds = CsvHeader::kNone;
  std::size_t steps = CsvHeader::kNone;
};

Result<Columns> find_columns(const CsvHeader& header) {
  const auto prompt = header.require({"prompt_len", "prompt"});
  PKV_RETURN_IF_ERROR(prompt);
  const auto decode = header.require({"decode_len", "decode"});
  PKV_RETURN_IF_ERROR(decode);
  // Looked up together first: a file with both clocks is refused.
  const auto arrival = header.find({"arrival", "arrival_step"});
  PKV_RETURN_IF_ERROR(arrival);
  const auto steps = header.find({"arrival_step"});
  PKV_RETURN_IF_ERROR(steps);
  const bool in_seconds = arrival.value() != steps.value();
  return Columns{.prompt = prompt.value(),
                 .decode = decode.value(),
                 .seconds = in_seconds ? arrival.value() : CsvHeader::kNone,
                 .steps = steps.value()};
}

Result<double> parse_arrival(std::string_view text, ArrivalUnit unit, const FieldPlace& place) {
  const std::optional<double> value = parse_number(text);
  if (!value) {
    return field_error(place, text.empty() ? std::string("is empty, expected a number")
                                           : fmt::format("\"{}\" is not a number", printable(text)));
  }
  return check_arrival(*value, unit, place);
}

/// One data row against its header.
class RowParser {
 public:
  RowParser(const TextInput& input, const CsvHeader& header, const Columns& columns)
      : input_(input), header_(header), columns_(columns) {}

  [[nodiscard]] Result<Request> parse(const CsvRow& row) const {
    PKV_RETURN_IF_ERROR(header_.check_width(input_, row));
    const auto prompt = parse_tokens(row.fields[columns_.prompt], place(row, columns_.prompt));
    PKV_RETURN_IF_ERROR(prompt);
    const auto decode = parse_tokens(row.fields[columns_.decode], place(row, columns_.decode));
    PKV_RETURN_IF_ERROR(decode);
    const auto arrival = columns_.seconds != CsvHeader::kNone ? arrival_of(row, columns_.seconds, ArrivalUnit::kSeconds)
                         : columns_.steps != CsvHeader::kNone ? arrival_of(row, columns_.steps, ArrivalUnit::kSteps)
                                                              : Result<double>(0.0);
    PKV_RETURN_IF_ERROR(arrival);
    return Request{.arrival = arrival.value(), .prompt_len = prompt.value(), .decode_len = decode.value()};
  }

 private:
  [[nodiscard]] FieldPlace place(const CsvRow& row, std::size_t column) const {
    return {.file = input_.name(), .line = row.line, .field = header_.name(column)};
  }
  [[nodiscard]] Result<double> arrival_of(const CsvRow& row, std::size_t column, ArrivalUnit unit) const {
    return parse_arrival(row.fields[column], unit, place(row, column));
  }

  const TextInput& input_;
  const CsvHeader& header_;
  const Columns& columns_;
};

void describe_columns(const CsvHeader& header, const Columns& columns, TraceBuilder& builder) {
  std::string note = header.ignored_note({columns.prompt, columns.decode, columns.seconds, columns.steps});
  if (!note.empty()) {
    builder.add_note(std::move(note));
  }
  if (columns.seconds == CsvHeader::kNone) {
    builder.set_arrival_unit(ArrivalUnit::kSteps);
    if (columns.steps == CsvHeader::kNone) {
      builder.set_no_arrivals();
    }
  }
}

}  // namespace

Status read_csv(TextInput& input, TraceBuilder& builder) {
  const Result<CsvHeader> header = CsvHeader::read(input);
  PKV_RETURN_IF_ERROR(header);
  const Result<Columns> columns = find_columns(header.value());
  PKV_RETURN_IF_ERROR(columns);
  describe_columns(header.value(), columns.value(), builder);
  const RowParser parser(input, header.value(), columns.value());
  CsvRow row;
  for (;;) {
    const Result<bool> more = next_csv_row(input, row);
    PKV_RETURN_IF_ERROR(more);
    if (!more.value()) {
      return {};
    }
    const Result<Request> request = parser.parse(row);
    PKV_RETURN_IF_ERROR(request);
    PKV_RETURN_IF_ERROR(builder.add(request.value(), input.name(), row.line));
  }
}

}  // namespace pkv::trace_internal
