// Columns of a CSV header, looked up by name.
// Not here: rows (csv_rows.cc), what a column means (the read_*.cc of each format).
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "trace/formats.h"
#include "trace/names.h"

namespace pkv::trace_internal {
namespace {

std::string shown_columns(const std::vector<std::string>& fields) {
  return printable(fmt::format("{}", fmt::join(fields, ", ")), 200);
}

}  // namespace

Result<CsvHeader> CsvHeader::read(TextInput& input) {
  CsvHeader header;
  header.file_ = input.name();
  const Result<bool> found = next_csv_row(input, header.row_);
  PKV_RETURN_IF_ERROR(found);
  if (!found.value()) {
    return Error{.code = ErrorCode::kIo, .message = "is empty, expected a CSV header", .where = input.name()};
  }
  return header;
}

Result<std::size_t> CsvHeader::find(std::initializer_list<std::string_view> names) const {
  std::size_t found = kNone;
  for (std::size_t i = 0; i < row_.fields.size(); ++i) {
    if (std::find(names.begin(), names.end(), row_.fields[i]) == names.end()) {
      continue;
    }
    if (found != kNone) {
      return Error{.code = ErrorCode::kInvalidArgument,
                   .message = fmt::format("columns {} (\"{}\") and {} (\"{}\") mean the same, only one may be there",
                                          found + 1, row_.fields[found], i + 1, row_.fields[i]),
                   .where = format_place(file_, row_.line)};
    }
    found = i;
  }
  return found;
}

Result<std::size_t> CsvHeader::require(std::initializer_list<std::string_view> names) const {
  Result<std::size_t> found = find(names);
  if (found.ok() && found.value() == kNone) {
    return Error{.code = ErrorCode::kInvalidArgument,
                 .message = fmt::format("no column {}; the header has: {}", fmt::join(names, " or "),
                                        shown_columns(row_.fields)),
                 .where = format_place(file_, row_.line, *names.begin())};
  }
  return found;
}

Status CsvHeader::check_width(const TextInput& input, const CsvRow& row) const {
  if (row.fields.size() != row_.fields.size()) {
    return Error{.code = ErrorCode::kIo,
                 .message = fmt::format("{} fields, the header has {}", row.fields.size(), row_.fields.size()),
                 .where = format_place(input.name(), row.line)};
  }
  return {};
}

std::string CsvHeader::ignored_note(std::initializer_list<std::size_t> used) const {
  std::vector<std::string> ignored;
  for (std::size_t i = 0; i < row_.fields.size(); ++i) {
    if (std::find(used.begin(), used.end(), i) == used.end()) {
      ignored.push_back(row_.fields[i]);
    }
  }
  return ignored.empty() ? std::string() : fmt::format("columns ignored: {}", shown_columns(ignored));
}

}  // namespace pkv::trace_internal
