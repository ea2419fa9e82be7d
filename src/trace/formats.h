// One function a file format; readers.cc detects the format and calls one of them.
// Not here: detection (readers.cc).
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>

#include "persistentkv/result.h"
#include "trace/csv_rows.h"
#include "trace/input_file.h"
#include "trace/json_value.h"
#include "trace/readers.h"
#include "trace/text_input.h"
#include "trace/trace_builder.h"

namespace pkv::trace_internal {

/// Columns of a CSV header, looked up by name.
class CsvHeader {
 public:
  /// Errors: those of next_csv_row, kIo (no header).
  static Result<CsvHeader> read(TextInput& input);

  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  /// Index of the one column that has one of the names, kNone without.
  /// Errors: kInvalidArgument (two columns that mean the same).
  Result<std::size_t> find(std::initializer_list<std::string_view> names) const;
  /// As find, but kInvalidArgument without, listing the columns there are.
  Result<std::size_t> require(std::initializer_list<std::string_view> names) const;
  [[nodiscard]] std::string_view name(std::size_t column) const { return row_.fields[column]; }
  /// Errors: kIo when a row has another number of fields.
  Status check_width(const TextInput& input, const CsvRow& row) const;
  /// "columns ignored: a, b" for those not in `used`; empty without any.
  [[nodiscard]] std::string ignored_note(std::initializer_list<std::size_t> used) const;

 private:
  std::string file_;
  CsvRow row_;
};

/// The paper's columns. Errors of all: as read_trace.
Status read_csv(TextInput& input, TraceBuilder& builder);
Status read_json(TextInput& input, TraceBuilder& builder);
Status read_json_lines(TextInput& input, TraceBuilder& builder);
/// Publishers' formats.
Status read_azure2023(TextInput& input, TraceBuilder& builder);
Status read_mooncake(TextInput& input, const TraceReadOptions& options, TraceBuilder& builder);
Status read_coding_sessions(TextInput& input, const TraceReadOptions& options, TraceBuilder& builder);
/// `file` is a folder or an archive of pairs chunk-N-trace.csv, chunk-N-dataset.json.
Status read_servegen(const InputFile& file, const TraceReadOptions& options, TraceBuilder& builder);
/// Whether a file name is one of a ServeGen pair.
bool is_servegen_file(std::string_view file_name);

/// Calls `on_object` with the object on each line that is not blank. Errors: as parse_json, those of
/// on_object, kInvalidArgument for a line that is no object.
Status for_each_json_line(TextInput& input, const std::function<bool(std::string_view)>& wanted,
                          const std::function<Status(const JsonValue&)>& on_object);

}  // namespace pkv::trace_internal
