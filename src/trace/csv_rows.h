// Rows of comma-separated text: quotes, blank lines, quoted line breaks.
// Not here: what a column means (the read_*.cc of each format).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "persistentkv/result.h"
#include "trace/text_input.h"

namespace pkv::trace_internal {

struct CsvRow {
  /// Trimmed, without their quotes.
  std::vector<std::string> fields;
  /// Where the row begins.
  std::int64_t line = 0;
};

/// Passes over blank lines; false at the end of the text.
/// Errors: kIo (a quote that is not closed, text after a closing quote) with file and line.
Result<bool> next_csv_row(TextInput& input, CsvRow& row);

}  // namespace pkv::trace_internal
