// Rows of comma-separated text, one character at a time.
// Not here: what a column means (the read_*.cc of each format).
#include "trace/csv_rows.h"

#include <fmt/format.h>

#include <optional>

#include "trace/names.h"
#include "trace/trace_builder.h"

namespace pkv::trace_internal {
namespace {

/// A quoted field that is still open after so many bytes is a quote that somebody forgot.
constexpr std::size_t kMaxQuotedBytes = std::size_t{1} << 20;

Error row_error(const TextInput& input, std::int64_t line, std::string message) {
  return {.code = ErrorCode::kIo, .message = std::move(message), .where = format_place(input.name(), line)};
}

/// Splits one row; a quoted field may take further lines from the input.
class RowSplitter {
 public:
  RowSplitter(TextInput& input, std::string_view line, CsvRow& row) : input_(input), rest_(line), row_(row) {}

  Status split() {
    bool more = true;
    while (more) {
      const std::size_t start = rest_.find_first_not_of(" \t");
      const bool quoted = start != std::string_view::npos && rest_[start] == '"';
      if (quoted) {
        rest_.remove_prefix(start + 1);
        PKV_RETURN_IF_ERROR(take_quoted());
      }
      const std::size_t comma = rest_.find(',');
      const std::string_view field = trimmed(rest_.substr(0, comma));
      if (quoted && !field.empty()) {
        return row_error(
            input_, input_.line_number(),
            fmt::format("\"{}\" after a closing quote, expected a comma or the end of the line", printable(field)));
      }
      if (!quoted) {
        row_.fields.emplace_back(field);
      }
      more = comma != std::string_view::npos;
      rest_.remove_prefix(more ? comma + 1 : rest_.size());
    }
    return {};
  }

 private:
  /// Two quotes inside a quoted field are one.
  Status take_quoted() {
    std::string field;
    for (;;) {
      const std::size_t quote = rest_.find('"');
      field.append(rest_.substr(0, quote));
      if (quote == std::string_view::npos) {
        PKV_RETURN_IF_ERROR(next_line(field));
        continue;
      }
      rest_.remove_prefix(quote + 1);
      if (!rest_.starts_with('"')) {
        break;
      }
      field.push_back('"');
      rest_.remove_prefix(1);
    }
    row_.fields.emplace_back(trimmed(field));
    return {};
  }

  Status next_line(std::string& field) {
    field.push_back('\n');
    Result<bool> more = field.size() > kMaxQuotedBytes ? Result<bool>(false) : input_.next_line(rest_);
    PKV_RETURN_IF_ERROR(more);
    if (!more.value()) {
      return row_error(input_, row_.line, "a quoted field that begins here is not closed, expected '\"'");
    }
    return {};
  }

  TextInput& input_;
  std::string_view rest_;
  CsvRow& row_;
};

}  // namespace

Result<bool> next_csv_row(TextInput& input, CsvRow& row) {
  row.fields.clear();
  std::string_view line;
  do {
    const Result<bool> more = input.next_line(line);
    if (!more.ok() || !more.value()) {
      return more;
    }
  } while (trimmed(line).empty());
  row.line = input.line_number();
  PKV_RETURN_IF_ERROR(RowSplitter(input, line, row).split());
  return true;
}

}  // namespace pkv::trace_internal
